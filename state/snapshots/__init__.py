"""TPM snapshots: frozen user and item embeddings, one immutable RocksDB folder per month."""

from ecdctr.state.snapshots.disk import RocksEmbeddingStore
from ecdctr.state.snapshots.memory import MemoryEmbeddingStore
from ecdctr.state.snapshots.protocol import EmbeddingStore, Kind, SnapshotManifest, Vectors
from ecdctr.state.snapshots.snapshot import link_snapshots, write_snapshot
from ecdctr.state.snapshots.writer import SnapshotCheck, SnapshotWriter

__all__ = [
    "EmbeddingStore",
    "Kind",
    "MemoryEmbeddingStore",
    "RocksEmbeddingStore",
    "SnapshotCheck",
    "SnapshotManifest",
    "SnapshotWriter",
    "Vectors",
    "link_snapshots",
    "write_snapshot",
]
