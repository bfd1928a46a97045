"""``bound_batches``: what compressed record batches take when they are decompressed is bounded, in both Kafka clients.

Brokers bound the compressed size of a batch (``max.message.bytes``), and codecs can turn a megabyte into a gigabyte.
"""

from __future__ import annotations

import gzip
import io
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiokafka.consumer.fetcher as aiokafka_fetcher
import kafka.consumer.fetcher as kafka_fetcher
import kafka.record.default_records as kafka_records
import lz4.frame
import zstandard
from aiokafka.record import default_records as aiokafka_records

from ecdctr.events.records import RefusedBatch

__all__ = ["MAX_BATCH_BYTES", "BatchTooLargeError", "bound_batches", "stand_in"]

MAX_BATCH_BYTES = 64 << 20
"""Bytes of a record batch after decompression, and of the values that are taken from a partition at a time.

Producers send at most ``max.request.size`` (1 MiB by default) before compression."""

_SMALL = 60_000
"""Compressed bytes that cannot exceed the limit with gzip (at most 1 to 1,032) and lz4 (1 to 255)."""
_XERIAL = b"\x82SNAPPY\x00"


class BatchTooLargeError(Exception):
    """The batch is larger than the limit."""


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_BATCH_BYTES:
        raise BatchTooLargeError
    return data


def _gzip(data: Any, original: Callable[[Any], bytes]) -> bytes:
    if len(data) <= _SMALL:
        return original(data)
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        return _bounded(file.read(MAX_BATCH_BYTES + 1))


def _lz4(data: Any, original: Callable[[Any], bytes]) -> bytes:
    if len(data) <= _SMALL:
        return original(data)
    with lz4.frame.LZ4FrameFile(io.BytesIO(bytes(data))) as file:
        return _bounded(file.read(MAX_BATCH_BYTES + 1))


def _zstd(data: Any, _: Callable[[Any], bytes]) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as file:
        return _bounded(file.read(MAX_BATCH_BYTES + 1))


def _snappy(data: Any, original: Callable[[Any], bytes]) -> bytes:
    content = bytes(data)
    if sum(_snappy_sizes(content)) > MAX_BATCH_BYTES:
        raise BatchTooLargeError
    return original(data)


def _snappy_sizes(data: bytes) -> Iterator[int]:
    """What each block says that it takes; a block begins with it."""
    if not data.startswith(_XERIAL):
        yield _varint(data)
        return
    at = 16
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield _varint(data[at + 4 : at + 14])
        at += 4 + size


def _varint(data: bytes) -> int:
    value = 0
    for place, byte in enumerate(data[:5]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            break
    return value


_CODECS = {"gzip": _gzip, "lz4": _lz4, "zstd": _zstd, "snappy": _snappy}


@dataclass(frozen=True, slots=True)
class _Record:
    """What both clients read of a record."""

    offset: int
    timestamp: int
    timestamp_type: int
    value: RefusedBatch
    key: None = None
    checksum: None = None
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    size_in_bytes: int = 0

    def validate_crc(self) -> bool:
        return True


def stand_in(batch: Any) -> _Record:
    """The one record that stands for a batch which is too large, at its last offset."""
    first, end = batch.base_offset, batch.next_offset
    detail = (
        f"a compressed batch (offsets {first} to {end - 1}) takes more than {MAX_BATCH_BYTES >> 20} MiB: let the producer send "
        "smaller batches"
    )
    value = RefusedBatch(max(1, end - first), detail)
    return _Record(end - 1, getattr(batch, "max_timestamp", -1), getattr(batch, "timestamp_type", 0), value)


class _FetchResult(aiokafka_fetcher.FetchResult):  # type: ignore[misc]
    """Takes records until their values have :data:`MAX_BATCH_BYTES`."""

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        found: list[Any] = []
        size = 0
        for record in self._partition_records:
            found.append(record)
            size += len(record.value or b"")
            if size >= MAX_BATCH_BYTES or (max_records is not None and len(found) >= max_records):
                self._update_position()
                return found
        self._update_position()
        self._partition_records = None
        return found


def _take(self: Any, n: int | None = None) -> list[Any]:
    """kafka-python's ``PartitionRecords.take``, until the values have :data:`MAX_BATCH_BYTES`."""
    self._maybe_raise_next_inline_exception()
    records: list[Any] = []
    size = 0
    try:
        for record in itertools.islice(self.record_iterator, 0, n):
            records.append(record)
            size += len(record.value or b"")
            if size >= MAX_BATCH_BYTES:
                break
    except Exception as error:
        if not records:
            raise
        self._next_inline_exception = error
    return records


def _records_of(batch: Any) -> Iterator[Any]:
    """kafka-python's iteration of a batch; aiokafka's is in :mod:`ecdctr.events.kafka.clients`."""
    try:
        records: Iterator[Any] = _original_iter(batch)  # the batch itself
        return records
    except BatchTooLargeError:
        return iter([stand_in(batch)])


_original_iter: Any = kafka_records.DefaultRecordBatch.__iter__


def bound_batches() -> None:
    """Let the consumers of both clients refuse batches that are too large; a second call does nothing."""
    if aiokafka_fetcher.FetchResult is _FetchResult:
        return
    for module in (
        kafka_records,
        aiokafka_records,
        sys.modules[aiokafka_records.DefaultRecordBatch.__module__],
    ):
        for codec, decode in _CODECS.items():
            name = f"{codec}_decode"
            setattr(module, name, _bind(decode, getattr(module, name)))
    kafka_records.DefaultRecordBatch.__iter__ = _records_of
    aiokafka_fetcher.FetchResult = _FetchResult
    kafka_fetcher.Fetcher.PartitionRecords.take = _take


def _bind(decode: Callable[[Any, Any], bytes], original: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    return lambda data: decode(data, original)
