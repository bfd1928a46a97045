"""``KeyTable``: the decayed counts of all keys of one kind, in bounded memory."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from ecdctr.models.nets import DirtyRows, IdMap
from ecdctr.models.streaming_features.decayed_counts import DecayedCounts
from ecdctr.state.checkpoints import Rows

__all__ = ["MISSING", "KeyTable"]

MISSING = np.uint64(0)
"""Key of a row that has no key (a missing value): it is never stored."""
_FIRST = 1024


class KeyTable:
    """A hash table from 64-bit keys to :class:`DecayedCounts`.

    Parameters
    ----------
    name
        Name of its rows in checkpoints.
    counts
        Layout of a key's state.
    max_keys
        Maximum number of keys. If it is exceeded, the keys whose last event is oldest are removed, until a tenth is free.

    Attributes
    ----------
    evicted
        Number of keys removed so far.
    """

    def __init__(self, name: str, counts: DecayedCounts, max_keys: int) -> None:
        self.name, self.counts, self._max_keys = name, counts, max_keys
        self.reset()

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def bytes_per_key(self) -> int:
        """Bytes of a key and its state; the slots of the hash table take 16 to 32 more."""
        return 8 * (1 + self.counts.width)

    def reset(self) -> None:
        """Remove all keys."""
        self._ids = IdMap()
        self._state = self.counts.new(_FIRST)
        self._changed = DirtyRows(_FIRST)
        self.evicted = 0

    def read(self, keys: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Copies of the state of keys, ``(n, width)``; that of a new key if there is none."""
        at = self._ids.find(keys)
        out = self.counts.new(len(keys))
        out[at >= 0] = self._state[at[at >= 0]]
        return out

    def add(self, keys: NDArray[np.uint64], ts: NDArray[np.int64], column: NDArray[np.int64]) -> None:
        """Add events in their order; those whose key is :data:`MISSING` are left out."""
        there = keys != MISSING
        if not there.all():
            keys, ts, column = keys[there], ts[there], column[there]
        unique, inverse = np.unique(keys, return_inverse=True)
        rows = self._ids.add(unique)
        self._reserve(len(self._ids))
        state = self._state[rows]
        self.counts.add(state, inverse.astype(np.int64), ts, column)
        self._state[rows] = state
        self._changed.mark(rows)
        if len(self._ids) > self._max_keys:
            last = self._last()
            keep = np.sort(np.argsort(-last, kind="stable")[: max(1, self._max_keys * 9 // 10)])
            self._keep(keep)

    def evict_before(self, ts: float) -> None:
        """Remove the keys whose last event is before ``ts`` (ms)."""
        keep = np.flatnonzero(self._last() >= ts)
        if len(keep) < len(self._ids):
            self._keep(keep)

    def _last(self) -> NDArray[np.float64]:
        out: NDArray[np.float64] = self.counts.last(self._state[: len(self._ids)]).max(1)
        return out

    def _keep(self, rows: NDArray[np.int64]) -> None:
        ids, state = self._ids.ids()[rows], self._state[rows]
        evicted = self.evicted + len(self._ids) - len(rows)
        self.reset()
        self._enter(ids, state)
        self._changed.mark(np.arange(len(ids)))
        self.evicted = evicted

    def _enter(self, ids: NDArray[np.uint64], state: NDArray[np.float64]) -> None:
        rows = self._ids.add(ids)
        self._reserve(len(ids))
        self._state[rows] = state

    def _reserve(self, n: int) -> None:
        if n > len(self._state):
            size = max(n, 2 * len(self._state))
            self._state = np.concatenate([self._state, self.counts.new(size - len(self._state))])
            self._changed.grow(size)

    def capture(self) -> Rows:
        """Rows that changed since the previous capture: keys and states by row number.

        After an eviction all rows have new numbers and are captured. A checkpoint may then contain rows beyond the number of keys,
        which :meth:`load` ignores.
        """
        rows = self._changed.take()
        return {
            f"{self.name}/id": (rows, self._ids.ids()[rows].reshape(-1, 1)),
            f"{self.name}/state": (rows, self._state[rows]),
        }

    def load(self, rows: Rows, n: int, evicted: int) -> None:
        """Load the first ``n`` rows of a checkpoint."""
        self.reset()
        self.evicted = evicted
        if n:
            index, ids = rows[f"{self.name}/id"]
            assert np.array_equal(index[:n], np.arange(n)), (
                f"{self.name}: the checkpoint does not have all {n} keys"
            )
            self._enter(ids[:n].reshape(-1), rows[f"{self.name}/state"][1][:n])

    def digest(self, into: hashlib.blake2b) -> None:
        """Add every bit of the state to a hash."""
        into.update(f"{self.name} {len(self._ids)} {self.evicted}".encode())
        into.update(self._ids.ids().tobytes())
        into.update(self._state[: len(self._ids)].tobytes())
