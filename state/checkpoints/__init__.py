"""Checkpoints: what a trainer captures, and the stores that keep it on disk or in memory."""

from ecdctr.state.checkpoints.capture import Capture, CheckpointInfo, Loaded, Rows, merge_rows
from ecdctr.state.checkpoints.disk import CheckpointStore, CheckpointStoreLike
from ecdctr.state.checkpoints.memory import MemoryCheckpointStore

__all__ = [
    "Capture",
    "CheckpointInfo",
    "CheckpointStore",
    "CheckpointStoreLike",
    "Loaded",
    "MemoryCheckpointStore",
    "Rows",
    "merge_rows",
]
