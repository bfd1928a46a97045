"""Sinks for the months of a running stream: a background writer, and a comparison with the months on disk."""

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
    """Writes snapshots in a background thread; callers that depend on them wait in :meth:`settle`.

    A month that has other content on disk is not replaced: every release that was made with it remains reproducible.

    Parameters
    ----------
    store
        Used by the background thread alone: readers that share the store would wait for the write.
    background
        False: :meth:`write` returns when the month is on disk.
    """

    def __init__(self, store: EmbeddingStore, *, background: bool = True) -> None:
        self._store, self._background = store, background
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._pending: dict[str, partial[SnapshotManifest]] = {}
        self._running: dict[str, Future[None]] = {}
        self._lock = threading.Lock()

    def write(
        self, month: str, dim: int, last_ts: int, users: Vectors, items: Vectors, **more: Any
    ) -> SnapshotManifest | None:
        """Schedule the write of a month; the arrays must not change afterwards."""
        with self._lock:
            self._pending[month] = partial(self._store.write, month, dim, last_ts, users, items, **more)
            self._running[month] = self._pool.submit(self._write, month)
        if not self._background:
            self.settle()
        return None

    @property
    def pending(self) -> tuple[str, ...]:
        """Months that are not on disk yet."""
        with self._lock:
            return tuple(self._pending)

    def settle(self, months: Sequence[str] | None = None) -> None:
        """Wait until all scheduled months (or those in ``months``) are on disk; a failed write is repeated once.

        Raises
        ------
        StateError
            The write failed again (disk full). The month remains pending: call again.
        """
        with self._lock:
            scheduled = [m for m in self._pending if months is None or m in months]
        for month in scheduled:
            try:
                self._running[month].result()
            except StateError:
                with self._lock:
                    again = self._running[month] = self._pool.submit(self._write, month)
                again.result()

    def close(self) -> None:
        """Wait for the current write, and close the store; further pending months are not written."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._store.close()

    def _write(self, month: str) -> None:
        began = time.perf_counter()
        with self._lock:
            write = self._pending.get(month)
        if write is None:
            return
        try:
            found = write()
            log.info(
                "TPM month %s: snapshot of %s users and %s items, written in %.2f s in the background",
                month, f"{found.rows['user']:,}", f"{found.rows['item']:,}", time.perf_counter() - began,
            )  # fmt: skip
        except SnapshotExistsError as error:
            log.error("TPM month %s: the existing snapshot is retained: %s", month, error)
        except ValueError as error:  # permanent: another try would fail, too
            log.error("TPM month %s has no snapshot: %s", month, error)
        with self._lock:
            self._pending.pop(month, None)


class SnapshotCheck:
    """Writes nothing: compares months with those of a store.

    Attributes
    ----------
    differences
        One message for each month whose snapshot on disk has other content.
    """

    def __init__(self, store: EmbeddingStore | None) -> None:
        self._store = store
        self.differences: list[str] = []

    def write(
        self, month: str, dim: int, last_ts: int, users: Vectors, items: Vectors, **more: Any
    ) -> SnapshotManifest | None:
        """Compare a month with the store's; a month that the store does not have is ignored."""
        if self._store is None or month not in self._store.months():
            return None
        wanted, _ = describe(month, dim, last_ts, users, items, **more)
        found = self._store.manifest(month)
        if (found.checksum, found.last_ts) != (wanted.checksum, wanted.last_ts):
            self.differences.append(
                f"snapshot {month} has checksum {found.checksum} on disk, {wanted.checksum} when trained again"
            )
        return None

    def settle(self, months: Sequence[str] | None = None) -> None:
        """No effect: nothing is pending."""

    def close(self) -> None:
        """No effect: nothing is open."""
