"""``RocksEmbeddingStore``: reads and writes the TPM snapshots of a folder; recently used vectors are cached in memory."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import FormatError, SnapshotDamagedError, StateError
from ecdctr.state.hashing import mix64
from ecdctr.state.snapshots.base import MonthlyStore, distinct, union_chunks
from ecdctr.state.snapshots.database import VectorDb
from ecdctr.state.snapshots.protocol import KINDS, Kind, SnapshotManifest, Vectors
from ecdctr.state.snapshots.snapshot import (
    check_files,
    file_stamps,
    month_names,
    read_manifest,
    write_snapshot,
)
from ecdctr.state.vector_cache import VectorCache

__all__ = ["RocksEmbeddingStore"]

_OPEN_MONTHS = 12  # largest number of RocksDB databases that are kept open
_log = logging.getLogger("ecdctr.tpm")


class _OpenMonth:
    """An open snapshot with one cache for users and one for items."""

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
            vectors_found, is_found = self._db.get(KINDS.index(kind), ids[missing])
            vectors[missing], present[missing] = vectors_found, is_found
            cache.put(ids[missing], vectors_found, is_found, hashed[missing])
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

    The checksums of all files of a month are verified before its first vector is returned: RocksDB opens a database whose own list of
    files is cut as one with fewer vectors. Any number of processes may read. Only the owner of the state folder writes; snapshots are immutable unless ``replace`` is set.

    Parameters
    ----------
    folder
        Created at the first write.
    cache_rows
        Number of cached vectors per month and kind (user, item), rounded up to a power of two.
    """

    def __init__(self, folder: Path, cache_rows: int = 1 << 18) -> None:
        self.folder = Path(folder)
        self._cache_rows = cache_rows
        self._manifests: dict[str, tuple[int, SnapshotManifest]] = {}
        self._open: OrderedDict[str, _OpenMonth] = OrderedDict()
        self._checked: dict[str, tuple[object, str | None]] = {}
        self._passed_over: dict[str, str] = {}
        self._lock = threading.RLock()

    def names(self) -> list[str]:
        """Names of all folders that may be months, in ascending order, whether they are whole snapshots or not."""
        return sorted(month_names(self.folder))

    def months(self) -> list[str]:
        """Months that have a snapshot, in ascending order of their most recent training row."""
        found = []
        for month in month_names(self.folder):
            try:
                found.append((self.manifest(month).last_ts, month))
            except (SnapshotDamagedError, FormatError) as error:
                self._pass_over(month, error)
        return [month for _, month in sorted(found)]

    def _pass_over(self, month: str, error: StateError) -> None:
        if self._passed_over.get(month) != str(error):
            self._passed_over[month] = str(error)
            _log.error("%s. It is passed over", error)

    def manifest(self, month: str) -> SnapshotManifest:
        """Description of the month's snapshot; StateError when there is none."""
        path = self.folder / month
        # A snapshot that replaced another one is another folder: its manifest is read again.
        inode = path.stat().st_ino if path.exists() else 0
        known = self._manifests.get(month)
        if known is None or known[0] != inode:
            known = self._manifests[month] = inode, read_manifest(path)
        return known[1]

    def write(
        self, month: str, dim: int, last_ts: int, users: Vectors, items: Vectors, **more: Any
    ) -> SnapshotManifest:
        """Write a month; arguments as in :func:`ecdctr.state.snapshots.snapshot.write_snapshot`."""
        with self._lock:
            if more.get("replace") and month in self._open:
                self._open.pop(month).close()
            return write_snapshot(self.folder, month, dim, last_ts, users, items, **more)

    def lookup(
        self, kind: Kind, ids: NDArray[np.uint64], months: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Look up vectors; ``ids`` may be in any order and contain duplicates.

        Returns
        -------
        vectors, present
            float32 ``(n, K, d)``, zeros where absent, and bool ``(n, K)``, for ``K`` months.
        """
        unique, inverse = distinct(ids)
        hashed = mix64(unique)
        vectors = np.empty((len(unique), len(months), self.dim(months)), np.float32)
        present = np.empty((len(unique), len(months)), np.bool_)
        with self._lock:
            for k, month in enumerate(months):
                vectors[:, k], present[:, k] = self._month(month).get(kind, unique, hashed)
        return (vectors, present) if inverse is None else (vectors[inverse], present[inverse])

    def iter_ids(self, kind: Kind, months: Sequence[str], rows: int = 65_536) -> Iterator[NDArray[np.uint64]]:
        """Iterate over all distinct ids of the months in ascending order, in chunks of at most ``rows * len(months)``."""
        with self._lock:
            tables = [self._month(month).ids(kind) for month in months]
        yield from union_chunks(tables, rows)

    def scan(
        self, kind: Kind, months: Sequence[str], rows: int = 65_536
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.bool_]]]:
        """Iterate over all ids as :meth:`iter_ids` does, with vectors and presence as :meth:`lookup` returns them.

        Use it to read whole tables: the databases are read sequentially, which is much faster than :meth:`lookup`, and the caches
        are not filled.
        """
        dim = self.dim(months)
        with self._lock:
            tables = [self._month(month).ids(kind) for month in months]
        # Opened separately, so that the scan holds no lock. The files were checked above.
        dbs = [VectorDb(self.folder / month / "db", dim) for month in months]
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

    def check(self, month: str) -> None:
        """As :meth:`verify`, but the files are read again only if one of them has changed since the last call."""
        path = self.folder / month
        stamps = file_stamps(path)
        known = self._checked.get(month)
        if known is None or known[0] != stamps:
            error = None
            try:
                check_files(path)
            except SnapshotDamagedError as found:
                error = str(found)
            known = self._checked[month] = stamps, error
        if known[1] is not None:
            raise SnapshotDamagedError(known[1])

    def verify(self, month: str) -> None:
        """Verify all checksums of a month; the message of SnapshotDamagedError contains the damaged file."""
        check_files(self.folder / month)

    def close(self) -> None:
        """Close all months; later calls open them again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _month(self, month: str) -> _OpenMonth:
        """The open month; if more than ``_OPEN_MONTHS`` are open, the least recently used ones are closed."""
        found = self._open.pop(month, None)
        if found is None:
            self.check(month)
            found = _OpenMonth(self.folder / month, self.manifest(month), self._cache_rows)
        self._open[month] = found
        while len(self._open) > _OPEN_MONTHS:
            self._open.popitem(last=False)[1].close()
        return found
