r"""Corrections to aiokafka and kafka-python for which neither has an option, and the end of a producer.

Importing ``ecdctr.events.kafka`` applies the corrections to the two libraries in this process:

- **No client creates a topic by asking for it.** Where ``auto.create.topics.enable`` is true, a request for the metadata of a
  topic creates the topic, unless the request says otherwise. aiokafka cannot say otherwise, and the option of kafka-python has
  no effect. A topic that an operator deletes would come back within a second, with the broker's defaults.
- **The name of a header may be any bytes.** Kafka does not check that names are UTF-8. Both libraries raise an error for a
  record whose header name is not, and can then not read its partition any further. Such bytes are read as escapes, as in
  ``\xff``.
- **A damaged batch hides nothing that precedes it.** Where the checksum of a batch is wrong, aiokafka discards the batches before it in
  the same response. Here they are delivered, and the error comes when the damaged batch is the next one. What cannot be parsed though
  its checksum is right is the same error.
- **A batch that cannot be read is an error once.** After the error, the next call of kafka-python's ``poll`` never returned, because it
  asked the reader that had failed again and again. Here the reader is given up, and the next call fetches again.
- **A compressed batch is bounded**, see :mod:`ecdctr.events.kafka.batch_limits`.
- **A kafka-python client asks a broker that answers**, see :mod:`ecdctr.events.kafka.broker_choice`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, cast

import aiokafka.client
import aiokafka.consumer.fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.errors import KafkaError as AiokafkaError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from kafka import KafkaConsumer, KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaError
from kafka.record.default_records import DefaultRecordBatch

from ecdctr.events.kafka.batch_limits import BatchTooLargeError, bound_batches, stand_in
from ecdctr.events.kafka.broker_choice import choose_brokers_that_answer

__all__ = ["close_at_once", "correct_clients"]

_HEAD = 12  # base offset and length of a batch; the length counts what follows
_LENGTH_AT = 8
_MAGIC_AT, _MAGIC_WITH_HEADERS = 16, 2


def correct_clients() -> None:
    """Apply the corrections; a second call does nothing."""
    choose_brokers_that_answer()
    bound_batches()
    for client in (KafkaConsumer, KafkaProducer, ClusterMetadata):
        client.DEFAULT_CONFIG["allow_auto_create_topics"] = False
    aiokafka.client.MetadataRequest = _MetadataRequest
    if aiokafka.consumer.fetcher.MemoryRecords is not _Records:
        _Records.kind = aiokafka.consumer.fetcher.MemoryRecords
        aiokafka.consumer.fetcher.MemoryRecords = _Records
    if DefaultRecordBatch._read_msg is not _read_record:
        _Reading.strict = DefaultRecordBatch._read_msg
        DefaultRecordBatch._read_msg = _read_record
    if Fetcher.PartitionRecords.take is not _take_records:
        _Reading.take = Fetcher.PartitionRecords.take
        Fetcher.PartitionRecords.take = _take_records


def close_at_once(producer: KafkaProducer) -> None:
    """Close a producer without sending what it has not sent.

    ``close(timeout=0)`` waits for a flush first and raises if a record is not acknowledged; its thread then keeps running, and may
    send the record at any later time.
    """
    producer._sender.force_close()
    with suppress(KafkaError):
        producer.close(timeout=1)


class _MetadataRequest(MetadataRequest):  # type: ignore[misc]
    """A request that does not create the topics that it asks for, unless it says so."""

    def __init__(self, topics: list[str] | None = None, allow_auto_topic_creation: bool = False) -> None:
        super().__init__(topics, allow_auto_topic_creation)


class _AnyNames(bytearray):
    """A buffer whose slices decode to text whatever they hold."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _AnyNames(found) if isinstance(key, slice) else found

    def decode(self, *_: Any, **__: Any) -> str:
        return bytes(self).decode("utf-8", "backslashreplace")


# -- kafka-python: the method of a batch that reads its next record


class _Reading:
    """Holds the library's own methods."""

    strict: Any = None
    take: Any = None


def _take_records(fetched: Any, n: int | None = None) -> Any:
    try:
        return _Reading.take(fetched, n)
    except Exception:
        fetched.drain()
        raise


def _read_record(batch: Any, *arguments: Any) -> Any:
    try:
        return _Reading.strict(batch, *arguments)
    except UnicodeDecodeError:  # the position moves only after a whole record, so it can be read again
        batch._buffer = _AnyNames(batch._buffer)
        return _Reading.strict(batch, *arguments)


# -- aiokafka: its compiled reader is used until it fails, then the slower one in Python


class _Records:
    """The record batches of one fetched partition.

    Parameters
    ----------
    data
        Batches, the last of which may be cut.
    """

    kind: Any = None
    """The library's own class."""

    def __init__(self, data: bytes) -> None:
        self._records = _Records.kind(data)
        self._data, self._at = data, 0
        self._ahead: Any = None
        self._returned = 0

    def size_in_bytes(self) -> int:
        return cast(int, self._records.size_in_bytes())

    def has_next(self) -> bool:
        """Whether there is another batch; False before a damaged one that is not the first."""
        if self._returned == 0:
            return cast(bool, self._records.has_next())
        if self._ahead is None:
            with suppress(CorruptRecordException):
                self._ahead = self._read()
        return self._ahead is not None and bool(self._ahead.validate_crc())

    def next_batch(self) -> Any:
        batch, self._ahead = self._ahead, None
        self._returned += 1
        return self._read() if batch is None else batch

    def _read(self) -> Any:
        start = self._at
        batch = self._records.next_batch()
        if batch is None:
            return None
        length = int.from_bytes(self._data[start + _LENGTH_AT : start + _HEAD], "big")
        self._at = start + _HEAD + length
        return _Batch(batch, self._data, start, self._at)


class _Batch:
    """One batch; attributes are those of the library's batch."""

    def __init__(self, batch: Any, data: bytes, start: int, end: int) -> None:
        self._batch, self._data, self._start, self._end = batch, data, start, end
        self._iterator: Iterator[Any] | None = None
        self._is_whole: bool | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def validate_crc(self) -> bool:
        """Whether the checksum is right; computed once."""
        if self._is_whole is None:
            self._is_whole = bool(self._batch.validate_crc())
        return self._is_whole

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._records_of_any_names()
        except BatchTooLargeError:
            yield stand_in(self._batch)
        except (AiokafkaError, GeneratorExit):
            raise
        except Exception as error:  # of the decompression, or of the parser
            raise CorruptRecordException(
                f"a batch cannot be parsed ({type(error).__name__}: {error})"
            ) from error

    def _records_of_any_names(self) -> Iterator[Any]:
        done = 0
        try:
            for record in self._batch:
                yield record
                done += 1
        except (UnicodeDecodeError, CorruptRecordException):
            if self._data[self._start + _MAGIC_AT] < _MAGIC_WITH_HEADERS:
                raise
            slow = _DefaultRecordBatchPy(memoryview(self._data)[self._start : self._end])
            slow._maybe_uncompress()
            slow._buffer = _AnyNames(slow._buffer)
            yield from islice(slow, done, None)

    def __next__(self) -> Any:
        """The next record; used for the one record of a control batch."""
        if self._iterator is None:
            self._iterator = iter(self)
        return next(self._iterator)
