"""``ScoreLog``: every scored impression with the predictions of each arm, for windows and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import StateError
from ecdctr.state.event_time import DAY_MS
from ecdctr.state.row_logs.disk import RowLog
from ecdctr.state.row_logs.memory import MemoryRowLog
from ecdctr.state.row_logs.protocol import RowLogLike
from ecdctr.state.row_logs.schema import read_schema

__all__ = ["ROW_COLUMNS", "ScoreLog"]

_ROW = (
    ("ts", "<i8"),
    ("user", "<u8"),
    ("item", "<u8"),
    ("domain", "u1"),
    ("label", "u1"),
    ("list_id", "<u8"),
    ("oracle", "<f8"),
)
ROW_COLUMNS = tuple(name for name, _ in _ROW)
"""All columns except predictions and notes."""

_DEFAULTS = {"list_id": 0, "oracle": np.nan}


class ScoreLog:
    """Rows ``ts, user, item, domain, label, list_id, oracle, p_<arm>...``, notes, in the order they were scored.

    Parameters
    ----------
    folder
        Folder of the rows; None: in memory.
    arms
        Names of the arms, one column ``p_<arm>`` each. May be omitted if the folder exists.
    read_only
        Open for reading while another process writes.
    notes
        Further columns and their types, by which reports slice the rows. Read from the folder if ``arms`` is omitted.
    skip_damaged
        Leave damaged rows out when rows are read, and name them in the log; otherwise reading them is an error.

    Attributes
    ----------
    notes
        Names of the further columns.
    """

    def __init__(
        self,
        folder: Path | None,
        arms: Sequence[str] | None = None,
        read_only: bool = False,
        notes: Mapping[str, str] | None = None,
        *,
        skip_damaged: bool = False,
    ) -> None:
        if arms is None:
            if folder is None:
                raise ValueError("a score log in memory needs the names of its arms")
            arms, notes = _columns_of(Path(folder))
        self.arms = tuple(arms)
        self.notes = tuple(notes or ())
        scores = ((f"p_{arm}", "<f4") for arm in self.arms)
        dtype = np.dtype([*_ROW, *scores, *(notes or {}).items()])
        self._dtype = dtype
        self._log: RowLogLike = (
            MemoryRowLog(dtype)
            if folder is None
            else RowLog(Path(folder), dtype, read_only=read_only, skip_damaged=skip_damaged)
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self._dtype.names or ()

    def append(self, columns: Mapping[str, NDArray[Any] | None]) -> None:
        """Add rows; ``list_id``, ``oracle`` and any ``p_<arm>`` may be absent or None (0, NaN, NaN)."""
        unknown = set(columns) - set(self.columns)
        if unknown:
            raise ValueError(f"the score log has no columns {sorted(unknown)}; it has {list(self.columns)}")
        ts = np.asarray(columns["ts"], np.int64)
        rows = np.empty(len(ts), self._dtype)
        for name in self.columns:
            value = columns.get(name)
            if value is None and not (name in _DEFAULTS or name.startswith("p_")):
                raise ValueError(f"column {name!r} is missing")
            rows[name] = _DEFAULTS.get(name, np.nan) if value is None else value
        self._log.append(rows, ts // DAY_MS)

    def read(
        self, domain: int | None = None, first_day: int | None = None, last_day: int | None = None
    ) -> dict[str, NDArray[Any]]:
        """Columns of the rows of one domain (or all) and of some event days, by day, then in the order in which they were scored."""
        rows = self._log.read(first_day, last_day)
        if domain is not None:
            rows = rows[rows["domain"] == domain]
        return {name: np.ascontiguousarray(rows[name]) for name in self.columns}

    def __len__(self) -> int:
        return sum(self.sizes().values())

    def sizes(self) -> dict[int, int]:
        """Number of rows of each event day; checkpoints record it."""
        return self._log.sizes()

    def truncate(self, sizes: Mapping[int, int]) -> None:
        """See :meth:`RowLog.truncate`."""
        self._log.truncate(sizes)

    def drop_before(self, day: int) -> None:
        """See :meth:`RowLog.drop_before`."""
        self._log.drop_before(day)

    def flush(self, fsync: bool = False) -> None:
        """See :meth:`RowLog.flush`."""
        self._log.flush(fsync)

    def close(self) -> None:
        """Close the files."""
        self._log.close()


def _columns_of(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Arms and notes of a folder."""
    schema = read_schema(folder)
    if schema is None:
        raise StateError(
            f"there is no score log in {folder}; name the state folder of a run that has scored rows"
        )
    further = [(name, dtype) for name, dtype, *_ in schema.descr if name not in dict(_ROW)]
    arms = [name.removeprefix("p_") for name, _ in further if name.startswith("p_")]
    return arms, {name: dtype for name, dtype in further if not name.startswith("p_")}
