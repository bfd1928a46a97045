"""``DirtyRows``: which rows have changed, in memory bounded by the rows that there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["DirtyRows"]


class DirtyRows:
    """Set of row numbers; marking and taking cost what is marked and taken, never the table's size.

    >>> touched = DirtyRows(10)
    >>> touched.mark(np.array([3, 1])), touched.mark(np.array([3, 7]))
    (array([3, 1]), array([7]))
    >>> touched.take(), touched.take()
    (array([1, 3, 7]), array([], dtype=int64))
    """

    def __init__(self, rows: int) -> None:
        self._flag = np.zeros(rows, np.bool_)
        self._parts: list[NDArray[np.int64]] = []

    def grow(self, rows: int) -> None:
        """Make room for row numbers below ``rows``."""
        self._flag = np.concatenate([self._flag, np.zeros(rows - len(self._flag), np.bool_)])

    def mark(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Add rows; each at most once in ``index``. Gives those that were not marked yet."""
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
