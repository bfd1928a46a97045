"""TPM: the tiny pre-training model, its months, and the readers of its frozen snapshots."""

from ecdctr.models.tpm.live import LiveSink, LiveTpm, tpm_shape
from ecdctr.models.tpm.readers import HistoryReader, MergedHistory, SnapshotHistory
from ecdctr.models.tpm.trainer import SnapshotSink, TpmTrainer

__all__ = [
    "HistoryReader",
    "LiveSink",
    "LiveTpm",
    "MergedHistory",
    "SnapshotHistory",
    "SnapshotSink",
    "TpmTrainer",
    "tpm_shape",
]
