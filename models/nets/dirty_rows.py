"""``DirtyRows``: the rows of a table that have changed, in memory bounded by the size of the table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["DirtyRows"]


class DirtyRows:
    """Set of row numbers; the time of marking and taking depends on the rows marked and taken, not on the table's size.

    >>> dirty = DirtyRows(10)
    >>> dirty.mark(np.array([3, 1])), dirty.mark(np.array([3, 7]))
    (array([3, 1]), array([7]))
    >>> dirty.take(), dirty.take()
    (array([1, 3, 7]), array([], dtype=int64))
    """

    def __init__(self, rows: int) -> None:
        self._flag = np.zeros(rows, np.bool_)
        self._parts: list[NDArray[np.int64]] = []

    def grow(self, rows: int) -> None:
        """Extend the range of row numbers to ``rows``."""
        self._flag = np.concatenate([self._flag, np.zeros(rows - len(self._flag), np.bool_)])

    def mark(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Add distinct rows. Returns those that were not marked before."""
        new = index[~self._flag[index]]
        if len(new):
            self._flag[new] = True
            self._parts.append(new)
        return new

    def peek(self) -> NDArray[np.int64]:
        """All rows marked, ascending."""
        if not self._parts:
            return np.empty(0, np.int64)
        if len(self._parts) > 1:
            self._parts = [np.sort(np.concatenate(self._parts))]
        else:
            self._parts[0] = np.sort(self._parts[0])
        return self._parts[0]

    def take(self) -> NDArray[np.int64]:
        """All rows marked, ascending; the set is empty afterwards."""
        index = self.peek()
        self._flag[index] = False
        self._parts = []
        return index
