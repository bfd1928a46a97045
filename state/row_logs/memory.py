"""``MemoryRowLog``: the row log's contract without files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import StateError

__all__ = ["MemoryRowLog", "runs_by_day"]


def runs_by_day(rows: NDArray[Any], days: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Rows of each day, oldest day first, order kept within it.

    >>> [(d, r.tolist()) for d, r in runs_by_day(np.array([1, 2, 3]), np.array([7, 6, 7]))]
    [(6, [2]), (7, [1, 3])]
    """
    if len(rows) != len(days):
        raise ValueError(f"{len(rows)} rows with {len(days)} days")
    if len(rows) == 0:
        return
    low, high = int(days.min()), int(days.max())
    if low < 0:
        raise ValueError(f"event day {low} lies before 1970")
    if low == high:
        yield low, rows
        return
    order = np.argsort(days, kind="stable")
    ordered = days[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for run in np.split(order, cuts):
        yield int(days[run[0]]), rows[run]


class MemoryRowLog:
    """The same contract in memory, for tests and for runs that keep nothing."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = np.dtype(dtype)
        self._days: dict[int, list[NDArray[Any]]] = {}
        self._first_day = 0

    def append(self, rows: NDArray[Any], days: NDArray[np.int64]) -> None:
        for day, run in runs_by_day(np.ascontiguousarray(rows, self.dtype), days):
            self._days.setdefault(day, []).append(run.copy())

    def sizes(self) -> dict[int, int]:
        return {day: sum(map(len, runs)) for day, runs in sorted(self._days.items())}

    def truncate(self, sizes: Mapping[int, int]) -> None:
        found = self.sizes()
        for day, named in sizes.items():
            if found.get(day, 0) < named and day >= self._first_day:
                raise StateError(f"day {day} has {found.get(day, 0)} rows, the checkpoint knows {named}")
        kept = {day: np.concatenate(runs)[: sizes.get(day, 0)] for day, runs in self._days.items()}
        self._days = {day: [rows] for day, rows in kept.items() if len(rows)}

    def read(self, first_day: int | None = None, last_day: int | None = None) -> NDArray[Any]:
        runs = [
            run
            for day, runs in sorted(self._days.items())
            for run in runs
            if (first_day is None or day >= first_day) and (last_day is None or day <= last_day)
        ]
        return np.concatenate(runs) if runs else np.empty(0, self.dtype)

    def iter_chunks(
        self, rows: int, first_day: int | None = None, last_day: int | None = None
    ) -> Iterator[NDArray[Any]]:
        everything = self.read(first_day, last_day)
        for start in range(0, len(everything), rows):
            yield everything[start : start + rows]

    def drop_before(self, day: int) -> None:
        self._first_day = max(self._first_day, day)
        self._days = {d: runs for d, runs in self._days.items() if d >= day}

    def first_day(self) -> int:
        return self._first_day

    def flush(self, fsync: bool = False) -> None:
        pass

    def close(self) -> None:
        pass
