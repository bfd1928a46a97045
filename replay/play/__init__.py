"""Replaying a log through the engine: one arm or several arms side by side on the same batches."""

from ecdctr.replay.play.arms import MergedScores, SideBySide
from ecdctr.replay.play.buffered_scores import BufferedScores
from ecdctr.replay.play.frozen import FrozenArm
from ecdctr.replay.play.player import Playback, ProgressCallback, play, redo
from ecdctr.replay.play.row_notes import RowNotes
from ecdctr.replay.play.stream_gaps import StreamGaps

__all__ = [
    "BufferedScores",
    "FrozenArm",
    "MergedScores",
    "Playback",
    "ProgressCallback",
    "RowNotes",
    "SideBySide",
    "StreamGaps",
    "play",
    "redo",
]
