"""Checkpoints: what a trainer captures, and the stores on disk and in memory."""

from ecdctr.state.checkpoints.disk import CheckpointStore
from ecdctr.state.checkpoints.memory import MemoryCheckpointStore
from ecdctr.state.checkpoints.protocol import (
    Capture,
    CheckpointInfo,
    CheckpointStoreLike,
    Loaded,
    Rows,
    merge_rows,
)

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
