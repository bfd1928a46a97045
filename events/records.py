"""Decoding of Kafka records to ``Chunk`` and rejects, shared by live training and the replay of a topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ecdctr.events.align import Chunk
from ecdctr.events.batch import Batch
from ecdctr.events.decoder import ARROW_CONTENT_TYPE, CONTENT_TYPE_HEADER, Decoded, EventDecoder

__all__ = [
    "Fetched",
    "KafkaRecord",
    "RecordReject",
    "RefusedBatch",
    "RowsOfRecords",
    "chunks_of",
    "decode_records",
    "decode_values",
    "is_packed",
    "join",
]


class KafkaRecord(Protocol):
    """Common attributes of the records of aiokafka and kafka-python."""

    @property
    def offset(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class RefusedBatch(bytes):
    """The value of the one record that stands for a batch which was not decompressed; empty.

    Attributes
    ----------
    records
        Number of records of the batch.
    detail
        Why it was refused.
    """

    records: int
    detail: str

    def __new__(cls, records: int, detail: str) -> RefusedBatch:
        made = super().__new__(cls)
        made.records, made.detail = records, detail
        return made


@dataclass(frozen=True, slots=True)
class RecordReject:
    """A record, or rows of a packed record, that were rejected.

    Attributes
    ----------
    row
        The row of a packed record, or the first of several; None: the whole record.
    rows
        Number of rejected events.
    """

    record: Any
    reason: str
    detail: str
    row: int | None = None
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Fetched:
    """Consecutive records of one partition.

    Attributes
    ----------
    first
        First offset of the chunk; not after that of the first record (a compacted log may have a gap there).
    records
        In offset order; JSON and packed Arrow messages may be mixed.
    end
        End of the chunk, if offsets without a record follow the last one; None: the offset after it.
    """

    topic: str
    partition: int
    first: int
    records: Sequence[KafkaRecord]
    end: int | None = None


def decode_records(
    decoder: EventDecoder, topic: str, partition: int, first: int, records: Sequence[KafkaRecord], domain: int
) -> tuple[Chunk, list[RecordReject]]:
    """Decode consecutive records of one partition (see :class:`Fetched`); ``domain``: 0 natural, 1 ad.

    Returns
    -------
    Chunk, list of RecordReject
        The chunk covers offsets ``first`` to the last record's + 1, rejects included.
    """
    decoded = decode_values(decoder, [r.value for r in records], [is_packed(r) for r in records], domain)
    return chunks_of([Fetched(topic, partition, first, records)], decoded)[0]


def decode_values(
    decoder: EventDecoder, values: Sequence[bytes | None], packed: Sequence[bool], domain: int
) -> Decoded:
    """Decode messages, some of which are packed; ``index`` and ``Reject.index`` are positions in ``values``.

    Each message is decoded separately: however the values are split, :func:`join` of the parts gives the same result.
    """
    return join(
        [
            (start, (decoder.read_packed if form else decoder.from_json)(values[start:end], domain))
            for form, start, end in _runs(packed)
        ]
    )


def join(parts: Sequence[tuple[int, Decoded]]) -> Decoded:
    """Concatenate decoded parts of a list of messages, each given with the position of its first message, in order."""
    if len(parts) == 1 and not parts[0][0]:
        return parts[0][1]
    return Decoded(
        Batch.concat([decoded.batch for _, decoded in parts]),
        np.concatenate([decoded.index + start for start, decoded in parts]),
        [replace(r, index=r.index + start) for start, decoded in parts for r in decoded.rejects],
    )


def chunks_of(lists: Sequence[Fetched], decoded: Decoded) -> list[tuple[Chunk, list[RecordReject]]]:
    """Chunk and rejects of each list, from the decoded messages of all lists, concatenated."""
    out, start, at = [], 0, 0
    for fetched in lists:
        records = fetched.records
        end = start + len(records)
        first_row, end_row = np.searchsorted(decoded.index, (start, end)).tolist()
        whole = end_row - first_row == len(decoded.batch)
        rows = decoded.batch if whole else decoded.batch.take(slice(first_row, end_row))
        offsets = np.array([r.offset for r in records], np.int64)[decoded.index[first_row:end_row] - start]
        rejects = []
        while at < len(decoded.rejects) and decoded.rejects[at].index < end:
            r = decoded.rejects[at]
            record = records[r.index - start]
            if isinstance(record.value, RefusedBatch):
                rejects.append(RecordReject(record, "large", record.value.detail, None, record.value.records))
            else:
                row = r.row if r.row >= 0 else None
                rejects.append(RecordReject(record, r.reason, r.detail, row, r.rows))
            at += 1
        chunk_end = records[-1].offset + 1 if fetched.end is None else fetched.end
        chunk = Chunk(fetched.topic, fetched.partition, fetched.first, chunk_end, offsets, rows)
        out.append((chunk, rejects))
        start = end
    return out


class RowsOfRecords:
    """Finds the records from which rows of a chunk were decoded, for rows that are rejected after decoding.

    Parameters
    ----------
    chunk, rejects
        The result of :func:`decode_records` or :func:`chunks_of`.
    records
        The records of the chunk, in offset order.
    """

    def __init__(self, chunk: Chunk, rejects: Sequence[RecordReject], records: Sequence[KafkaRecord]) -> None:
        self._offset = chunk.offset
        self._records = {record.offset: record for record in records}
        self._rejected: dict[int, set[int]] = {}
        self._unnamed: set[int] = set()  # records of which more rows were rejected than were named
        for reject in rejects:
            if reject.row is not None:
                self._rejected.setdefault(reject.record.offset, set()).add(reject.row)
            if reject.rows > 1:
                self._unnamed.add(reject.record.offset)

    def reject(self, row: int, reason: str, detail: str) -> RecordReject:
        """The rejection of a row of the chunk, by its position."""
        offset = int(self._offset[row])
        record = self._records[offset]
        return RecordReject(record, reason, detail, self._number(row, offset) if is_packed(record) else None)

    def _number(self, row: int, offset: int) -> int | None:
        """Number of a row within its packed message: the accepted rows are those that were not rejected, in their order.

        None if these are not known."""
        if offset in self._unnamed:
            return None
        accepted = row - int(np.searchsorted(self._offset, offset, side="left"))
        rejected = self._rejected.get(offset, set())
        number = -1
        while accepted >= 0:
            number += 1
            accepted -= number not in rejected
        return number


def is_packed(record: KafkaRecord) -> bool:
    """Whether a record is a packed Arrow message, by its content type.

    The names of headers are compared without case, and so is the type, whose parameters do not count (RFC 9110, section 8.3).

    >>> from types import SimpleNamespace
    >>> is_packed(SimpleNamespace(headers=[("Content-Type", b"Application/vnd.apache.arrow.stream; v=1")]))
    True
    """
    for name, value in record.headers or ():
        if (
            value is not None
            and name.lower() == CONTENT_TYPE_HEADER
            and value.partition(b";")[0].strip().lower() == ARROW_CONTENT_TYPE
        ):
            return True
    return False


def _runs(packed: Sequence[bool]) -> Iterator[tuple[bool, int, int]]:
    """Runs of consecutive messages of the same form: form, start, end."""
    start = 0
    for i in range(1, len(packed)):
        if packed[i] != packed[start]:
            yield packed[start], start, i
            start = i
    yield packed[start], start, len(packed)
