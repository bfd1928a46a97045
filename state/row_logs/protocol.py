"""``RowLogLike``, the protocol of row logs: rows of a fixed dtype by event day, truncated to recorded sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["RowLogLike", "runs_by_day"]


class RowLogLike(Protocol):
    """Append-only rows of a structured dtype, by event day (``ts_ms // 86_400_000``)."""

    def append(self, rows: NDArray[Any], days: NDArray[np.int64]) -> None:
        """Add rows ``(n,)``, each to its event day ``(n,)``; the order within a day is preserved.

        Raises
        ------
        StateError
            The rows could not be written; the log is as it was before.
        """
        ...

    def sizes(self) -> dict[int, int]:
        """Number of rows of each event day, oldest first."""
        ...

    def truncate(self, sizes: Mapping[int, int]) -> None:
        """Truncate each day to ``sizes[day]`` rows; days that are not in ``sizes`` are removed.

        Raises
        ------
        StateError
            A day has fewer rows and was not dropped; nothing is truncated then.
        """
        ...

    def read(self, first_day: int | None = None, last_day: int | None = None) -> NDArray[Any]:
        """All rows of the days ``first_day..last_day`` (both included), by day, then in the order appended."""
        ...

    def iter_chunks(
        self, rows: int, first_day: int | None = None, last_day: int | None = None
    ) -> Iterator[NDArray[Any]]:
        """The rows of :meth:`read` in chunks of ``rows`` rows across days; the last chunk may be smaller."""
        ...

    def drop_before(self, day: int) -> None:
        """Remove all days before ``day`` permanently."""
        ...

    def first_day(self) -> int:
        """The day before which all days were removed."""
        ...

    def flush(self, fsync: bool = False) -> None:
        """With ``fsync``, make all rows durable; call it before a checkpoint records :meth:`sizes`."""
        ...

    def close(self) -> None:
        """Close all files."""
        ...


def runs_by_day(rows: NDArray[Any], days: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Rows of each day, oldest day first; the order within a day is preserved.

    >>> [(d, r.tolist()) for d, r in runs_by_day(np.array([1, 2, 3]), np.array([7, 6, 7]))]
    [(6, [2]), (7, [1, 3])]
    """
    if len(rows) != len(days):
        raise ValueError(f"{len(rows)} rows with {len(days)} days")
    if len(rows) == 0:
        return
    low, high = int(days.min()), int(days.max())
    if low < 0:
        raise ValueError(f"event day {low} is before 1970")
    if low == high:
        yield low, rows
        return
    order = np.argsort(days, kind="stable")
    ordered = days[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for run in np.split(order, cuts):
        yield int(days[run[0]]), rows[run]
