"""``Table``: the few accesses to flatbuffers that the metadata of Arrow messages needs; all of them are bounded."""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["DAMAGED", "Table", "root"]

DAMAGED = (struct.error, IndexError, UnicodeDecodeError)
"""Errors of accesses to damaged bytes."""


class Table(NamedTuple):
    """A table of a flatbuffer; a field that is absent has its default.

    Parameters
    ----------
    data
        The flatbuffer.
    at
        Position of the table.
    """

    data: bytes
    at: int

    def field(self, number: int) -> int:
        """Position of a field; 0 if it is absent."""
        vtable = self.at - int(struct.unpack_from("<i", self.data, self.at)[0])
        if vtable < 0:
            raise IndexError
        size = struct.unpack_from("<H", self.data, vtable)[0]
        slot = 4 + 2 * number
        if slot + 2 > size:
            return 0
        offset = int(struct.unpack_from("<H", self.data, vtable + slot)[0])
        return self.at + offset if offset else 0

    def scalar(self, number: int, form: str, default: int = 0) -> int:
        """A number; ``form`` as in :mod:`struct`."""
        at = self.field(number)
        return int(struct.unpack_from("<" + form, self.data, at)[0]) if at else default

    def table(self, number: int) -> Table | None:
        """A table that the field refers to."""
        at = self.field(number)
        return Table(self.data, self._target(at)) if at else None

    def tables(self, number: int) -> list[Table]:
        """A vector of tables."""
        at = self.field(number)
        if not at:
            return []
        vector, count = self._vector(at, 4)
        return [Table(self.data, self._target(vector + 4 * i)) for i in range(count)]

    def integers(self, number: int, width: int = 2) -> tuple[int, ...]:
        """All 64-bit integers of a vector of structs of ``width`` of them."""
        at = self.field(number)
        if not at:
            return ()
        vector, count = self._vector(at, 8 * width)
        return struct.unpack_from(f"<{width * count}q", self.data, vector)

    def pairs(self, number: int) -> list[tuple[int, int]]:
        """A vector of structs of two 64-bit integers."""
        flat = self.integers(number)
        return list(zip(flat[::2], flat[1::2], strict=True))

    def count(self, number: int) -> int:
        """Length of a vector of tables."""
        at = self.field(number)
        return self._vector(at, 4)[1] if at else 0

    def text_size(self, number: int) -> int:
        """Bytes of a string."""
        at = self.field(number)
        return self._vector(at, 1)[1] if at else 0

    def text(self, number: int) -> str:
        """A string."""
        at = self.field(number)
        if not at:
            return ""
        start, size = self._vector(at, 1)
        return self.data[start : start + size].decode()

    def _vector(self, at: int, item: int) -> tuple[int, int]:
        """Position of the first item of a vector, and the number of items, which all lie within the data."""
        start = self._target(at)
        count = int(struct.unpack_from("<I", self.data, start)[0])
        if start + 4 + item * count > len(self.data):
            raise IndexError
        return start + 4, count

    def _target(self, at: int) -> int:
        return at + int(struct.unpack_from("<I", self.data, at)[0])


def root(data: bytes) -> Table:
    """The root table."""
    return Table(data, int(struct.unpack_from("<I", data, 0)[0]))
