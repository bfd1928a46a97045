"""What is sent between a worker and its decoding processes: length and msgpack, over pipes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import IO, Any

import msgspec
import numpy as np

from ecdctr.events.batch import COLUMNS, Batch
from ecdctr.events.decoder import Decoded, EventDecoder, Reject
from ecdctr.events.records import RefusedBatch
from ecdctr.events.settings import FeatureSpec

__all__ = [
    "READY",
    "Request",
    "decoder_of",
    "pack_answer",
    "pack_request",
    "pack_setup",
    "receive",
    "request_of",
    "send",
    "unpack_answer",
]

READY = b"ready"
"""Sent by a process once it can decode."""

_LENGTH = struct.Struct("<Q")


class Setup(msgspec.Struct):
    """Arguments of the decoder of a process."""

    specs: list[dict[str, Any]]
    max_string: int
    ts_min_ms: int
    ts_max_ms: int
    list_field: str | None
    oracle_field: str | None


class Request(msgspec.Struct, array_like=True):
    """Messages to decode; ``packed`` has one byte for each."""

    domain: int
    packed: bytes
    values: list[bytes | None]
    text_notes: list[str]


class Answer(msgspec.Struct, array_like=True):
    """Columns as (data type, shape, bytes); notes are columns of text."""

    columns: dict[str, tuple[str, list[int], bytes]]
    notes: dict[str, list[str | None]] | None
    rejects: list[tuple[int, str, str, int, int]]


_request, _answer, _setup = (
    msgspec.msgpack.Decoder(Request),
    msgspec.msgpack.Decoder(Answer),
    msgspec.msgpack.Decoder(Setup),
)
_encode = msgspec.msgpack.Encoder().encode


def pack_setup(decoder: EventDecoder) -> bytes:
    """The configuration of a decoder."""
    limits = decoder.limits
    return _encode(
        Setup(
            [spec.model_dump(mode="json") for spec in decoder.schema.specs],
            limits.max_string, limits.ts_min_ms, limits.ts_max_ms, decoder.list_field, decoder.oracle_field,
        )
    )  # fmt: skip


def decoder_of(data: bytes) -> EventDecoder:
    """A decoder of the same configuration."""
    setup = _setup.decode(data)
    return EventDecoder(
        [FeatureSpec(**spec) for spec in setup.specs],
        max_string=setup.max_string,
        ts_min_ms=setup.ts_min_ms,
        ts_max_ms=setup.ts_max_ms,
        list_field=setup.list_field,
        oracle_field=setup.oracle_field,
    )


def pack_request(
    values: Sequence[bytes | None], packed: Sequence[bool], domain: int, text_notes: Sequence[str]
) -> bytes:
    """Messages to decode."""
    plain = [bytes(value) if isinstance(value, RefusedBatch) else value for value in values]
    return _encode(Request(domain, bytes(packed), plain, list(text_notes)))


def request_of(data: bytes) -> Request:
    """The inverse of :func:`pack_request`."""
    return _request.decode(data)


def pack_answer(decoded: Decoded) -> bytes:
    """Rows and rejects."""
    batch = decoded.batch
    columns = {**batch.columns(COLUMNS), "index": decoded.index}
    notes = None if batch.notes is None else {name: column.tolist() for name, column in batch.notes.items()}
    return _encode(
        Answer(
            {
                name: (column.dtype.str, list(column.shape), np.ascontiguousarray(column).tobytes())
                for name, column in columns.items()
                if column is not None
            },
            notes,
            [(r.index, r.reason, r.detail, r.row, r.rows) for r in decoded.rejects],
        )
    )


def unpack_answer(data: bytes) -> Decoded:
    """The inverse of :func:`pack_answer`."""
    answer = _answer.decode(data)
    columns = {
        name: np.frombuffer(content, dtype).reshape(shape).copy()  # an array over bytes is read-only
        for name, (dtype, shape, content) in answer.columns.items()
    }
    index = columns.pop("index")
    notes = None
    if answer.notes is not None:
        notes = {name: np.array(texts, dtype=object) for name, texts in answer.notes.items()}
    batch = Batch(**columns, notes=notes)  # type: ignore[arg-type]
    return Decoded(batch, index, [Reject(*reject) for reject in answer.rejects])


def send(pipe: IO[bytes] | None, data: bytes) -> None:
    """Write one message."""
    assert pipe is not None
    pipe.write(_LENGTH.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def receive(pipe: IO[bytes] | None) -> bytes:
    """Read one message.

    Raises
    ------
    EOFError
        The other side has closed the pipe.
    """
    assert pipe is not None
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    size = _LENGTH.unpack(head)[0]
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data
