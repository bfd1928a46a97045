"""Packed messages as frames: ``pack``, ``unpack``, ``unpack_many``."""

from __future__ import annotations

import io
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from ecdctr.events.arrow.errors import PackedError
from ecdctr.events.arrow.stream import CONTINUATION, Walk, walk

__all__ = ["Unpacked", "pack", "unpack", "unpack_many"]

_END_OF_STREAM = struct.pack("<4si", CONTINUATION, 0)
_TOGETHER_ROWS = 131_072
"""Messages are read together up to this number of rows, which bounds the memory that one step needs."""

Bad = tuple[int, PackedError]
"""Position of a message that cannot be read, and why."""


def pack(frame: pl.DataFrame) -> bytes:
    """The frame as one uncompressed Arrow IPC stream (Kafka compresses record batches itself)."""
    out = io.BytesIO()
    frame.rechunk().write_ipc_stream(out, compression="uncompressed")
    return out.getvalue()


def unpack(value: bytes, fields: Collection[str] | None = None) -> pl.DataFrame:
    """Rows of one packed message.

    Parameters
    ----------
    value
        The message.
    fields
        Columns to read, as far as there are such; None: all. The others may have any type.

    Raises
    ------
    PackedError
        Not an Arrow IPC stream, truncated, with compressed bodies, or beyond one of :mod:`ecdctr.events.arrow.limits`.

    Examples
    --------
    >>> unpack(pack(pl.DataFrame({"a": [1, 2]})))["a"].to_list()
    [1, 2]
    """
    return _read(value, walk(value, fields), fields)


class Unpacked(NamedTuple):
    """Messages that were read together: their positions, their row counts, and all their rows."""

    positions: list[int]
    lengths: list[int]
    frame: pl.DataFrame


def unpack_many(
    values: Sequence[bytes | None], fields: Collection[str], bad: list[Bad]
) -> Iterator[Unpacked]:
    """Yield the rows of many packed messages; those that cannot be read are added to ``bad``.

    1. Walk each message and compare every claimed length with the actual bytes. A reader trusts those lengths when
       it allocates: without this step one malicious message of a hundred bytes crashes the process, again after each
       restart.
    2. Concatenate messages that begin with the same schema, byte for byte, and have no dictionaries: setting up
       the columns costs more than reading the rows of a small message.
    3. If polars rejects that stream, read its messages one by one to find the damaged one.

    Only one group of messages is in memory at a time, as long as the caller keeps none.
    """
    groups: dict[bytes, _Group] = {}
    for i, value in enumerate(values):
        try:
            found = walk(value or b"", fields)
        except PackedError as error:
            bad.append((i, error))
            continue
        if found.batches is None:
            yield from _alone(i, value or b"", found, fields, bad)
            continue
        group = groups.setdefault(found.schema, _Group([], 0))
        group.parts.append((i, found))
        group.rows += found.rows
        if group.rows >= _TOGETHER_ROWS:
            yield from _together(groups.pop(found.schema), values, fields, bad)
    for group in groups.values():
        yield from _together(group, values, fields, bad)


@dataclass(slots=True)
class _Group:
    """Messages of one schema that wait to be read together, and the number of their rows."""

    parts: list[tuple[int, Walk]]
    rows: int


def _together(
    group: _Group, values: Sequence[bytes | None], fields: Collection[str], bad: list[Bad]
) -> Iterator[Unpacked]:
    first = group.parts[0][1]
    stream = b"".join([first.schema, *(part.batches or b"" for _, part in group.parts), _END_OF_STREAM])
    try:
        frame = _read(stream, first._replace(rows=group.rows), fields)
    except PackedError:
        for i, part in group.parts:
            yield from _alone(i, values[i] or b"", part, fields, bad)
        return
    yield Unpacked([i for i, _ in group.parts], [part.rows for _, part in group.parts], frame)


def _alone(i: int, value: bytes, found: Walk, fields: Collection[str], bad: list[Bad]) -> Iterator[Unpacked]:
    try:
        frame = _read(value, found, fields)
    except PackedError as error:
        bad.append((i, error))
        return
    yield Unpacked([i], [found.rows], frame)


def _read(value: bytes, found: Walk, fields: Collection[str] | None) -> pl.DataFrame:
    """The rows of a stream that was checked."""
    columns = None if fields is None else [name for name in found.columns if name in fields]
    if columns == []:
        return pl.select(pl.repeat(None, found.rows, dtype=pl.Null).alias(""))
    try:
        frame = pl.read_ipc_stream(io.BytesIO(value), columns=columns)
    except pl.exceptions.PanicException as error:  # not an Exception: the reader's own assertions
        raise PackedError(f"the Arrow reader failed: {_line(error)}", found.rows) from error
    except Exception as error:
        raise PackedError(f"{type(error).__name__}: {_line(error)}", found.rows) from error
    if len(frame) != found.rows:
        raise PackedError(f"claims {found.rows} rows, and the Arrow reader found {len(frame)}", found.rows)
    return frame


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
