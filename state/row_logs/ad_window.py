"""``AdWindow``: the encoded ad rows of the last event days, on which each new release is fine-tuned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
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
"""Predictions of A-CTR (the arm that releases replace) and of the ads-only control, made before they learned the row; NaN: none.

The names are part of the file format: ``p_serving`` is the prediction of A-CTR, whichever arm serves.
"""


class AdWindow:
    """Encoded ad rows of the last ``days`` event days, counted from the newest day that was appended.

    The window moves with the appended rows and not with a clock, so that replaying the journal yields the same window. Days that
    leave the window stay on disk until :meth:`drop_unused` removes them, because retained checkpoints may refer to them. Damaged
    rows are named in the log and left out, so that no release learns them and none has to wait for a copy.

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
        self._log: RowLogLike = (
            MemoryRowLog(dtype) if folder is None else RowLog(Path(folder), dtype, skip_damaged=True)
        )
        self._newest = max(self._log.sizes(), default=-1)

    @property
    def row_columns(self) -> tuple[str, ...]:
        """All columns except the predictions."""
        return tuple(name for name in self._dtype.names or () if name not in PREDICTIONS)

    @property
    def first_day(self) -> int:
        """Oldest event day of the window (days since the epoch)."""
        return self._newest - self.days + 1

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add ad rows: ``ts`` (ms), ``user``, ``item``, ``features`` (n, F), ``dense`` (n, D), ``label``.

        ``p_serving`` and ``p_control`` (live predictions) are optional; missing ones are stored as NaN. Rows older than the window
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
        in_window = days > newest - self.days
        if not in_window.all():
            rows, days = rows[in_window], days[in_window]
        self._log.append(rows, days)
        self._newest = newest

    def first_of_last_days(self, days: int) -> int:
        """First day (days since the epoch) of the last ``days`` event days, or of the window if that is shorter."""
        return max(self.first_day, self._newest - days + 1)

    def chunks(self, rows: int, first_day: int | None = None) -> Iterator[dict[str, NDArray[Any]]]:
        """Iterate over the window in chunks of ``rows`` rows, ordered by event day and, within a day, by insertion.

        The last chunk may be smaller. Days before ``first_day`` are left out.
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
        """Truncate the log to the sizes that a checkpoint recorded.

        Days that had already left the window at that time are kept, because older checkpoints may refer to them.

        Raises
        ------
        StateError
            A day has fewer rows than ``sizes`` requires, or was removed.
        """
        newest = max((day for day, count in sizes.items() if count), default=-1)
        first = newest - self.days + 1
        dropped = [day for day, count in sizes.items() if count and day < self._log.first_day()]
        if dropped:
            raise StateError(
                f"days {_date(min(dropped))} to {_date(max(dropped))} of the ad window were removed; start from a newer checkpoint"
            )
        older = {day: count for day, count in self._log.sizes().items() if newest >= 0 and day < first}
        self._log.truncate({**older, **sizes})
        self._newest = newest

    def copy_from(self, folder: Path, sizes: Mapping[int, int]) -> None:
        """Copy rows from the folder of another window: of each day the first ``sizes[day]`` rows.

        Another process may append to the other window at the same time; this window must be empty.

        Raises
        ------
        StateError
            A day of the other window has fewer rows than ``sizes`` requires.
        """
        source = RowLog(Path(folder), self._dtype, read_only=True)
        for day, count in sorted(sizes.items()):
            rows = source.read(day, day)[:count]
            if len(rows) < count:
                raise StateError(
                    f"the ad window in {folder} has {len(rows)} rows of day {_date(day)}, the checkpoint records {count}"
                )
            self._log.append(rows, np.full(count, day, np.int64))
            self._newest = max(self._newest, day)

    def drop_unused(self, retained: Iterable[Mapping[int, int]]) -> None:
        """Permanently remove all days before the first day that the window or one of the checkpoints' sizes ``retained`` needs."""
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


def _date(day: int) -> str:
    """ISO date of a number of days since the epoch."""
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()
