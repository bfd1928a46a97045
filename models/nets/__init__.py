"""Networks and their parts: embedding tables, input encoding, historical attention, batch norm, kernels."""

from ecdctr.models.nets.batch_norm import BatchNorm
from ecdctr.models.nets.device import choose_device, use_threads
from ecdctr.models.nets.dirty_rows import DirtyRows
from ecdctr.models.nets.embedding_table import EmbeddingTable, RowBackup, RowUndo, gradient_of
from ecdctr.models.nets.flat_parameters import FlatModule, FlatUndo, initialise
from ecdctr.models.nets.historical_attention import FrozenHistory, HistoricalAttention
from ecdctr.models.nets.id_map import IdMap
from ecdctr.models.nets.input_encoder import Encoded, InputEncoder, TableLayout
from ecdctr.models.nets.network import MAX_LOSS, CtrNet, HistoryInput, embed, is_batch_norm

__all__ = [
    "MAX_LOSS",
    "BatchNorm",
    "CtrNet",
    "DirtyRows",
    "EmbeddingTable",
    "Encoded",
    "FlatModule",
    "FlatUndo",
    "FrozenHistory",
    "HistoricalAttention",
    "HistoryInput",
    "IdMap",
    "InputEncoder",
    "RowBackup",
    "RowUndo",
    "TableLayout",
    "choose_device",
    "embed",
    "gradient_of",
    "initialise",
    "is_batch_norm",
    "use_threads",
]
