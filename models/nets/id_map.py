"""``IdMap``: maps arrays of 64-bit ids to consecutive row numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.hashing import mix64

__all__ = ["IdMap"]


class IdMap:
    """A hash table that grows with the ids that are added; open addressing with linear probing, vectorised.

    Numbers are assigned from 0 in the order in which :meth:`add` receives the ids, so the same ids in the same order get
    the same numbers.

    Examples
    --------
    >>> ids = IdMap()
    >>> ids.add(np.array([70, 30], dtype=np.uint64))
    array([0, 1])
    >>> ids.add(np.array([30, 99], dtype=np.uint64))
    array([1, 2])
    >>> ids.find(np.array([99, 5], dtype=np.uint64))
    array([ 2, -1])
    >>> ids.ids()
    array([70, 30, 99], dtype=uint64)
    """

    def __init__(self) -> None:
        self._n = 0
        self._by_number = np.empty(1024, np.uint64)
        self._slots = np.full(2048, -1, np.int64)  # number of the id in each slot; -1: free

    def __len__(self) -> int:
        return self._n

    def ids(self) -> NDArray[np.uint64]:
        """All ids, by number."""
        return self._by_number[: self._n].copy()

    def find(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Numbers of ids, -1 for those never added; ids may repeat."""
        out = np.full(len(ids), -1, np.int64)
        waiting = np.arange(len(ids))
        slot = self._home(ids)
        while len(waiting):
            number = self._slots[slot]
            taken = number >= 0
            equal = np.zeros(len(waiting), np.bool_)
            equal[taken] = self._by_number[number[taken]] == ids[waiting[taken]]
            out[waiting[equal]] = number[equal]
            further = taken & ~equal
            waiting, slot = waiting[further], (slot[further] + 1) & (len(self._slots) - 1)
        return out

    def add(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Numbers of distinct ids; new ids get the next numbers, in the order given."""
        out = self.find(ids)
        new = np.flatnonzero(out < 0)
        if len(new):
            numbers = np.arange(self._n, self._n + len(new))
            out[new] = numbers
            self._reserve(self._n + len(new))
            self._by_number[numbers] = ids[new]
            self._n += len(new)
            self._place(numbers)
        return out

    def _home(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (mix64(ids) & np.uint64(len(self._slots) - 1)).astype(np.int64)

    def _reserve(self, n: int) -> None:
        if n > len(self._by_number):
            grown = np.empty(max(n, 2 * len(self._by_number)), np.uint64)
            grown[: self._n] = self._by_number[: self._n]
            self._by_number = grown
        if 2 * n > len(self._slots):  # at most half full: probes stay short
            size = len(self._slots)
            while 2 * n > size:
                size *= 2
            self._slots = np.full(size, -1, np.int64)
            self._place(np.arange(self._n))

    def _place(self, numbers: NDArray[np.int64]) -> None:
        """Enter ids that are not in the slots yet."""
        slot = self._home(self._by_number[numbers])
        while len(numbers):
            free = self._slots[slot] < 0
            self._slots[slot[free]] = numbers[free]
            # Several ids may have been written to one free slot: the last one stays, the others try the next slot.
            lost = self._slots[slot] != numbers
            numbers, slot = numbers[lost], (slot[lost] + 1) & (len(self._slots) - 1)
