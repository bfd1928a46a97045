"""``read_schema``: which arrays and buffers the batches of a stream must have (Arrow columnar format, ``Schema.fbs``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from ecdctr.events.arrow.errors import PackedError
from ecdctr.events.arrow.flatbuffers import DAMAGED, Table, root
from ecdctr.events.arrow.limits import MAX_DEPTH, MAX_FIELDS, MAX_TEXT
from ecdctr.events.values import show

__all__ = ["Array", "Layout", "Plan", "Type", "read_schema"]


class Type:
    """Numbers of the types in ``Schema.fbs``."""

    NULL, INT, FLOAT, BINARY, UTF8, BOOL, DECIMAL, DATE, TIME, TIMESTAMP, INTERVAL = range(1, 12)
    LIST, STRUCT, UNION, FIXED_BINARY, FIXED_LIST, MAP, DURATION = range(12, 19)
    LARGE_BINARY, LARGE_UTF8, LARGE_LIST, RUN_ENDS, BINARY_VIEW, UTF8_VIEW = range(19, 25)
    LIST_VIEW, LARGE_LIST_VIEW = range(25, 27)


_NAMES = {number: name.lower() for name, number in vars(Type).items() if isinstance(number, int)}


def _name(kind: int) -> str:
    return _NAMES.get(kind, f"number {kind}").replace("_", " ")


_OFFSETS = {
    Type.BINARY: 32,
    Type.UTF8: 32,
    Type.LIST: 32,
    Type.MAP: 32,
    Type.LARGE_BINARY: 64,
    Type.LARGE_UTF8: 64,
    Type.LARGE_LIST: 64,
}
_HAS_DATA = (Type.BINARY, Type.UTF8, Type.LARGE_BINARY, Type.LARGE_UTF8)
_VIEWS = (Type.BINARY_VIEW, Type.UTF8_VIEW)
_NESTED = (
    Type.LIST,
    Type.STRUCT,
    Type.UNION,
    Type.FIXED_LIST,
    Type.MAP,
    Type.LARGE_LIST,
    Type.LIST_VIEW,
    Type.LARGE_LIST_VIEW,
)


class Buffer(NamedTuple):
    """A buffer that an array of n values has.

    Attributes
    ----------
    bits
        Bits per value that it must hold; 0: any number.
    more
        Values that it must hold in addition to n (offsets: 1).
    optional
        Whether it may be empty (validity: no value is null).
    """

    bits: int
    more: int = 0
    optional: bool = False


_VALIDITY = Buffer(1, optional=True)
_ANY = Buffer(0)


@dataclass(slots=True)
class Array:
    """An array of each batch.

    Attributes
    ----------
    column
        Name of the column that it belongs to.
    type
        Of its values (dictionary: of the dictionary's values).
    buffers
        In the order of the batch.
    is_column
        Whether it is the column itself, which has a value for each row.
    views
        Whether further buffers follow, whose number the batch states.
    per_row
        Values of a fixed-size list; the child that follows has so many for each.
    dictionary
        Id of its dictionary; None: it has none. The buffers are those of the indices then.
    signed
        Whether the indices are signed.
    width
        Bytes of a value of a fixed-size binary type.
    """

    column: str
    type: int
    buffers: tuple[Buffer, ...] = ()
    is_column: bool = False
    views: bool = False
    per_row: int = 0
    dictionary: int | None = None
    signed: bool = True
    width: int = 0

    @property
    def type_name(self) -> str:
        """The type as text for messages."""
        return _name(self.type)

    @property
    def is_nested(self) -> bool:
        return self.type in _NESTED


@dataclass(slots=True)
class Layout:
    """Arrays of a record batch, in its order, and those of each dictionary by its id.

    Attributes
    ----------
    columns
        Names of the columns.
    unions
        Whether there is a union, whose buffers depend on the version of the format.
    """

    arrays: list[Array] = field(default_factory=list)
    dictionaries: dict[int, list[Array]] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    unions: bool = False
    plan: Plan | None = None


class Plan:
    """What :func:`ecdctr.events.arrow.stream.walk` compares with each record batch, prepared once for a schema.

    Attributes
    ----------
    arrays
        Number of arrays.
    buffers
        Of each buffer: the number of its array, and the attributes of :class:`Buffer`.
    views
        Of each array with further buffers: the number of buffers from those of the last such array to its own.
    columns
        Numbers of the arrays that are columns.
    simple
        Whether no array needs a check of its own: there are no dictionaries, fixed-size lists and nulls within columns.
    """

    def __init__(self, arrays: list[Array]) -> None:
        self.arrays = len(arrays)
        self.buffers = [(i, *buffer) for i, array in enumerate(arrays) for buffer in array.buffers]
        self.views: list[int] = []
        step = 0
        for array in arrays:
            step += len(array.buffers)
            if array.views:
                self.views.append(step)
                step = 0
        self.columns = [i for i, array in enumerate(arrays) if array.is_column]
        self.simple = not any(
            array.dictionary is not None
            or array.type == Type.FIXED_LIST
            or (array.type == Type.NULL and not array.is_column)
            for array in arrays
        )


@lru_cache(maxsize=64)
def read_schema(metadata: bytes) -> Layout:
    """The layout that a schema message describes.

    Raises
    ------
    PackedError
        It is damaged, nested too deep, has too many fields or too much text, or a type that cannot be read.
    """
    try:
        schema = root(metadata).table(2)
        if schema is None:
            raise PackedError("the schema is damaged")
        if schema.scalar(0, "h"):
            raise PackedError("is big-endian; send little-endian data")
        return _Reader().layout(schema)
    except DAMAGED:
        raise PackedError("the schema is damaged") from None


class _Reader:
    """Walks the fields of a schema. A flatbuffer can refer to the same field many times: each visit counts."""

    def __init__(self) -> None:
        self.fields = self.text = 0
        self.out = Layout()

    def layout(self, schema: Table) -> Layout:
        self._count_metadata(schema, 2)
        self._claim(schema.count(1))
        for table in schema.tables(1):
            name = table.text(0) if table.text_size(0) <= MAX_TEXT else ""
            self.out.columns.append(name)
            start = len(self.out.arrays)
            self.out.arrays += self._arrays(table, name, 1)
            self.out.arrays[start].is_column = True
        self.out.plan = Plan(self.out.arrays)
        return self.out

    def _claim(self, count: int) -> None:
        self.fields += count
        if self.fields > MAX_FIELDS:
            raise PackedError(f"has more than {MAX_FIELDS:,} columns, those within columns included")

    def _count_text(self, size: int) -> None:
        self.text += size
        if self.text > MAX_TEXT:
            raise PackedError(f"has more than {MAX_TEXT:,} bytes of names and metadata")

    def _count_metadata(self, table: Table, number: int) -> None:
        self._count_text(16 * table.count(number))
        for pair in table.tables(number):
            self._count_text(pair.text_size(0) + pair.text_size(1))

    def _arrays(self, table: Table, column: str, depth: int) -> Iterator[Array]:
        if depth > MAX_DEPTH:
            raise PackedError(f"column {show(column)} is nested more than {MAX_DEPTH} levels deep")
        self._count_text(table.text_size(0))
        self._count_metadata(table, 6)
        kind, of = table.scalar(2, "B"), table.table(3)
        self.out.unions |= kind == Type.UNION
        self._claim(table.count(5))
        encoding = table.table(4)
        value = _array(column, kind, of)
        children = [array for child in table.tables(5) for array in self._arrays(child, column, depth + 1)]
        if encoding is None:
            yield value
            yield from children
            return
        index = encoding.table(1)
        bits = 32 if index is None else index.scalar(0, "i")
        signed = True if index is None else bool(index.scalar(1, "B"))
        if bits not in (8, 16, 32, 64):
            raise PackedError(f"column {show(column)} has dictionary indices of {bits} bits")
        identity = encoding.scalar(0, "q")
        self.out.dictionaries[identity] = [value, *children]
        yield Array(
            column, kind, (_VALIDITY, Buffer(bits)), dictionary=identity, signed=signed, width=value.width
        )


def _array(column: str, kind: int, of: Table | None) -> Array:
    """The array of a type that has no dictionary, or of the values of a dictionary."""

    def option(number: int, form: str, default: int = 0) -> int:
        return default if of is None else of.scalar(number, form, default)

    if kind == Type.NULL:
        return Array(column, kind)
    if kind == Type.STRUCT:
        return Array(column, kind, (_VALIDITY,))
    if kind in _OFFSETS:
        offsets = Buffer(_OFFSETS[kind], 1)
        return Array(column, kind, (_VALIDITY, offsets, _ANY) if kind in _HAS_DATA else (_VALIDITY, offsets))
    if kind in _VIEWS:
        return Array(column, kind, (_VALIDITY, Buffer(128)), views=True)
    if kind in (Type.LIST_VIEW, Type.LARGE_LIST_VIEW):
        bits = 32 if kind == Type.LIST_VIEW else 64
        return Array(column, kind, (_VALIDITY, Buffer(bits), Buffer(bits)))
    if kind == Type.UNION:
        return Array(column, kind, (Buffer(8), Buffer(32)) if option(0, "h") else (Buffer(8),))
    if kind == Type.FIXED_LIST:
        size = option(0, "i")
        if size < 0:
            raise PackedError(f"column {show(column)} has lists of {size} values")
        return Array(column, kind, (_VALIDITY,), per_row=size)
    size_of: Callable[[], int] | None = {
        Type.INT: lambda: option(0, "i"),
        Type.FLOAT: lambda: {0: 16, 1: 32, 2: 64}.get(option(0, "h"), 0),
        Type.BOOL: lambda: 1,
        Type.DECIMAL: lambda: option(2, "i", 128),
        Type.DATE: lambda: 64 if option(0, "h", 1) else 32,
        Type.TIME: lambda: option(1, "i", 32),
        Type.TIMESTAMP: lambda: 64,
        Type.DURATION: lambda: 64,
        Type.INTERVAL: lambda: {0: 32, 1: 64, 2: 128}.get(option(0, "h"), 0),
        Type.FIXED_BINARY: lambda: 8 * option(0, "i"),
    }.get(kind)
    if size_of is None:
        raise PackedError(f"column {show(column)} has the type {_name(kind)}, which is not read")
    size = size_of()
    if size < 0 or (size == 0 and kind != Type.FIXED_BINARY):
        raise PackedError(f"column {show(column)} has values of {size} bits")
    return Array(column, kind, (_VALIDITY, Buffer(size)), width=size // 8 if kind == Type.FIXED_BINARY else 0)
