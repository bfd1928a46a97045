"""Where the months of a running stream go: to the disk beside training, or only beside what stands there."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from ecdctr.state.errors import SnapshotExistsError, StateError
from ecdctr.state.snapshots.base import describe
from ecdctr.state.snapshots.protocol import EmbeddingStore, SnapshotManifest, Vectors

__all__ = ["SnapshotCheck", "SnapshotWriter"]

log = logging.getLogger("ecdctr.tpm")


class SnapshotWriter:
    """Writes snapshots in a thread of its own; whoever must not run ahead of them waits by :meth:`settle`.

    A month that has other content on disk keeps it: whatever was made with it stays true.

    Parameters
    ----------
    store
        Used by this thread alone: a store that others read from would make them wait for the write.
    beside
        False: write at once, in the caller's thread.
    """

    def __init__(self, store: EmbeddingStore, *, beside: bool = True) -> None:
        self._store, self._beside = store, beside
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._owed: dict[str, partial[SnapshotManifest]] = {}
        self._running: dict[str, Future[None]] = {}
        self._busy = threading.Lock()

    def write(
        self, month: str, dim: int, last_ts: int, users: Vectors, items: Vectors, **more: Any
    ) -> SnapshotManifest | None:
        """Take a month over; the arrays must not change any more."""
        with self._busy:
            self._owed[month] = partial(self._store.write, month, dim, last_ts, users, items, **more)
            self._running[month] = self._pool.submit(self._write, month)
        if not self._beside:
            self.settle()
        return None

    @property
    def owed(self) -> tuple[str, ...]:
        """Months that do not stand on disk yet."""
        with self._busy:
            return tuple(self._owed)

    def settle(self, months: Sequence[str] | None = None) -> None:
        """Return when all months taken over so far (or those named) stand on disk; one that failed is tried again.

        Raises
        ------
        StateError
            It failed again (a full disk). It is still owed: ask again.
        """
        with self._busy:
            waiting = [m for m in self._owed if months is None or m in months]
        for month in waiting:
            try:
                self._running[month].result()
            except StateError:
                with self._busy:
                    again = self._running[month] = self._pool.submit(self._write, month)
                again.result()

    def close(self) -> None:
        """Let the write in flight end."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._store.close()

    def _write(self, month: str) -> None:
        began = time.perf_counter()
        with self._busy:
            write = self._owed.get(month)
        if write is None:
            return
        try:
            found = write()
            log.info(
                "TPM month %s: snapshot of %s users and %s items, written in %.2f s beside training",
                month, f"{found.rows['user']:,}", f"{found.rows['item']:,}", time.perf_counter() - began,
            )  # fmt: skip
        except SnapshotExistsError as error:
            log.error("TPM month %s keeps the snapshot that it has: %s", month, error)
        except ValueError as error:  # never will be one, however often it is tried
            log.error("TPM month %s has no snapshot: %s", month, error)
        with self._busy:
            self._owed.pop(month, None)


class SnapshotCheck:
    """Writes nothing: compares months with those that a store has.

    Attributes
    ----------
    differences
        A sentence for each month whose snapshot on disk has other content.
    """

    def __init__(self, store: EmbeddingStore | None) -> None:
        self._store = store
        self.differences: list[str] = []

    def write(
        self, month: str, dim: int, last_ts: int, users: Vectors, items: Vectors, **more: Any
    ) -> SnapshotManifest | None:
        """Compare a month."""
        if self._store is None or month not in self._store.months():
            return None
        wanted, _ = describe(month, dim, last_ts, users, items, **more)
        found = self._store.manifest(month)
        if (found.checksum, found.last_ts) != (wanted.checksum, wanted.last_ts):
            self.differences.append(
                f"snapshot {month} has checksum {found.checksum} on disk, {wanted.checksum} when made again"
            )
        return None

    def settle(self, months: Sequence[str] | None = None) -> None:
        """Nothing is owed."""

    def close(self) -> None:
        """Nothing is open."""
