"""Checksums of the rows of one event day: one record per block, which is what one append wrote for the day."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from ecdctr.state.errors import StateError
from ecdctr.state.files import open_regular, write_atomic

__all__ = ["SUM_BYTES", "Blocks", "add_sums", "encode_sum", "truncate_if_longer"]

_SUM = np.dtype([("rows", "<u4"), ("crc", "<u4")])
SUM_BYTES = _SUM.itemsize
_PIECE_ROWS = 65_536  # rows read at a time, at least one block
_ADDED_ROWS = 4_096  # rows of a block of a file that had no checksums


def encode_sum(rows: NDArray[Any]) -> bytes:
    """The record of a block: its number of rows and the CRC-32C of their bytes (RFC 3720, B.4: 32 bytes of zeroes).

    >>> encode_sum(np.zeros(4, "<u8")).hex()
    '04000000aa36918a'
    """
    return struct.pack("<II", len(rows), crc32c(rows.view(np.uint8).data))


class Blocks:
    """The blocks of one day, as far as both its files hold them.

    Parameters
    ----------
    rows_path, sums_path
        The file of the rows, and that of the checksums.
    width
        Bytes of a row.

    Attributes
    ----------
    count, rows
        Number of blocks, and of their rows. Bytes beyond them belong to an append that was interrupted.
    whole
        Whether there is no record of a block that the file of the rows does not hold.
    """

    def __init__(self, rows_path: Path, sums_path: Path, width: int) -> None:
        self._path, self._width = rows_path, width
        try:
            with open_regular(sums_path) as file:
                records = np.fromfile(file, _SUM)
        except FileNotFoundError:
            records = np.empty(0, _SUM)
        except OSError as error:
            raise StateError(f"row log {sums_path} cannot be read: {error.strerror}") from error
        ends = np.cumsum(records["rows"], dtype=np.int64)
        held = rows_path.stat().st_size // width if rows_path.exists() else 0
        self.count = int(np.searchsorted(ends, held, side="right"))
        self.whole = self.count == len(records)
        self._records, self._ends = records[: self.count], ends[: self.count]
        self.rows = int(self._ends[-1]) if self.count else 0

    def before(self, row: int) -> tuple[int, int]:
        """Number of blocks that end at or before a row, and where the last of them ends."""
        blocks = int(np.searchsorted(self._ends, row, side="right"))
        return blocks, int(self._ends[blocks - 1]) if blocks else 0

    def read(
        self, dtype: np.dtype[Any], first_block: int = 0, rows: int | None = None
    ) -> Iterator[tuple[NDArray[Any], list[tuple[int, int]]]]:
        """Verified rows in pieces of whole blocks, each with the ranges ``(first, end)`` of rows that are damaged and left out.

        Parameters
        ----------
        dtype
            Type of the rows.
        first_block
            Where to begin.
        rows
            Blocks that end after this row are not read; default: all are.

        Raises
        ------
        StateError
            The file ends before a block that it held before.
        """
        count = self.count if rows is None else self.before(rows)[0]
        starts = self._ends - self._records["rows"]
        at = first_block
        with open_regular(self._path) as file:
            while at < count:
                end = int(np.searchsorted(self._ends, starts[at] + _PIECE_ROWS, side="right"))
                end = min(max(at + 1, end), count)
                first = int(starts[at])
                piece = np.empty(int(self._ends[end - 1]) - first, dtype)
                data = piece.view(np.uint8).data
                file.seek(first * self._width)
                if file.readinto(data) != len(data):
                    raise StateError(
                        f"row log {self._path} ends before row {first + len(piece)}; restore the file"
                    )
                damaged = [
                    (int(starts[i]), int(self._ends[i]))
                    for i in range(at, end)
                    if crc32c(data[(starts[i] - first) * self._width : (self._ends[i] - first) * self._width])
                    != self._records["crc"][i]
                ]
                if damaged:
                    good = np.ones(len(piece), np.bool_)
                    for low, high in damaged:
                        good[low - first : high - first] = False
                    piece = piece[good]
                yield piece, damaged
                at = end


def add_sums(rows_path: Path, sums_path: Path, dtype: np.dtype[Any]) -> int:
    """Write the checksums of a file that an earlier version wrote without them; returns its number of rows."""
    with open_regular(rows_path) as file:
        rows = np.fromfile(file, dtype, rows_path.stat().st_size // dtype.itemsize)
    blocks = [rows[i : i + _ADDED_ROWS] for i in range(0, len(rows), _ADDED_ROWS)]
    write_atomic(sums_path, b"".join(map(encode_sum, blocks)))
    return len(rows)


def truncate_if_longer(fd: int, size: int) -> None:
    """Remove the bytes of a file after a size."""
    if os.fstat(fd).st_size > size:
        os.ftruncate(fd, size)
