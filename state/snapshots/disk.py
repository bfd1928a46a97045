"""``RocksEmbeddingStore``: snapshots in one folder, opened read-only, with frequent rows cached in arrays."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import SnapshotDamagedError
from ecdctr.state.hashing import mix64
from ecdctr.state.snapshots.base import MonthlyStore, distinct, union_chunks
from ecdctr.state.snapshots.database import VectorDb
from ecdctr.state.snapshots.protocol import KINDS, Kind, SnapshotManifest, Vectors
from ecdctr.state.snapshots.snapshot import (
    check_files,
    month_names,
    read_manifest,
    write_snapshot,
)
from ecdctr.state.vector_cache import VectorCache

__all__ = ["RocksEmbeddingStore"]

_OPEN_MONTHS = 12


class _OpenMonth:
    """An open snapshot with a cache for each kind."""

    def __init__(self, path: Path, manifest: SnapshotManifest, cache_rows: int) -> None:
        self.path = path
        self._dim = manifest.dim
        self._db = VectorDb(path / "db", manifest.dim)
        self._caches = {kind: VectorCache(cache_rows, manifest.dim) for kind in KINDS}

    def get(
        self, kind: Kind, ids: NDArray[np.uint64], hashed: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        cache = self._caches[kind]
        vectors, present, missing = cache.get(ids, hashed)
        if len(missing):
            found, there = self._db.get(KINDS.index(kind), ids[missing])
            vectors[missing], present[missing] = found, there
            cache.put(ids[missing], found, there, hashed[missing])
        return vectors, present

    def ids(self, kind: Kind) -> NDArray[np.uint64]:
        path = self.path / f"ids-{kind}.npy"
        try:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError) as error:
            raise SnapshotDamagedError(f"snapshot {self.path} is damaged: {path.name}: {error}") from error

    def close(self) -> None:
        self._db.close()


class RocksEmbeddingStore(MonthlyStore):
    """All snapshots of one folder; see :class:`EmbeddingStore` for the contract.

    Any number of processes may read. Only the owner of the state folder writes; snapshots are immutable unless ``replace`` is set.

    Parameters
    ----------
    folder
        Created at the first write.
    cache_rows
        Rows cached in memory for each kind and open month, rounded up to a power of two.
    """

    def __init__(self, folder: Path, cache_rows: int = 1 << 18) -> None:
        self.folder = Path(folder)
        self._cache_rows = cache_rows
        self._manifests: dict[str, tuple[int, SnapshotManifest]] = {}
        self._open: OrderedDict[str, _OpenMonth] = OrderedDict()
        self._busy = threading.RLock()

    def months(self) -> list[str]:
        """Months that have a snapshot, by youngest training row, oldest first."""
        return sorted(month_names(self.folder), key=lambda month: (self.manifest(month).last_ts, month))

    def manifest(self, month: str) -> SnapshotManifest:
        """Description of the month's snapshot; StateError when there is none."""
        path = self.folder / month
        inode = path.stat().st_ino if path.exists() else 0
        known = self._manifests.get(month)
        if known is None or known[0] != inode:
            known = self._manifests[month] = inode, read_manifest(path)
        return known[1]

    def write(
        self, month: str, dim: int, last_ts: int, users: Vectors, items: Vectors, **more: Any
    ) -> SnapshotManifest:
        """See :func:`ecdctr.state.snapshots.snapshot.write_snapshot`."""
        with self._busy:
            if more.get("replace") and month in self._open:
                self._open.pop(month).close()
            return write_snapshot(self.folder, month, dim, last_ts, users, items, **more)

    def lookup(
        self, kind: Kind, ids: NDArray[np.uint64], months: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors ``(n, K, d)``, zeros where absent, and presence ``(n, K)``, for ids in any order that may repeat."""
        unique, inverse = distinct(ids)
        hashed = mix64(unique)
        vectors = np.empty((len(unique), len(months), self.dim(months)), np.float32)
        present = np.empty((len(unique), len(months)), np.bool_)
        with self._busy:
            for k, month in enumerate(months):
                vectors[:, k], present[:, k] = self._month(month).get(kind, unique, hashed)
        return (vectors, present) if inverse is None else (vectors[inverse], present[inverse])

    def iter_ids(self, kind: Kind, months: Sequence[str], rows: int = 65_536) -> Iterator[NDArray[np.uint64]]:
        """All ids that any of the months holds, each once, ascending, in pieces of bounded size."""
        with self._busy:
            tables = [self._month(month).ids(kind) for month in months]
        yield from union_chunks(tables, rows)

    def scan(
        self, kind: Kind, months: Sequence[str], rows: int = 65_536
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.bool_]]]:
        """Ids as of :meth:`iter_ids` with their vectors and presence as of :meth:`lookup`, read in sequence.

        Much faster than look-ups, and leaves the caches unchanged: for whole tables.
        """
        dim = self.dim(months)
        with self._busy:
            tables = [self._month(month).ids(kind) for month in months]
        dbs = [
            VectorDb(self.folder / month / "db", dim) for month in months
        ]  # opened separately, so that the scan holds no lock
        try:
            scans = [db.scan(KINDS.index(kind)) for db in dbs]
            at = [0] * len(months)
            for ids in union_chunks(tables, rows):
                vectors = np.zeros((len(ids), len(months), dim), np.float32)
                present = np.zeros((len(ids), len(months)), np.bool_)
                for k, table in enumerate(tables):
                    block = table[at[k] : at[k] + len(ids)]
                    block = block[: np.searchsorted(block, ids[-1], side="right")]
                    where = np.searchsorted(ids, block)
                    vectors[where, k], present[where, k] = scans[k].take(len(block)), True
                    at[k] += len(block)
                yield ids, vectors, present
        finally:
            for db in dbs:
                db.close()

    def verify(self, month: str) -> None:
        """Verify every byte of a month; SnapshotDamagedError names the damaged file."""
        check_files(self.folder / month)

    def close(self) -> None:
        """Close all months; later calls open them again."""
        with self._busy:
            while self._open:
                self._open.popitem()[1].close()

    def _month(self, month: str) -> _OpenMonth:
        found = self._open.pop(month, None)
        if found is None:
            found = _OpenMonth(self.folder / month, self.manifest(month), self._cache_rows)
        self._open[month] = found
        while len(self._open) > _OPEN_MONTHS:
            self._open.popitem(last=False)[1].close()
        return found
