"""``VectorCache``: a direct-mapped cache of vectors by 64-bit id, which works on arrays of ids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.hashing import mix64

__all__ = ["VectorCache"]


class VectorCache:
    """Direct-mapped cache: each id has one slot, and a new id evicts the one that occupies its slot.

    Absence is cached, too: a cached id without a vector is reported as absent and not as missing. With ``dim=0`` only presence
    is cached.

    Parameters
    ----------
    slots
        Number of slots, rounded up to a power of two. The operating system assigns memory as slots are used.
    dim
        Length of a vector; 0 for presence only.

    Examples
    --------
    >>> cache = VectorCache(1024, dim=1)
    >>> ids = np.array([7, 8], np.uint64)
    >>> cache.get(ids)[2].tolist()
    [0, 1]
    >>> cache.put(ids, np.array([[0.5], [0.0]], np.float32), np.array([True, False]))
    >>> vectors, present, missing = cache.get(ids)
    >>> vectors.tolist(), present.tolist(), missing.tolist()
    ([[0.5], [0.0]], [True, False], [])
    """

    _EMPTY, _ABSENT, _PRESENT = 0, 1, 2

    def __init__(self, slots: int, dim: int) -> None:
        slots = 1 << max(0, (slots - 1).bit_length())
        self._mask = np.uint64(slots - 1)
        self._id = np.zeros(slots, np.uint64)
        self._state = np.zeros(slots, np.uint8)
        self._vector = np.zeros((slots, dim), np.float32)

    def get(
        self, ids: NDArray[np.uint64], hashed: NDArray[np.uint64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.intp]]:
        """Look up ids, in any order and possibly repeated.

        Parameters
        ----------
        ids
            uint64, shape ``(n,)``.
        hashed
            ``mix64(ids)``, if the caller looks up the same ids in several caches.

        Returns
        -------
        vectors, present, missing
            float32 ``(n, dim)``, bool ``(n,)``, and the positions in ``ids`` that are not cached; the caller must
            fill in the first two there.
        """
        slot = self._slot(ids, hashed)
        state = self._state[slot]
        missing = np.flatnonzero((state == self._EMPTY) | (self._id[slot] != ids))
        return self._vector[slot], state == self._PRESENT, missing

    def put(
        self,
        ids: NDArray[np.uint64],
        vectors: NDArray[np.float32],
        present: NDArray[np.bool_],
        hashed: NDArray[np.uint64] | None = None,
    ) -> None:
        """Store distinct ids ``(n,)`` with their vectors ``(n, dim)`` and presence ``(n,)``."""
        # Of ids that share a slot only one is written: assignments to several arrays need not agree on the last.
        slot, first = np.unique(self._slot(ids, hashed), return_index=True)
        self._id[slot] = ids[first]
        self._vector[slot] = vectors[first]
        self._state[slot] = np.where(present[first], self._PRESENT, self._ABSENT)

    def _slot(self, ids: NDArray[np.uint64], hashed: NDArray[np.uint64] | None) -> NDArray[np.intp]:
        return ((mix64(ids) if hashed is None else hashed) & self._mask).astype(np.intp)
