"""``walk``: checks every length that an Arrow IPC stream claims, before a reader trusts it (Arrow columnar format, "IPC Streaming")."""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.arrow import limits
from ecdctr.events.arrow.errors import PackedError
from ecdctr.events.arrow.flatbuffers import DAMAGED, Table, root
from ecdctr.events.arrow.schema import Array, Layout, Plan, Type, read_schema
from ecdctr.events.values import show

__all__ = ["CONTINUATION", "Walk", "claimed_rows", "walk"]

CONTINUATION = b"\xff\xff\xff\xff"
"""First bytes of each message of a stream; no JSON text begins with them."""

_SCHEMA, _DICTIONARY_BATCH, _RECORD_BATCH = 1, 2, 3  # MessageHeader in Arrow's Message.fbs
_V5 = 4
_INTEGERS = {1: "i1", 2: "<i2", 4: "<i4", 8: "<i8"}


class Walk(NamedTuple):
    """Content of a stream.

    Attributes
    ----------
    schema
        Bytes of the schema message.
    batches
        Bytes of the record batches; None: it has dictionaries.
    rows
        Number of rows.
    columns
        Names of the columns.
    """

    schema: bytes
    batches: bytes | None
    rows: int
    columns: list[str]


def walk(value: bytes, fields: Collection[str] | None = None) -> Walk:
    """Walk the encapsulated messages of a stream.

    1. Bytes, depth, number of fields and text of the schema are within the limits.
    2. Each batch has the arrays and buffers of the schema, every buffer lies within its body and is large enough for the values
       that are claimed, and the message is large enough for its rows.
    3. The indices of a dictionary column refer to values of the dictionary, and the values that replace them are within the limit.

    Parameters
    ----------
    value
        The stream.
    fields
        Columns that will be read; None: all.

    Raises
    ------
    PackedError
        A claim is wrong or beyond a limit.
    """
    if len(value) > limits.MAX_BYTES:
        raise PackedError(f"has {len(value):,} bytes; at most {limits.MAX_BYTES:,} are read")
    if value[:6] == b"ARROW1":
        raise PackedError("this is the Arrow IPC *file* format; send the stream format")
    checker = _Checker(fields)
    try:
        at = checker.run(value)
    except PackedError as error:
        raise PackedError(str(error), claimed_rows(value)) from None
    if not checker.schema_end:
        raise PackedError("contains no Arrow message")
    assert checker.layout is not None
    batches = value[checker.schema_end : at] if checker.plain else None
    return Walk(value[: checker.schema_end], batches, checker.rows, checker.layout.columns)


def claimed_rows(value: bytes) -> int:
    """Rows of a refused message, as far as it states a number that its size allows, and at least 1; they are counted, not read."""
    at, rows = 0, 0
    try:
        for _ in range(limits.MAX_BATCHES):
            marker, size = struct.unpack_from("<4si", value, at)
            if marker != CONTINUATION or size < 0:
                break
            if size == 0:  # the end of a stream; another one may follow
                at += 8
                continue
            message = root(value[at + 8 : at + 8 + size])
            header = message.table(2)
            if message.scalar(1, "B") == _RECORD_BATCH and header is not None:
                rows += max(0, header.scalar(0, "q"))
            at += 8 + size + max(0, message.scalar(3, "q"))
    except DAMAGED:
        pass
    return rows if 0 < rows * limits.ROW_BYTES <= len(value) else 1


class _Checker:
    """State of one walk."""

    def __init__(self, fields: Collection[str] | None) -> None:
        self.fields = fields
        self.layout: Layout | None = None
        self.rows = self.schema_end = self.batches = self.expanded = 0
        self.plain = True
        self.lengths: dict[int, NDArray[np.int64]] = {}  # of the values of each dictionary

    def run(self, value: bytes) -> int:
        """Check everything; return the end of the last message."""
        at, end = 0, len(value)
        while at < end:
            try:
                marker, size = struct.unpack_from("<4si", value, at)
            except struct.error:
                raise PackedError(f"truncated at byte {at} of {end}") from None
            if marker != CONTINUATION:
                raise PackedError(f"no Arrow IPC stream: byte {at} does not start a message")
            if size == 0:  # end of stream; rows after it would be lost without a word
                if value[at + 8 :].strip(b"\0"):
                    raise PackedError(
                        f"the stream ends at byte {at + 8} of {end}, and more follows: send one stream a message"
                    )
                break
            at += 8
            if size < 0 or at + size > end:
                raise PackedError(f"truncated: the message at byte {at - 8} claims {size} bytes of metadata")
            try:
                at = self._message(value, at, at + size)
            except DAMAGED:
                raise PackedError(f"the metadata at byte {at} is damaged") from None
            if self.rows * limits.ROW_BYTES > end:
                raise PackedError(
                    f"claims {self.rows:,} rows in {end:,} bytes; a row has at least {limits.ROW_BYTES}"
                )
        return at

    def _message(self, value: bytes, at: int, body_at: int) -> int:
        """Check the message whose metadata is ``value[at:body_at]``; return its end."""
        metadata = value[at:body_at]
        message = root(metadata)
        kind, body = message.scalar(1, "B"), message.scalar(3, "q")
        if body < 0 or body_at + body > len(value):
            raise PackedError(f"truncated: the message at byte {body_at} claims a body of {body} bytes")
        if (kind == _SCHEMA) != (self.schema_end == 0):
            raise PackedError("does not start with one schema")
        if kind == _SCHEMA:
            self.layout = read_schema(metadata)
            self.schema_end = body_at + body
            return self.schema_end
        self.batches += 1
        if self.batches > limits.MAX_BATCHES:
            raise PackedError(f"has more than {limits.MAX_BATCHES:,} batches")
        header = message.table(2)
        if header is None or kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
            raise PackedError(f"has a message of the kind {kind}, which is not read")
        assert self.layout is not None
        if self.layout.unions and message.scalar(0, "h") < _V5:
            raise PackedError("has a union in an old version of the format")
        content = memoryview(value)[body_at : body_at + body]
        if kind == _RECORD_BATCH:
            rows = self._record_batch(header, content)
            self.rows += rows
            if self.rows > limits.MAX_PACKED_ROWS:
                raise PackedError(f"claims more than {limits.MAX_PACKED_ROWS:,} rows")
        else:
            self.plain = False
            self._dictionary(header, content)
        return body_at + body

    def _record_batch(self, batch: Table, body: memoryview) -> int:
        assert self.layout is not None
        rows = batch.scalar(0, "q")
        if not 0 <= rows <= limits.MAX_PACKED_ROWS:
            raise PackedError(f"claims {rows:,} rows; at most {limits.MAX_PACKED_ROWS:,} are read")
        assert self.layout.plan is not None
        if self.layout.plan.simple and _is_sound(batch, self.layout.plan, rows, len(body)):
            return rows
        for array, length, buffers in _arrays(batch, self.layout.arrays, body):
            if array.is_column and length != rows:
                raise PackedError(f"claims {rows:,} rows, and {length:,} in column {show(array.column)}")
            if array.dictionary is not None and self._is_read(array):
                self._check_indices(array, length, buffers)
        return rows

    def _dictionary(self, batch: Table, body: memoryview) -> None:
        assert self.layout is not None
        identity, data = batch.scalar(0, "q"), batch.table(1)
        arrays = self.layout.dictionaries.get(identity)
        if arrays is None or data is None:
            raise PackedError(f"has a dictionary {identity} that no column uses")
        found = list(_arrays(data, arrays, body))
        array, length, buffers = found[0]
        if not self._is_read(array):
            return
        if any(part.dictionary is not None for part in arrays) or array.is_nested:
            raise PackedError(
                f"column {show(array.column)} has a dictionary of the type {array.type_name}, which is not read"
            )
        lengths = _lengths(array, length, buffers)
        if batch.scalar(2, "B") and identity in self.lengths:
            lengths = np.concatenate([self.lengths[identity], lengths])
        self.lengths[identity] = lengths

    def _check_indices(self, array: Array, length: int, buffers: list[memoryview]) -> None:
        assert array.dictionary is not None
        lengths = self.lengths.get(array.dictionary, np.empty(0, np.int64))
        validity, data = buffers
        size = array.buffers[1].bits // 8
        form = _INTEGERS[size] if array.signed else _INTEGERS[size].replace("i", "u")
        indices = np.frombuffer(data, form, length)
        if len(validity):
            bits = np.unpackbits(np.frombuffer(validity, np.uint8), count=length, bitorder="little")
            indices = indices[bits.astype(np.bool_)]
        if not len(indices):
            return
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= len(lengths):
            raise PackedError(
                f"column {show(array.column)} refers to value {low if low < 0 else high} of a dictionary of {len(lengths)} values"
            )
        self.expanded += int(lengths[indices.astype(np.int64)].sum())
        if self.expanded > limits.MAX_EXPANDED:
            raise PackedError(
                f"the values of its dictionaries would take {self.expanded:,} bytes, at most {limits.MAX_EXPANDED:,} are read: "
                f"column {show(array.column)} has a value of {int(lengths.max()):,} bytes"
            )

    def _is_read(self, array: Array) -> bool:
        return self.fields is None or array.column in self.fields


def _is_sound(batch: Table, plan: Plan, rows: int, body: int) -> bool:
    """Whether :func:`_arrays` finds nothing wrong; an order of magnitude faster."""
    nodes, buffers = batch.integers(1), batch.integers(2)
    if batch.field(3) or len(nodes) != 2 * plan.arrays:
        return False
    lengths, nulls = nodes[::2], nodes[1::2]
    for length, null in zip(lengths, nulls, strict=True):
        if not 0 <= null <= length <= limits.MAX_PACKED_ROWS:
            return False
    for i in plan.columns:
        if lengths[i] != rows:
            return False
    for offset, size in zip(buffers[::2], buffers[1::2], strict=True):
        if offset < 0 or size < 0 or offset + size > body:
            return False
    sizes = buffers[1::2]
    if plan.views:
        fixed: list[int] = []
        counts = batch.integers(4, 1)
        if len(counts) != len(plan.views):
            return False
        at = 0
        for step, count in zip(plan.views, counts, strict=True):
            if not 0 <= count <= len(sizes):
                return False
            fixed += sizes[at : at + step]
            at += step + count
        sizes = (*fixed, *sizes[at:])
    if len(sizes) != len(plan.buffers):
        return False
    for (array, bits, more, optional), size in zip(plan.buffers, sizes, strict=True):
        length = lengths[array]
        if length and 8 * size < bits * (length + more) and not (optional and not size and not nulls[array]):
            return False
    return True


def _arrays(
    batch: Table, expected: list[Array], body: memoryview
) -> list[tuple[Array, int, list[memoryview]]]:
    """Each array of a batch with its number of values and its buffers, which are large enough for them."""
    if batch.field(3):
        raise PackedError("has a compressed body; let Kafka compress the record batches instead")
    nodes, buffers = batch.pairs(1), batch.pairs(2)
    more = iter(batch.integers(4, 1))
    if len(nodes) != len(expected):
        raise PackedError(f"a batch has {len(nodes)} arrays, its schema {len(expected)}")
    out: list[tuple[Array, int, list[memoryview]]] = []
    at, required = 0, 0
    for array, (length, nulls) in zip(expected, nodes, strict=True):
        if not 0 <= nulls <= length <= limits.MAX_PACKED_ROWS:
            raise PackedError(f"claims a column of {length} values, {nulls} of them null")
        if length < required or (array.type == Type.NULL and not array.is_column and length > len(body)):
            raise PackedError(f"claims {length} values within column {show(array.column)}")
        required = length * array.per_row
        own = []
        for buffer in array.buffers:
            if at >= len(buffers):
                raise PackedError("a batch has fewer buffers than its schema")
            offset, size = buffers[at]
            at += 1
            if offset < 0 or size < 0 or offset + size > len(body):
                raise PackedError(f"claims a buffer at {offset} of {size} bytes in a body of {len(body)}")
            needed = (buffer.bits * (length + buffer.more) + 7) // 8 if length else 0
            if size < needed and not (buffer.optional and size == 0 and nulls == 0):
                raise PackedError(
                    f"claims {length} values of column {show(array.column)} in a buffer of {size} bytes"
                )
            own.append(body[offset : offset + size])
        if array.views:
            views = next(more, 0)
            if not 0 <= views <= len(buffers) - at:
                raise PackedError("a batch has fewer buffers than its schema")
            for offset, size in buffers[at : at + views]:
                if offset < 0 or size < 0 or offset + size > len(body):
                    raise PackedError(f"claims a buffer at {offset} of {size} bytes in a body of {len(body)}")
            at += views
        out.append((array, length, own))
    if at != len(buffers):
        raise PackedError(f"a batch has {len(buffers)} buffers, its schema {at}")
    return out


def _lengths(array: Array, length: int, buffers: list[memoryview]) -> NDArray[np.int64]:
    """Bytes of each value of a dictionary, int64 ``(n,)``."""
    if not length:
        return np.empty(0, np.int64)
    if array.views:
        return np.frombuffer(buffers[1], "<u4").reshape(-1, 4)[:length, 0].astype(np.int64)
    if array.buffers and array.buffers[1].more:
        width = array.buffers[1].bits // 8
        offsets = np.frombuffer(buffers[1], _INTEGERS[width], length + 1).astype(np.int64)
        lengths = np.diff(offsets)
        if offsets[0] < 0 or (lengths < 0).any() or offsets[-1] > len(buffers[2]):
            raise PackedError(f"the dictionary of column {show(array.column)} has damaged offsets")
        return lengths
    bits = array.buffers[1].bits if array.buffers else 0
    return np.full(length, (bits + 7) // 8, np.int64)
