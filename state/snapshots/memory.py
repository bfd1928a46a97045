"""``MemoryEmbeddingStore``: the in-memory double of the snapshot store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import StateError
from ecdctr.state.snapshots.base import MonthlyStore, describe, distinct, same_or_refuse, union_chunks
from ecdctr.state.snapshots.protocol import Kind, SnapshotManifest, Vectors

__all__ = ["MemoryEmbeddingStore"]


class MemoryEmbeddingStore(MonthlyStore):
    """Snapshots in memory, for tests and for runs without a state folder."""

    def __init__(self) -> None:
        self._snapshots: dict[str, tuple[SnapshotManifest, dict[Kind, Vectors]]] = {}

    def months(self) -> list[str]:
        return sorted(self._snapshots, key=lambda month: (self._snapshots[month][0].last_ts, month))

    def manifest(self, month: str) -> SnapshotManifest:
        if month not in self._snapshots:
            raise StateError(f"there is no snapshot {month!r}")
        return self._snapshots[month][0]

    def write(
        self,
        month: str,
        dim: int,
        last_ts: int,
        users: Vectors,
        items: Vectors,
        *,
        replace: bool = False,
        **more: Any,
    ) -> SnapshotManifest:
        manifest, tables = describe(month, dim, last_ts, users, items, **more)
        if month in self._snapshots and not replace:
            return same_or_refuse(self._snapshots[month][0], manifest)
        self._snapshots[month] = manifest, {kind: (ids.copy(), v.copy()) for kind, (ids, v) in tables.items()}
        return manifest

    def lookup(
        self, kind: Kind, ids: NDArray[np.uint64], months: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        unique, inverse = distinct(ids)
        vectors = np.zeros((len(unique), len(months), self.dim(months)), np.float32)
        present = np.zeros((len(unique), len(months)), np.bool_)
        for k, month in enumerate(months):
            known, rows = self._snapshots[month][1][kind]
            if len(known) == 0:
                continue
            at = np.minimum(np.searchsorted(known, unique), len(known) - 1)
            present[:, k] = known[at] == unique
            vectors[:, k] = np.where(present[:, k, None], rows[at], 0)
        return (vectors, present) if inverse is None else (vectors[inverse], present[inverse])

    def iter_ids(self, kind: Kind, months: Sequence[str], rows: int = 65_536) -> Iterator[NDArray[np.uint64]]:
        self.dim(months)
        yield from union_chunks([self._snapshots[month][1][kind][0] for month in months], rows)

    def scan(
        self, kind: Kind, months: Sequence[str], rows: int = 65_536
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.bool_]]]:
        for ids in self.iter_ids(kind, months, rows):
            yield ids, *self.lookup(kind, ids, months)

    def check(self, month: str) -> None:
        self.manifest(month)

    def verify(self, month: str) -> None:
        self.manifest(month)

    def close(self) -> None:
        pass
