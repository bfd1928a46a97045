"""Kafka records -> ``Chunk`` + rejects: the one way in for live agents and for replay of a topic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from models.batch import Batch
from models.events import ARROW_CONTENT_TYPE, CONTENT_TYPE_HEADER, EventDecoder
from replay.align import Chunk

__all__ = ["KafkaRecord", "RecordReject", "decode_records"]


class KafkaRecord(Protocol):
    """What records of aiokafka and of kafka-python have in common."""

    @property
    def offset(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True)
class RecordReject:
    """A record, or one row of a packed record, that does not fit."""

    record: Any
    reason: str
    detail: str
    row: int | None = None


def decode_records(
    decoder: EventDecoder, topic: str, partition: int, first: int, records: Sequence[KafkaRecord], domain: int
) -> tuple[Chunk, list[RecordReject]]:
    """Decode consecutive records of one partition.

    Parameters
    ----------
    decoder
        Knows the features.
    topic, partition
        Where the records come from.
    first
        Offset at which the chunk begins; at most the first record's (a compacted log may have a gap there).
    records
        In offset order; JSON and packed Arrow messages may be mixed.
    domain
        0 natural, 1 ad.

    Returns
    -------
    Chunk, list of RecordReject
        The chunk covers offsets ``first`` to the last record's + 1, rejects included.
    """
    batches: list[Batch] = []
    offsets: list[Any] = []
    rejects: list[RecordReject] = []
    for packed, run in _runs(records):
        decode = decoder.from_packed if packed else decoder.from_json
        decoded = decode([r.value for r in run], domain)
        batches.append(decoded.batch)
        offsets.append(np.array([r.offset for r in run], np.int64)[decoded.index])
        rejects += [
            RecordReject(run[r.index], r.reason, r.detail, r.row if packed and r.row >= 0 else None)
            for r in decoded.rejects
        ]
    batch = batches[0] if len(batches) == 1 else Batch.concat(batches)
    offset = offsets[0] if len(offsets) == 1 else np.concatenate(offsets)
    return Chunk(topic, partition, first, records[-1].offset + 1, offset, batch), rejects


def _is_packed(record: KafkaRecord) -> bool:
    return any(
        key == CONTENT_TYPE_HEADER and value == ARROW_CONTENT_TYPE for key, value in record.headers or ()
    )


def _runs(records: Sequence[KafkaRecord]) -> Iterable[tuple[bool, Sequence[KafkaRecord]]]:
    """Runs of neighbours of the same form."""
    start = 0
    form = _is_packed(records[0])
    for i, record in enumerate(records):
        if _is_packed(record) != form:
            yield form, records[start:i]
            start, form = i, not form
    yield form, records[start:]
