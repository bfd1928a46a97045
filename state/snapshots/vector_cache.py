"""``VectorCache``: hot rows of one kind and month in arrays, so that most look-ups never reach RocksDB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["VectorCache", "mix"]


def mix(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of MurmurHash3: every bit of an id moves every bit of the result."""
    h = ids ^ (ids >> np.uint64(33))
    h = h * np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h = h * np.uint64(0xC4CEB9FE1A85EC53)
    h ^= h >> np.uint64(33)
    return h


class VectorCache:
    """Direct-mapped: each id has one slot, and takes it over from whoever has it. Absent ids are remembered too.

    Parameters
    ----------
    slots
        Rounded up to a power of two. Memory is taken as slots are used.
    dim
        Numbers of a vector.
    """

    _EMPTY, _ABSENT, _PRESENT = 0, 1, 2

    def __init__(self, slots: int, dim: int) -> None:
        slots = 1 << max(0, (slots - 1).bit_length())
        self._mask = np.uint64(slots - 1)
        self._id = np.zeros(slots, np.uint64)
        self._state = np.zeros(slots, np.uint8)
        self._vector = np.zeros((slots, dim), np.float32)

    def get(
        self, ids: NDArray[np.uint64], hashed: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.intp]]:
        """Vectors ``(n, d)``, presence ``(n,)``, and which of the ids (``hashed`` by :func:`mix`) are not known here."""
        slot = (hashed & self._mask).astype(np.intp)
        state = self._state[slot]
        missing = np.flatnonzero((state == self._EMPTY) | (self._id[slot] != ids))
        return self._vector[slot], state == self._PRESENT, missing

    def put(
        self,
        ids: NDArray[np.uint64],
        hashed: NDArray[np.uint64],
        vectors: NDArray[np.float32],
        present: NDArray[np.bool_],
    ) -> None:
        """Remember distinct ids."""
        # Of ids that share a slot one is written: several assignments need not agree on which one is the last.
        slot, first = np.unique((hashed & self._mask).astype(np.intp), return_index=True)
        self._id[slot] = ids[first]
        self._vector[slot] = vectors[first]
        self._state[slot] = np.where(present[first], self._PRESENT, self._ABSENT)
