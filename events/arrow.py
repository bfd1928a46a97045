"""Packed events: many rows as one Arrow IPC stream, validated before a reader sees it."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

__all__ = ["MAX_PACKED_ROWS", "PackedError", "Unpacked", "pack", "unpack", "unpack_many"]

MAX_PACKED_ROWS = 1_000_000
"""Maximum number of rows of one message."""

_CONTINUATION = 0xFFFFFFFF
_END_OF_STREAM = struct.pack("<Ii", _CONTINUATION, 0)
_SCHEMA, _DICTIONARY_BATCH, _RECORD_BATCH = 1, 2, 3  # MessageHeader in Arrow's Message.fbs


class PackedError(ValueError):
    """The bytes are not a complete, uncompressed Arrow IPC stream."""


def pack(frame: pl.DataFrame) -> bytes:
    """The frame as one uncompressed Arrow IPC stream (Kafka compresses record batches itself)."""
    out = io.BytesIO()
    frame.rechunk().write_ipc_stream(out, compression="uncompressed")
    return out.getvalue()


def unpack(value: bytes) -> pl.DataFrame:
    """Rows of one packed message.

    Raises
    ------
    PackedError
        Not an Arrow IPC stream, truncated, with compressed bodies, or with more than ``MAX_PACKED_ROWS`` rows.

    Examples
    --------
    >>> unpack(pack(pl.DataFrame({"a": [1, 2]})))["a"].to_list()
    [1, 2]
    """
    _walk(value)
    return _read(value)


class Unpacked(NamedTuple):
    """Messages that were read together: their positions, their row counts, and all their rows."""

    positions: list[int]
    lengths: list[int]
    frame: pl.DataFrame


def unpack_many(values: Sequence[bytes | None]) -> tuple[list[Unpacked], list[tuple[int, str]]]:
    """Rows of many packed messages, and ``(position, why)`` of those that cannot be read.

    1. Walk each message and compare every claimed length with the actual bytes. A reader trusts those lengths when
       it allocates: without this step one malicious message of a hundred bytes crashes the process, again after each
       restart.
    2. Concatenate messages that begin with the same schema, byte for byte, and have no dictionaries: setting up
       the columns costs more than reading the rows of a small message.
    3. If polars rejects that stream, read its messages one by one to find the damaged one.
    """
    bad: list[tuple[int, str]] = []
    streams: dict[bytes, list[tuple[int, _Walk]]] = {}
    out: list[Unpacked] = []
    alone: list[int] = []
    for i, value in enumerate(values):
        try:
            walk = _walk(value or b"")
        except PackedError as error:
            bad.append((i, str(error)))
            continue
        if walk.batches is None:
            alone.append(i)
        else:
            streams.setdefault(walk.schema, []).append((i, walk))
    for schema, members in streams.items():
        index = [i for i, _ in members]
        lengths = [walk.rows for _, walk in members]
        try:
            frame = _read(b"".join([schema, *(walk.batches or b"" for _, walk in members), _END_OF_STREAM]))
        except PackedError:
            frame = pl.DataFrame()
        if len(frame) == sum(lengths) and frame.width:
            out.append(Unpacked(index, lengths, frame))
        else:
            alone.extend(index)
    for i in alone:
        try:
            frame = _read(values[i] or b"")
        except PackedError as error:
            bad.append((i, str(error)))
        else:
            out.append(Unpacked([i], [len(frame)], frame))
    return out, bad


def _read(value: bytes) -> pl.DataFrame:
    try:
        return pl.read_ipc_stream(io.BytesIO(value))
    except pl.exceptions.PanicException as error:  # not an Exception: the reader's own assertions
        raise PackedError(f"the Arrow reader failed: {error}") from error
    except Exception as error:
        raise PackedError(f"{type(error).__name__}: {error}") from error


class _Walk(NamedTuple):
    """Content of a stream: schema message, batches (None: it has dictionaries), number of rows."""

    schema: bytes
    batches: bytes | None
    rows: int


def _walk(value: bytes) -> _Walk:
    """Walk the encapsulated messages of an Arrow IPC stream (Arrow columnar format, "IPC Streaming")."""
    if value[:6] == b"ARROW1":
        raise PackedError("this is the Arrow IPC *file* format; send the stream format")
    at, end, rows, schema_end = 0, len(value), 0, 0
    plain = True
    while at < end:
        try:
            marker, size = struct.unpack_from("<Ii", value, at)
        except struct.error:
            raise PackedError(f"truncated at byte {at} of {end}") from None
        if marker != _CONTINUATION:
            raise PackedError(f"no Arrow IPC stream: byte {at} does not start a message")
        if size == 0:  # end of stream
            break
        at += 8
        if size < 0 or at + size > end:
            raise PackedError(f"truncated: the message at byte {at - 8} claims {size} bytes of metadata")
        try:
            kind, body, claimed = _Message(value[at : at + size]).check()
        except (struct.error, IndexError):
            raise PackedError(f"the metadata at byte {at} is damaged") from None
        at += size
        if body < 0 or at + body > end:
            raise PackedError(f"truncated: the message at byte {at} claims a body of {body} bytes")
        if (kind == _SCHEMA) != (schema_end == 0):
            raise PackedError("does not start with one schema")
        at += body
        schema_end = schema_end or at
        plain &= kind in (_SCHEMA, _RECORD_BATCH)
        rows += claimed
        if rows > MAX_PACKED_ROWS:
            raise PackedError(f"claims more than {MAX_PACKED_ROWS} rows")
    if not schema_end:
        raise PackedError("contains no Arrow message")
    return _Walk(value[:schema_end], value[schema_end:at] if plain else None, rows)


class _Message:
    """Minimal flatbuffer reader for the lengths in ``Message.fbs``; all accesses are bounded."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def check(self) -> tuple[int, int, int]:
        """Kind, body length in bytes, and claimed rows (0 unless it is a record batch)."""
        root = self._u32(0)
        kind_at, header_at, body_at = self._field(root, 1), self._field(root, 2), self._field(root, 3)
        kind = self.data[kind_at] if kind_at else 0
        body = self._i64(body_at) if body_at else 0
        if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
            return kind, body, 0
        batch = header_at + self._u32(header_at)
        if kind == _DICTIONARY_BATCH:
            data_at = self._field(batch, 1)
            batch = data_at + self._u32(data_at)
        length = self._check_batch(batch, body)
        return kind, body, length if kind == _RECORD_BATCH else 0

    def _check_batch(self, batch: int, body: int) -> int:
        length_at = self._field(batch, 0)
        length = self._i64(length_at) if length_at else 0
        if not 0 <= length <= MAX_PACKED_ROWS:
            raise PackedError(f"claims {length} rows; at most {MAX_PACKED_ROWS} are read")
        if self._field(batch, 3):
            raise PackedError("has a compressed body; let Kafka compress the record batches instead")
        for rows, nulls in self._pairs(self._field(batch, 1)):
            if not 0 <= nulls <= rows <= MAX_PACKED_ROWS:
                raise PackedError(f"claims a column of {rows} values, {nulls} of them null")
        for offset, size in self._pairs(self._field(batch, 2)):
            if offset < 0 or size < 0 or offset + size > body:
                raise PackedError(f"claims a buffer at {offset} of {size} bytes in a body of {body}")
        return length

    def _pairs(self, field_at: int) -> list[tuple[int, int]]:
        """A vector of structs of two 64-bit integers."""
        if not field_at:
            return []
        vector = field_at + self._u32(field_at)
        count = self._u32(vector)
        if vector + 4 + 16 * count > len(self.data):
            raise IndexError
        flat = struct.unpack_from(f"<{2 * count}q", self.data, vector + 4)
        return list(zip(flat[::2], flat[1::2], strict=True))

    def _field(self, table: int, number: int) -> int:
        """Position of a table's field; 0 if it is absent."""
        vtable = table - struct.unpack_from("<i", self.data, table)[0]
        if vtable < 0:
            raise IndexError
        size = struct.unpack_from("<H", self.data, vtable)[0]
        slot = 4 + 2 * number
        if slot + 2 > size:
            return 0
        offset = int(struct.unpack_from("<H", self.data, vtable + slot)[0])
        return table + offset if offset else 0

    def _u32(self, at: int) -> int:
        return int(struct.unpack_from("<I", self.data, at)[0])

    def _i64(self, at: int) -> int:
        return int(struct.unpack_from("<q", self.data, at)[0])
