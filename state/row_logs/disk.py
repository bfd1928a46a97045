"""``RowLog``: append-only rows of fixed width, one file per event day; checkpoints record the valid sizes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import StateError
from ecdctr.state.files import fsync_dir, fsync_file, write_all, write_atomic
from ecdctr.state.row_logs.protocol import runs_by_day

__all__ = ["RowLog"]

_OPEN_FILES = 8  # the rows of a batch belong to one or two event days; late rows to a few more

_log = logging.getLogger(__name__)


class RowLog:
    """Rows of a structured dtype, in files ``day-<day>.rows`` of plain little-endian records.

    Nothing is buffered in the process: rows survive ``kill -9`` as soon as :meth:`append` returns. Recovery cuts off the
    rows that were appended after the last checkpoint (:meth:`truncate`), and the replayed steps append them again.
    One thread appends; :meth:`flush` may run in another, and does not block it.

    Parameters
    ----------
    folder
        Created if absent; its ``schema.json`` must agree with ``dtype``.
    dtype
        Structured dtype of the rows.
    read_only
        Open for reading while another process writes: nothing is created or truncated, and each call reads the sizes again.
    """

    def __init__(self, folder: Path, dtype: np.dtype[Any], read_only: bool = False) -> None:
        self.folder = Path(folder)
        self.dtype = np.dtype(dtype)
        self._read_only = read_only
        self._fds: OrderedDict[int, int] = OrderedDict()
        self._dirty: set[int] = set()
        self._lock = threading.Lock()
        self._new_names = False
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._check_schema()
        self._first_day = self._read_first_day()
        self._rows = self._find_segments()

    def append(self, rows: NDArray[Any], days: NDArray[np.int64]) -> None:
        """Add rows, each to its event day (``ts_ms // 86_400_000``); the order within a day is preserved.

        Raises
        ------
        StateError
            The rows could not be written completely (disk full); the log is as it was before.
        """
        before: dict[int, int] = {}
        with self._lock:
            try:
                for day, run in runs_by_day(np.ascontiguousarray(rows, self.dtype), days):
                    before[day] = self._rows.get(day, 0)
                    write_all(self._fd(day), run.view(np.uint8).data)
                    self._rows[day] = before[day] + len(run)
                    self._dirty.add(day)
            except OSError as error:
                for day, count in before.items():
                    self._truncate_day(day, count)
                raise StateError(
                    f"row log {self.folder}: {len(rows)} rows could not be written: {error.strerror}; free some space"
                ) from error

    def sizes(self) -> dict[int, int]:
        """Rows of each event day, oldest first."""
        if self._read_only:
            self._rows = self._find_segments()
        return dict(sorted(self._rows.items()))

    def truncate(self, sizes: Mapping[int, int]) -> None:
        """Truncate each day to ``sizes[day]`` rows; days that are not in ``sizes`` are removed.

        ``sizes`` may contain missing days before :meth:`first_day`: they were removed after the sizes were recorded.

        Raises
        ------
        StateError
            A day has fewer rows than ``sizes`` requires; nothing is truncated then.
        """
        for day, recorded in sizes.items():
            found = self._rows.get(day, 0)
            if found < recorded and day >= self._first_day:
                raise StateError(
                    f"row log {self._path(day)} has {found} rows, the checkpoint records {recorded}; restore the file "
                    "or start from an older checkpoint"
                )
        with self._lock:
            for day in list(self._rows):
                if day not in sizes:
                    self._remove(day)
                elif self._rows[day] > sizes[day]:
                    self._truncate_day(day, sizes[day])

    def read(self, first_day: int | None = None, last_day: int | None = None) -> NDArray[Any]:
        """All rows of the days ``first_day..last_day`` (both included), by day, then in the order appended."""
        chosen = self._chosen(first_day, last_day)
        out = np.empty(sum(count for _, count in chosen), self.dtype)
        at = 0
        for day, count in chosen:
            self._read_into(out[at : at + count], day, 0)
            at += count
        return out

    def iter_chunks(
        self, rows: int, first_day: int | None = None, last_day: int | None = None
    ) -> Iterator[NDArray[Any]]:
        """The rows of :meth:`read` in chunks of ``rows`` rows across days; the last chunk may be smaller."""
        chosen = self._chosen(first_day, last_day)
        left = sum(count for _, count in chosen)
        day_at, row_at = 0, 0
        while left:
            out = np.empty(min(rows, left), self.dtype)
            filled = 0
            while filled < len(out):
                day, count = chosen[day_at]
                take = min(count - row_at, len(out) - filled)
                self._read_into(out[filled : filled + take], day, row_at)
                filled, row_at = filled + take, row_at + take
                if row_at == count:
                    day_at, row_at = day_at + 1, 0
            left -= len(out)
            yield out

    def drop_before(self, day: int) -> None:
        """Remove all days before ``day`` permanently."""
        if day > self._first_day:
            # Written first: a crash before the removal leaves days that the next call removes.
            write_atomic(self.folder / "first-day.json", json.dumps({"first_day": day}).encode())
            self._first_day = day
        with self._lock:
            for old in [d for d in self._rows if d < day]:
                self._remove(old)

    def first_day(self) -> int:
        """Days before this one were dropped."""
        return self._first_day

    def flush(self, fsync: bool = False) -> None:
        """With ``fsync``, make all rows durable: before a checkpoint records :meth:`sizes`."""
        if not fsync:
            return  # nothing is buffered in the process
        with self._lock:
            dirty, self._dirty = sorted(self._dirty), set()
            new_names, self._new_names = self._new_names, False
        try:
            for day in dirty:
                with contextlib.suppress(FileNotFoundError):  # dropped in the meantime
                    fsync_file(self._path(day))
            if new_names:
                fsync_dir(self.folder)
        except OSError:
            with self._lock:
                self._dirty.update(dirty)
                self._new_names |= new_names
            raise

    def close(self) -> None:
        """Close the open files."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _path(self, day: int) -> Path:
        return self.folder / f"day-{day:07d}.rows"

    def _fd(self, day: int) -> int:
        fd = self._fds.pop(day, None)
        if fd is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            fd = os.open(self._path(day), flags, 0o644)
            self._new_names |= day not in self._rows
        self._fds[day] = fd
        while len(self._fds) > _OPEN_FILES:
            os.close(self._fds.popitem(last=False)[1])
        return fd

    def _truncate_day(self, day: int, rows: int) -> None:
        if rows == 0:
            self._remove(day)
            return
        os.truncate(self._path(day), rows * self.dtype.itemsize)
        self._rows[day] = rows
        self._dirty.add(day)

    def _remove(self, day: int) -> None:
        fd = self._fds.pop(day, None)
        if fd is not None:
            os.close(fd)
        self._path(day).unlink(missing_ok=True)
        self._rows.pop(day, None)
        self._dirty.discard(day)
        self._new_names = True

    def _chosen(self, first_day: int | None, last_day: int | None) -> list[tuple[int, int]]:
        return [
            (day, count)
            for day, count in self.sizes().items()
            if (first_day is None or day >= first_day) and (last_day is None or day <= last_day)
        ]

    def _read_into(self, out: NDArray[Any], day: int, row: int) -> None:
        width = self.dtype.itemsize
        with self._path(day).open("rb") as file:
            file.seek(row * width)
            found = file.readinto(out.view(np.uint8).data)
        if found != len(out) * width:
            raise StateError(f"row log {self._path(day)} ends before row {row + len(out)}; restore the file")

    def _find_segments(self) -> dict[int, int]:
        rows: dict[int, int] = {}
        for path in self.folder.glob("day-*.rows"):
            day = int(path.stem.removeprefix("day-"))
            rows[day], incomplete_bytes = divmod(path.stat().st_size, self.dtype.itemsize)
            if incomplete_bytes and not self._read_only:
                _log.warning("row log %s: removed an incomplete last row of %d bytes", path, incomplete_bytes)
                os.truncate(path, rows[day] * self.dtype.itemsize)
        return {day: count for day, count in rows.items() if count}

    def _check_schema(self) -> None:
        path = self.folder / "schema.json"
        wanted = json.loads(json.dumps(np.lib.format.dtype_to_descr(self.dtype)))
        if not path.exists():
            if self._read_only:
                raise StateError(f"there is no row log in {self.folder}")
            write_atomic(path, json.dumps({"dtype": wanted}).encode())
            return
        found = json.loads(path.read_bytes())["dtype"]
        if found != wanted:
            raise StateError(
                f"row log {self.folder} has rows of dtype {found}, the configuration requires {wanted}; "
                "restore the old feature list or name another state folder"
            )

    def _read_first_day(self) -> int:
        path = self.folder / "first-day.json"
        return int(json.loads(path.read_bytes())["first_day"]) if path.exists() else 0
