"""Readers of the TPM snapshots: the vectors of a batch's users and items, month by month."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.models.nets import FrozenHistory, HistoricalAttention, HistoryInput
from ecdctr.state.errors import ConfigError, PointInTimeError
from ecdctr.state.snapshots import EmbeddingStore
from ecdctr.state.vector_cache import VectorCache

__all__ = ["HistoryReader", "Kind", "MergedHistory", "SnapshotHistory", "check_point_in_time"]

Kind = Literal["user", "item"]


def check_point_in_time(store: EmbeddingStore, months: Sequence[str], clock_ms: int) -> NDArray[np.int64]:
    """Latest event time of the training rows of each month; checks that all of them are before the clock.

    Raises
    ------
    PointInTimeError
        A snapshot was trained on rows that are not older than ``clock_ms``.
    """
    last = np.array([store.manifest(month).last_ts for month in months], np.int64)
    for month, ts in zip(months, last.tolist(), strict=True):
        if ts >= clock_ms:
            raise PointInTimeError(
                f"snapshot {month} was trained on rows up to {ts} ms, the event clock is {clock_ms} ms: a row "
                "must not read a snapshot that was trained on later rows; select snapshots by the event clock"
            )
    return last


class HistoryReader(Protocol):
    """Looks up the TPM history of a batch for an arm."""

    @property
    def months(self) -> tuple[str, ...]: ...

    def read(self, batch: Batch) -> tuple[HistoryInput, HistoryInput]:
        """User and item history of a batch's rows."""
        ...


def _allowed(ts: NDArray[np.int64], last_ts: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Whether each row is later than the training rows of each month, ``(n, K)``; None if all are, which is the usual case."""
    if not len(last_ts) or not len(ts) or ts.min() > last_ts.max():
        return None
    allowed: NDArray[np.bool_] = ts[:, None] > last_ts[None, :]
    return allowed


class SnapshotHistory:
    """Reads the vectors of each month, for a model whose attention is trained (CPM).

    Each distinct id is looked up once. A row that is not later than all training rows of a snapshot does not read that
    snapshot: its ids count as absent there.

    Parameters
    ----------
    store
        Snapshots. If None, every id counts as absent.
    months
        Labels of the snapshots, oldest first.
    dim
        Size of a vector.
    clock_ms
        The event clock; all months must be older.
    device
        Device of the tensors.
    """

    def __init__(
        self,
        store: EmbeddingStore | None,
        months: Sequence[str],
        dim: int,
        clock_ms: int,
        device: torch.device,
    ) -> None:
        self._store, self._dim, self._device = store, dim, device
        self._months = tuple(months)
        self._last_ts = np.empty(0, np.int64)
        if self._months:
            self._last_ts = _open(store, self._months, dim, clock_ms)

    @property
    def months(self) -> tuple[str, ...]:
        return self._months

    def read(self, batch: Batch) -> tuple[HistoryInput, HistoryInput]:
        allowed = _allowed(batch.ts, self._last_ts)
        return self._kind("user", batch.user, allowed), self._kind("item", batch.item, allowed)

    def present(
        self, ts: NDArray[np.int64], user: NDArray[np.uint64], item: NDArray[np.uint64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each row's user, and its item, has a vector in any month that the row may read, ``(n,)`` each."""
        allowed = _allowed(ts, self._last_ts)
        return self._present("user", user, allowed), self._present("item", item, allowed)

    def _present(
        self, kind: Kind, ids: NDArray[np.uint64], allowed: NDArray[np.bool_] | None
    ) -> NDArray[np.bool_]:
        if self._store is None or not self._months:
            return np.zeros(len(ids), np.bool_)
        unique, inverse = np.unique(ids, return_inverse=True)
        mask = self._store.lookup(kind, unique, self._months)[1][inverse]
        return np.asarray((mask if allowed is None else mask & allowed).any(axis=1))

    def _kind(self, kind: Kind, ids: NDArray[np.uint64], allowed: NDArray[np.bool_] | None) -> HistoryInput:
        unique, inverse = np.unique(ids, return_inverse=True)
        if self._months:
            assert self._store is not None
            rows, mask = self._store.lookup(kind, unique, self._months)
        else:
            rows, mask = (
                np.zeros((len(unique), 0, self._dim), np.float32),
                np.zeros((len(unique), 0), np.bool_),
            )
        if allowed is not None:  # rows of one id may read different months: row by row
            rows, mask, inverse = rows[inverse], mask[inverse] & allowed, np.arange(len(ids))
        return HistoryInput(
            inverse=torch.from_numpy(inverse).to(self._device),
            rows=torch.from_numpy(rows).to(self._device),
            mask=torch.from_numpy(mask.astype(np.float32)).to(self._device),
        )


class MergedHistory:
    """Merges K snapshots into one table through an attention that is no longer trained (A-CTR).

    Because ``h_j`` depends only on the vectors of id ``j``, the merge is exact: one vector per id instead of K. The vectors of
    an id are merged when it is first looked up and stored in a direct-mapped cache, so that a release costs nothing here and
    memory is bounded; :meth:`merge` returns the whole table. If a row is not later than the training rows of some snapshot, the
    other snapshots are merged for it, and the result is not cached.

    Parameters
    ----------
    store, months, dim, clock_ms, device
        As for :class:`SnapshotHistory`.
    user, item
        The attentions; copied.
    slots
        Maximum number of cached rows of each kind, a power of two.
    """

    def __init__(
        self,
        store: EmbeddingStore | None,
        months: Sequence[str],
        user: HistoricalAttention,
        item: HistoricalAttention,
        clock_ms: int,
        device: torch.device,
        slots: int = 1 << 16,
    ) -> None:
        self._store, self._device = store, device
        self._months = tuple(months)
        self._frozen: dict[Kind, FrozenHistory] = {"user": FrozenHistory(user), "item": FrozenHistory(item)}
        self._cache: dict[Kind, VectorCache] = {
            "user": VectorCache(slots, user.dim),
            "item": VectorCache(slots, item.dim),
        }
        self._last_ts = np.empty(0, np.int64)
        if self._months:
            self._last_ts = _open(store, self._months, user.dim, clock_ms)

    @property
    def months(self) -> tuple[str, ...]:
        return self._months

    def read(self, batch: Batch) -> tuple[HistoryInput, HistoryInput]:
        allowed = _allowed(batch.ts, self._last_ts)
        return self._kind("user", batch.user, allowed), self._kind("item", batch.item, allowed)

    def lookup(self, kind: Kind, ids: NDArray[np.uint64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Merged vectors ``(m, d)`` of distinct ids, and whether each is present in any month ``(m,)``."""
        cache = self._cache[kind]
        vectors, present, missing = cache.get(ids)
        if len(missing):
            merged = self._merge(kind, ids[missing], None)
            vectors[missing], present[missing] = merged
            cache.put(ids[missing], *merged)
        return vectors, present

    def merge(
        self, kind: Kind, rows: int = 65_536
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float32]]]:
        """The whole table in pieces: every id of any month, ascending, with its vector."""
        if self._store is None or not self._months:
            return
        for ids, vectors, mask in self._store.scan(kind, self._months, rows):
            yield ids, self._frozen[kind].merge(vectors, mask)[0]

    def _merge(
        self, kind: Kind, ids: NDArray[np.uint64], allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        frozen = self._frozen[kind]
        if not self._months:
            return frozen.merge(
                np.zeros((len(ids), 0, frozen.dim), np.float32), np.zeros((len(ids), 0), np.bool_)
            )
        assert self._store is not None
        rows, mask = self._store.lookup(kind, ids, self._months)
        return frozen.merge(rows, mask if allowed is None else mask & allowed)

    def _kind(self, kind: Kind, ids: NDArray[np.uint64], allowed: NDArray[np.bool_] | None) -> HistoryInput:
        if allowed is None:
            unique, inverse = np.unique(ids, return_inverse=True)
            vectors, present = self.lookup(kind, unique)
        else:
            inverse = np.arange(len(ids))
            vectors, present = self._merge(kind, ids, allowed)
        return HistoryInput(
            inverse=torch.from_numpy(inverse).to(self._device),
            vectors=torch.from_numpy(vectors).to(self._device),
            present=torch.from_numpy(present.astype(np.float32)).to(self._device),
        )


def _open(
    store: EmbeddingStore | None, months: tuple[str, ...], dim: int, clock_ms: int
) -> NDArray[np.int64]:
    if store is None:
        raise ConfigError(f"snapshots {list(months)} are required, but no snapshot store is given")
    for month in months:
        store.check(month)  # before it is used: a step would otherwise end in the middle
        found = store.manifest(month).dim
        if found != dim:
            raise ConfigError(
                f"snapshot {month} contains vectors of {found} numbers, tpm.dim is {dim}: set tpm.dim = {found}, or "
                "train TPM again"
            )
    return check_point_in_time(store, months, clock_ms)
