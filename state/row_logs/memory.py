"""``MemoryRowLog``: the in-memory double of the row log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import StateError
from ecdctr.state.row_logs.protocol import runs_by_day

__all__ = ["MemoryRowLog"]


class MemoryRowLog:
    """A row log in memory, for tests and for runs without a state folder."""

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
        for day, recorded in sizes.items():
            if found.get(day, 0) < recorded and day >= self._first_day:
                raise StateError(f"day {day} has {found.get(day, 0)} rows, the checkpoint records {recorded}")
        truncated = {day: np.concatenate(runs)[: sizes.get(day, 0)] for day, runs in self._days.items()}
        self._days = {day: [rows] for day, rows in truncated.items() if len(rows)}

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
