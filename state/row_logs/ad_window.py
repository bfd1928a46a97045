"""``AdWindow``: the encoded ad rows of the last event days, on which each new release is fine-tuned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import StateError
from ecdctr.state.event_time import DAY_MS
from ecdctr.state.row_logs.disk import RowLog
from ecdctr.state.row_logs.memory import MemoryRowLog
from ecdctr.state.row_logs.protocol import RowLogLike

__all__ = ["AdWindow"]

PREDICTIONS = ("p_serving", "p_control")
"""Predictions of the serving model and of the ads-only control for a row before they learned it; NaN: none."""


class AdWindow:
    """Encoded ad rows of the last ``days`` event days, counted from the newest day that was appended.

    The window moves with the appended rows and not with a clock, so that a redone run holds the same rows. A day that
    leaves the window remains on disk until :meth:`drop_unused`: an older checkpoint may still need it.

    Parameters
    ----------
    folder
        Folder of the rows; None: in memory.
    n_features, n_dense
        Columns of ``features`` (int32) and of ``dense`` (float32).
    days
        Length of the window in event days (UTC), the newest one included.
    """

    def __init__(self, folder: Path | None, n_features: int, n_dense: int, days: int) -> None:
        if days < 1:
            raise ValueError(f"an ad window needs at least one day, not {days}")
        self.days = days
        dtype = np.dtype(
            [
                ("ts", "<i8"),
                ("user", "<u8"),
                ("item", "<u8"),
                ("features", "<i4", (n_features,)),
                ("dense", "<f4", (n_dense,)),
                ("label", "<f4"),
                *((name, "<f4") for name in PREDICTIONS),
            ]
        )
        self._dtype = dtype
        self._log: RowLogLike = MemoryRowLog(dtype) if folder is None else RowLog(Path(folder), dtype)
        self._newest = max(self._log.sizes(), default=-1)

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Columns of a row besides its predictions."""
        return tuple(name for name in self._dtype.names or () if name not in PREDICTIONS)

    @property
    def first_day(self) -> int:
        """Oldest event day of the window (days since the epoch)."""
        return self._newest - self.days + 1

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add ad rows: ``ts`` (ms), ``user``, ``item``, ``features`` (n, F), ``dense`` (n, D), ``label``.

        Optionally ``p_serving`` and ``p_control``, the live predictions; NaN where absent. Rows older than the window
        are ignored.
        """
        ts = np.asarray(columns["ts"], np.int64)
        if len(ts) == 0:
            return
        days = ts // DAY_MS
        rows = np.empty(len(ts), self._dtype)
        for name in self._dtype.names or ():
            rows[name] = columns.get(name, np.nan) if name in PREDICTIONS else columns[name]
        newest = max(self._newest, int(days.max()))
        young = days > newest - self.days
        if not young.all():
            rows, days = rows[young], days[young]
        self._log.append(rows, days)
        self._newest = newest

    def last_days(self, days: int) -> int:
        """First of the last ``days`` event days of the window (days since the epoch)."""
        return max(self.first_day, self._newest - days + 1)

    def chunks(self, rows: int, first_day: int | None = None) -> Iterator[dict[str, NDArray[Any]]]:
        """The window's rows in pieces of ``rows`` (the last one may be smaller): by event day, then as appended.

        Days before ``first_day`` are left out.
        """
        first = self.first_day if first_day is None else max(first_day, self.first_day)
        for chunk in self._log.iter_chunks(rows, first_day=first):
            yield {name: np.ascontiguousarray(chunk[name]) for name in self._dtype.names or ()}

    def __len__(self) -> int:
        return sum(self.sizes().values())

    def sizes(self) -> dict[int, int]:
        """Number of rows of each event day of the window; checkpoints record it."""
        return {day: count for day, count in self._log.sizes().items() if day >= self.first_day}

    def truncate(self, sizes: Mapping[int, int]) -> None:
        """Return to the rows that a checkpoint recorded by :meth:`sizes`.

        Days that had already left the window at that time remain: an even older checkpoint may name them.

        Raises
        ------
        StateError
            Rows that are named are missing.
        """
        newest = max((day for day, count in sizes.items() if count), default=-1)
        first = newest - self.days + 1
        dropped = [day for day, count in sizes.items() if count and day < self._log.first_day()]
        if dropped:
            raise StateError(
                f"the ad window's days {min(dropped)} to {max(dropped)} were dropped; start from a newer checkpoint"
            )
        older = {day: count for day, count in self._log.sizes().items() if newest >= 0 and day < first}
        self._log.truncate({**older, **sizes})
        self._newest = newest

    def adopt(self, folder: Path, sizes: Mapping[int, int]) -> None:
        """Copy the rows that a checkpoint recorded by :meth:`sizes` from the folder of another window.

        The other window may be appended to in the meantime; this one must be empty.

        Raises
        ------
        StateError
            Rows that are named are missing.
        """
        source = RowLog(Path(folder), self._dtype, read_only=True)
        for day, count in sorted(sizes.items()):
            rows = source.read(day, day)[:count]
            if len(rows) < count:
                raise StateError(
                    f"the ad window in {folder} has {len(rows)} rows of day {day}, the checkpoint records {count}"
                )
            self._log.append(rows, np.full(count, day, np.int64))
            self._newest = max(self._newest, day)

    def drop_unused(self, retained: Iterable[Mapping[int, int]]) -> None:
        """Remove permanently the days that neither the window nor any of the recorded sizes ``retained`` needs."""
        oldest = self.first_day
        for sizes in retained:
            oldest = min([oldest, *sizes])
        self._log.drop_before(oldest)

    def flush(self, fsync: bool = False) -> None:
        """See :meth:`RowLog.flush`."""
        self._log.flush(fsync)

    def close(self) -> None:
        """Close the files."""
        self._log.close()
