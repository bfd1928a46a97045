"""``RowLog``: append-only rows of fixed width, one file per event day; checkpoints record the valid sizes."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import StateError
from ecdctr.state.files import fsync_dir, fsync_file, make_folder, open_regular, write_all
from ecdctr.state.row_logs.protocol import runs_by_day
from ecdctr.state.row_logs.schema import (
    FORMAT_WITHOUT_SUMS,
    describe,
    read_first_day,
    read_schema,
    write_first_day,
    write_schema,
)
from ecdctr.state.row_logs.sums import SUM_BYTES, Blocks, add_sums, encode_sum, truncate_if_longer

__all__ = ["RowLog"]

_OPEN_DAYS = 8  # the rows of a batch belong to one or two event days; late rows to a few more
_PIECE_ROWS = 65_536
_DAY = re.compile(r"day-(\d{7,})\.rows")

_log = logging.getLogger(__name__)


class RowLog:
    """Rows of a structured dtype, in files ``day-<day>.rows`` of plain little-endian records, with checksums in ``day-<day>.sums``.

    Nothing is buffered in the process: rows survive ``kill -9`` as soon as :meth:`append` returns. Recovery cuts off the
    rows that were appended after the last checkpoint (:meth:`truncate`), and the replayed steps append them again. The checksum of
    each block (what one append wrote for a day) is verified whenever its rows are read.
    One thread appends; :meth:`flush` may run in another, and does not block it.

    Parameters
    ----------
    folder
        Created if absent; its ``schema.json`` must agree with ``dtype``. Checksums are added to a log of an earlier version, which had
        none.
    dtype
        Structured dtype of the rows.
    read_only
        Open for reading while another process writes: nothing is created or truncated, and each call reads the sizes again. Rows of an
        earlier version are read without verification.
    skip_damaged
        Leave damaged blocks out when rows are read, and name each once in the log; otherwise reading them is an error.
    """

    def __init__(
        self, folder: Path, dtype: np.dtype[Any], read_only: bool = False, *, skip_damaged: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.dtype = np.dtype(dtype)
        self._read_only, self._skip_damaged = read_only, skip_damaged
        self._fds: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._dirty: set[int] = set()
        self._lock = threading.Lock()
        self._new_names = False
        self._named: set[object] = set()
        if not read_only:
            make_folder(self.folder, "row log")
        self._has_sums = self._check_schema()
        self._blocks: dict[int, int] = {}
        self._rows = self._find_days()
        self._first_day = self._read_first_day()

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
                    rows_fd, sums_fd = self._open(day)
                    write_all(rows_fd, run.view(np.uint8).data)
                    write_all(sums_fd, encode_sum(run))
                    self._rows[day] = before[day] + len(run)
                    self._blocks[day] = self._blocks.get(day, 0) + 1
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
            self._rows = self._find_days()
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
                    f"row log {self._path(day)} has {found} rows with checksums, the checkpoint records {recorded}; restore the "
                    f"file and {self._sums_path(day).name} or start from an older checkpoint"
                )
        with self._lock:
            for day in list(self._rows):
                if day not in sizes:
                    self._remove(day)
                elif self._rows[day] > sizes[day]:
                    self._truncate_day(day, sizes[day])

    def read(self, first_day: int | None = None, last_day: int | None = None) -> NDArray[Any]:
        """All rows of the days ``first_day..last_day`` (both included), by day, then in the order appended.

        Raises
        ------
        StateError
            Rows are damaged (not with ``skip_damaged``); the message contains the file and the rows.
        """
        chosen = self._chosen(first_day, last_day)
        out = np.empty(sum(count for _, count in chosen), self.dtype)
        at = 0
        for piece in self._pieces(chosen):
            out[at : at + len(piece)] = piece
            at += len(piece)
        return out[:at]

    def iter_chunks(
        self, rows: int, first_day: int | None = None, last_day: int | None = None
    ) -> Iterator[NDArray[Any]]:
        """The rows of :meth:`read` in chunks of ``rows`` rows across days; the last chunk may be smaller."""
        chosen = self._chosen(first_day, last_day)
        left = sum(count for _, count in chosen)
        out, filled = np.empty(min(rows, left), self.dtype), 0
        for piece in self._pieces(chosen):
            at = 0
            while at < len(piece):
                take = min(len(piece) - at, len(out) - filled)
                out[filled : filled + take] = piece[at : at + take]
                at, filled = at + take, filled + take
                if filled == len(out):
                    yield out
                    left -= filled
                    out, filled = np.empty(min(rows, left), self.dtype), 0
        if filled:
            yield out[:filled]

    def drop_before(self, day: int) -> None:
        """Remove all days before ``day`` permanently."""
        if day > self._first_day:
            # Written first: a crash before the removal leaves days that the next call removes.
            write_first_day(self.folder, day)
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
                    fsync_file(self._sums_path(day))
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
            _close(self._fds.popitem()[1])

    def _path(self, day: int) -> Path:
        return self.folder / f"day-{day:07d}.rows"

    def _sums_path(self, day: int) -> Path:
        return self.folder / f"day-{day:07d}.sums"

    def _open(self, day: int) -> tuple[int, int]:
        """Files of rows and checksums of a day, opened for appending; what an interrupted append left is removed."""
        fds = self._fds.pop(day, None)
        if fds is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            rows_fd = os.open(self._path(day), flags, 0o644)
            try:
                fds = rows_fd, os.open(self._sums_path(day), flags, 0o644)
            except OSError:
                os.close(rows_fd)
                raise
            truncate_if_longer(fds[0], self._rows.get(day, 0) * self.dtype.itemsize)
            truncate_if_longer(fds[1], self._blocks.get(day, 0) * SUM_BYTES)
            self._new_names |= day not in self._rows
        self._fds[day] = fds
        while len(self._fds) > _OPEN_DAYS:
            _close(self._fds.popitem(last=False)[1])
        return fds

    def _truncate_day(self, day: int, rows: int) -> None:
        if rows == 0:
            self._remove(day)
            return
        found = Blocks(self._path(day), self._sums_path(day), self.dtype.itemsize)
        blocks, end = found.before(rows)
        rest = b""
        if end < rows:  # within a block: no checkpoint records such a size
            piece, damaged = next(found.read(self.dtype, blocks))
            if damaged and damaged[0][0] == end:
                raise StateError(self._damage(day, *damaged[0]))
            rest = encode_sum(piece[: rows - end])
        os.truncate(self._sums_path(day), blocks * SUM_BYTES)
        if rest:
            with self._sums_path(day).open("ab") as file:
                file.write(rest)
        os.truncate(self._path(day), rows * self.dtype.itemsize)
        self._rows[day], self._blocks[day] = rows, blocks + bool(rest)
        self._dirty.add(day)

    def _remove(self, day: int) -> None:
        fds = self._fds.pop(day, None)
        if fds is not None:
            _close(fds)
        self._path(day).unlink(missing_ok=True)
        self._sums_path(day).unlink(missing_ok=True)
        self._rows.pop(day, None)
        self._blocks.pop(day, None)
        self._dirty.discard(day)
        self._new_names = True

    def _chosen(self, first_day: int | None, last_day: int | None) -> list[tuple[int, int]]:
        return [
            (day, count)
            for day, count in self.sizes().items()
            if (first_day is None or day >= first_day) and (last_day is None or day <= last_day)
        ]

    def _pieces(self, chosen: list[tuple[int, int]]) -> Iterator[NDArray[Any]]:
        """The first rows of some days ``(day, rows)``, verified."""
        for day, count in chosen:
            if not self._has_sums:
                yield from self._unverified(day, count)
                continue
            blocks = Blocks(self._path(day), self._sums_path(day), self.dtype.itemsize)
            for piece, damaged in blocks.read(
                self.dtype, rows=count
            ):  # more may have been appended meanwhile
                for first, end in damaged:
                    message = self._damage(day, first, end)
                    if not self._skip_damaged:
                        raise StateError(f"{message}; restore the file from a copy")
                    if (day, first) not in self._named:
                        self._named.add((day, first))
                        _log.error("%s; they are left out", message)
                yield piece

    def _damage(self, day: int, first: int, end: int) -> str:
        return f"row log {self._path(day)}: rows {first} to {end - 1} are damaged (their checksum is another one)"

    def _unverified(self, day: int, count: int) -> Iterator[NDArray[Any]]:
        with open_regular(self._path(day)) as file:
            for first in range(0, count, _PIECE_ROWS):
                piece = np.empty(min(_PIECE_ROWS, count - first), self.dtype)
                if file.readinto(piece.view(np.uint8).data) != piece.nbytes:
                    raise StateError(
                        f"row log {self._path(day)} ends before row {first + len(piece)}; restore the file"
                    )
                yield piece

    def _find_days(self) -> dict[int, int]:
        rows: dict[int, int] = {}
        for path in sorted(self.folder.glob("day-*.rows")):
            name = _DAY.fullmatch(path.name)
            if name is None or path.is_symlink() or not path.is_file():
                self._name_once(path.name, f"{path} is no file of this row log: it is passed over")
                continue
            day, size = int(name[1]), path.stat().st_size
            if not self._has_sums:
                rows[day] = size // self.dtype.itemsize
                continue
            found = Blocks(path, self._sums_path(day), self.dtype.itemsize)
            rows[day], self._blocks[day] = found.rows, found.count
            beyond = size - found.rows * self.dtype.itemsize
            if beyond and not self._read_only:
                _log.warning(
                    "row log %s: the last %d bytes have no checksum, because a write was interrupted; they are not read",
                    path,
                    beyond,
                )
            if not found.whole and not self._read_only:
                _log.error("row log %s ends after %d rows, and there are checksums of more", path, found.rows)
        return {day: count for day, count in rows.items() if count}

    def _name_once(self, key: object, message: str) -> None:
        if key not in self._named:
            self._named.add(key)
            _log.warning("%s", message)

    def _check_schema(self) -> bool:
        """Compare the schema with the rows' type; returns whether the log has checksums."""
        schema = read_schema(self.folder)
        if schema is None:
            if self._read_only:
                raise StateError(f"there is no row log in {self.folder}")
            self._add_sums()
            return True
        wanted = describe(self.dtype)
        if schema.descr != wanted:
            raise StateError(
                f"row log {self.folder} has rows of dtype {schema.descr}, the configuration requires {wanted}; "
                "restore the old feature list or name another state folder"
            )
        if schema.format == FORMAT_WITHOUT_SUMS:
            if self._read_only:
                _log.info(
                    "row log %s was written by an earlier version: its rows have no checksums", self.folder
                )
                return False
            self._add_sums()
        return True

    def _add_sums(self) -> None:
        """Give a new log its schema, and the rows of one of an earlier version checksums."""
        rows = 0
        for path in self.folder.glob("day-*.rows"):
            name = _DAY.fullmatch(path.name)
            if name is not None and path.is_file() and not path.is_symlink():
                sums = self._sums_path(int(name[1]))
                if not sums.exists():
                    rows += add_sums(path, sums, self.dtype)
        write_schema(self.folder, self.dtype)
        if rows:
            _log.info("row log %s: checksums were added to %d rows of an earlier version", self.folder, rows)

    def _read_first_day(self) -> int:
        try:
            return read_first_day(self.folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            day = min(self._rows, default=0)
            _log.error(
                "%s is damaged (%s): the oldest day there is, %d, is taken as the first one",
                self.folder / "first-day.json",
                error,
                day,
            )
            return day


def _close(fds: tuple[int, int]) -> None:
    for fd in fds:
        os.close(fd)
