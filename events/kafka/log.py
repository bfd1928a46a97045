"""The Kafka log read by offset: whole ranges for replay, exact offset ranges (``Part``) for recovery and audit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from ecdctr.events.align import Chunk
from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka.offsets import partition_offsets, stable_ends, true_ends
from ecdctr.events.kafka.partition_reader import PartitionReader
from ecdctr.events.kafka.probe import stating_the_reason
from ecdctr.events.kafka.topic_state import naming_partitions
from ecdctr.events.records import decode_records
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError, OffsetsLostError, StreamError
from ecdctr.state.positions import Part

__all__ = ["KafkaLog"]

Key = tuple[str, int]


MAX_POLL_RECORDS = 10_000
OFFSETS_S = 10.0
"""Limit for a request of first or end offsets; whoever waits for a broker asks again and says so."""
NEW_TOPIC_S = 2.0
"""How long a topic that was created a moment ago may be absent from the metadata of another broker."""
_RETRY_S = 0.05


class KafkaLog:
    """Reads partitions of the click topics from given offsets, outside any consumer group.

    Records of aborted transactions are never returned, and those of an open transaction only when it is committed
    (``read_committed``). Each partition is read by a client of its own. One client for all would have to pause the partitions that are
    not wanted now, and kafka-python 3.0 loses its position in a partition that is paused in the middle of a fetch.

    Parameters
    ----------
    connection
        Brokers and security.
    decoder
        Decodes the records.
    topics
        ``{topic: domain}``.
    timeout_s
        Seconds without a record after which :meth:`chunks` raises :class:`BrokerUnavailableError`; limit for one part in
        :meth:`fetch` and :meth:`raw`, after which they raise :class:`OffsetsLostError`.

    Attributes
    ----------
    dead_rows
        Number of rejected events.
    """

    def __init__(
        self,
        connection: KafkaSettings,
        decoder: EventDecoder,
        topics: Mapping[str, int],
        *,
        timeout_s: float = 60.0,
    ) -> None:
        self.connection = connection
        self.decoder = decoder
        self.topics = dict(topics)
        self.timeout_s = timeout_s
        self.dead_rows = 0
        self._offsets_s = min(timeout_s, OFFSETS_S)
        self._readers: dict[Key, PartitionReader] = {}
        self._connected = False  # only the first client probes the brokers
        self._consumer = self._client("read_uncommitted")  # for metadata and offsets only
        self._connected = True

    def close(self) -> None:
        """Disconnect."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._consumer.close()

    def __enter__(self) -> KafkaLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _client(self, isolation_level: str = "read_committed") -> Any:
        with stating_the_reason(self.connection, list(self.topics), probe_first=not self._connected):
            # assign(), never subscribe(): no group is joined, and nothing is committed.
            return KafkaConsumer(
                **self.connection.kafka_python(),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level=isolation_level,
                max_poll_records=MAX_POLL_RECORDS,
                fetch_max_wait_ms=50,
                max_partition_fetch_bytes=4 * 1024 * 1024,
            )

    # -- contents of the log

    def partitions(self) -> list[Key]:
        """Every partition of the topics, sorted.

        Raises
        ------
        StreamError
            A topic does not exist, even after :data:`NEW_TOPIC_S`.
        """
        keys: list[Key] = []
        deadline = time.monotonic() + NEW_TOPIC_S
        for topic in sorted(self.topics):
            while not (found := self._consumer.partitions_for_topic(topic)) and time.monotonic() < deadline:
                time.sleep(_RETRY_S)
            if not found:
                raise StreamError(f'topic "{topic}" does not exist: create it with `ecdctr topics --create`')
            keys += [(topic, p) for p in sorted(found)]
        return keys

    def beginning(self, keys: Sequence[Key]) -> dict[Key, int]:
        """First offset that each partition still holds."""
        tps = [TopicPartition(*k) for k in keys]
        with naming_partitions(self.connection, list(self.topics)):
            found = partition_offsets(self._consumer, tps, "beginning", self._offsets_s)
        return {(tp.topic, tp.partition): offset for tp, offset in found.items()}

    def end(self, keys: Sequence[Key]) -> dict[Key, int]:
        """End of what can be read of each partition: its first offset in an open transaction, else its true end.

        See :func:`ecdctr.events.kafka.offsets.stable_ends`.
        """
        tps = [TopicPartition(*k) for k in keys]
        with naming_partitions(self.connection, list(self.topics)):
            written = true_ends(self._consumer, tps, self._offsets_s)
            ends = stable_ends(self._consumer, written, self._offsets_s)
        return {(tp.topic, tp.partition): end for tp, end in ends.items()}

    def written(self, keys: Sequence[Key]) -> dict[Key, int]:
        """True end of each partition, open transactions included; see :func:`ecdctr.events.kafka.offsets.true_ends`."""
        with naming_partitions(self.connection, list(self.topics)):
            ends = true_ends(self._consumer, [TopicPartition(*k) for k in keys], self._offsets_s)
        return {(tp.topic, tp.partition): end for tp, end in ends.items()}

    # -- reading

    def chunks(
        self,
        first: Mapping[Key, int],
        end: Mapping[Key, int],
        *,
        wants: Callable[[str, int], bool] | None = None,
    ) -> Iterator[Chunk]:
        """Decoded chunks of all partitions, each in offset order, until every partition is at its end.

        Parameters
        ----------
        first, end
            Offset range of each partition.
        wants
            ``wants(topic, partition)``: partitions for which it returns False are skipped in this round, which bounds the
            rows in memory.
        """
        todo = {key: first[key] for key in end if first[key] < end[key]}
        deadline = time.monotonic() + self.timeout_s
        while todo:
            wanted = [key for key in todo if wants is None or wants(*key)]
            got = False
            for key in wanted:
                # Wait up to 20 ms per partition until one has returned records; poll the rest without waiting.
                records = self._reader(key, todo[key]).records(end[key], timeout_ms=0 if got else 20)
                if records is None:
                    continue
                got = True
                chunk = self._decode(key, todo[key], records, end[key])
                todo[key] = chunk.end
                if chunk.end >= end[key]:
                    del todo[key]
                yield chunk
            if got or not wanted:
                deadline = time.monotonic() + self.timeout_s
            elif time.monotonic() > deadline:
                waiting = ", ".join(f"{t}[{p}] at {at} of {end[(t, p)]}" for (t, p), at in todo.items())
                raise BrokerUnavailableError(f"no record for {self.timeout_s:.0f} s: {waiting}")

    def fetch(self, parts: Sequence[Part]) -> Batch:
        """The rows of exactly these offset ranges, in the same order as in the step that was first formed from them.

        Successive calls should request a partition's parts in ascending offset order; then each record is read once.
        """
        if not parts:
            raise ValueError("fetch needs at least one part")
        batches: list[Batch] = []
        for part in sorted(parts):
            batches += self._fetch_part(part)
        return Batch.concat(batches, sorted(parts))

    def raw(self, part: Part) -> list[Any]:
        """The records of one part as they are in the log."""
        reader = self._reader((part.topic, part.partition), part.first)
        records: list[Any] = []
        at, deadline = part.first, time.monotonic() + self.timeout_s
        while at < part.end:
            found = self._wait_for(reader, at, part.end, deadline)
            records += found
            at = found[-1].offset + 1 if found else part.end
        return records

    def _fetch_part(self, part: Part) -> list[Batch]:
        key = (part.topic, part.partition)
        reader = self._reader(key, part.first)
        out: list[Batch] = []
        at, deadline = part.first, time.monotonic() + self.timeout_s
        while at < part.end:
            if reader.rest is None:
                records = self._wait_for(reader, at, None, deadline, gap_end=part.end)
                if not records:  # transaction markers and removed records only
                    out.append(self.decoder.empty())
                    break
                reader.rest = self._decode(key, at, records, records[-1].offset + 1)
            chunk = reader.rest
            lo = int(np.searchsorted(chunk.offset, at, side="left"))
            hi = int(np.searchsorted(chunk.offset, part.end, side="left"))
            out.append(chunk.batch.take(slice(lo, hi)))
            at = min(chunk.end, part.end)
            if chunk.end <= part.end:
                reader.rest = None
        reader.wanted = part.end
        return out

    def _wait_for(
        self, reader: PartitionReader, at: int, end: int | None, deadline: float, gap_end: int | None = None
    ) -> list[Any]:
        while (records := reader.records(end, timeout_ms=500, gap_end=gap_end)) is None:
            if time.monotonic() > deadline:
                raise OffsetsLostError(
                    f'the log did not return offset {at} of topic "{reader.tp.topic}" partition {reader.tp.partition} '
                    f"within {self.timeout_s:.0f} s"
                )
        return records

    def _reader(self, key: Key, offset: int) -> PartitionReader:
        reader = self._readers.get(key)
        if reader is None:
            reader = self._readers[key] = PartitionReader(self._client(), TopicPartition(*key))
        reader.go_to(offset)
        return reader

    def _decode(self, key: Key, first: int, records: list[Any], end: int) -> Chunk:
        if not records:  # nothing but gaps up to the end
            empty = self.decoder.empty()
            return Chunk(*key, first, end, np.empty(0, np.int64), empty)
        chunk, rejects = decode_records(self.decoder, *key, first, records, self.topics[key[0]])
        self.dead_rows += len(rejects)
        return chunk
