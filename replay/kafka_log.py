"""The Kafka log read by offset: whole ranges for replay, exact parts for recovery and audit."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from models.batch import Batch
from models.events import EventDecoder
from replay.align import Chunk
from replay.connection import KafkaSettings
from replay.offsets import true_ends
from replay.records import decode_records
from state.errors import BrokerUnavailableError, OffsetsLostError, StreamError
from state.positions import Part

__all__ = ["KafkaLog"]

Key = tuple[str, int]


class KafkaLog:
    """Reads partitions of the click topics from given offsets, outside any consumer group.

    Parameters
    ----------
    connection
        Brokers and security.
    decoder
        Knows the features.
    topics
        ``{topic: domain}``.
    timeout_s
        How long a read may stay without an answer before :class:`BrokerUnavailableError`.
    """

    def __init__(
        self,
        connection: KafkaSettings,
        decoder: EventDecoder,
        topics: Mapping[str, int],
        *,
        timeout_s: float = 60.0,
    ) -> None:
        self.decoder = decoder
        self.topics = dict(topics)
        self.timeout_s = timeout_s
        self.dead_rows = 0
        try:
            # assign(), never subscribe(): no group is joined, and nothing is committed.
            self._consumer = KafkaConsumer(
                **connection.kafka_python(),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                max_poll_records=20_000,
                fetch_max_wait_ms=50,
                max_partition_fetch_bytes=4 * 1024 * 1024,
            )
        except KafkaError as error:
            raise BrokerUnavailableError(
                f"no broker answers at {', '.join(connection.brokers)} ({type(error).__name__}): "
                "start one, or set kafka.brokers"
            ) from error
        self._pending: dict[Key, deque[Chunk]] = {}
        self._next: dict[Key, int] = {}

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> KafkaLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what the log holds

    def partitions(self) -> list[Key]:
        """Every partition of the topics, sorted."""
        keys: list[Key] = []
        for topic in sorted(self.topics):
            found = self._consumer.partitions_for_topic(topic)
            if not found:
                raise StreamError(f'topic "{topic}" does not exist: create it with `ecdctr topics --create`')
            keys += [(topic, p) for p in sorted(found)]
        return keys

    def beginning(self, keys: Sequence[Key]) -> dict[Key, int]:
        """First offset that each partition still holds."""
        found = self._consumer.beginning_offsets([TopicPartition(*k) for k in keys])
        return {(tp.topic, tp.partition): int(offset) for tp, offset in found.items()}

    def end(self, keys: Sequence[Key]) -> dict[Key, int]:
        """True end of each partition; see :func:`replay.offsets.true_ends`."""
        ends = true_ends(self._consumer, [TopicPartition(*k) for k in keys], self.timeout_s)
        self._pending.clear()
        self._next.clear()
        return {(tp.topic, tp.partition): end for tp, end in ends.items()}

    # -- reading

    def chunks(
        self, first: Mapping[Key, int], end: Mapping[Key, int], *, wants: Any = None
    ) -> Iterator[Chunk]:
        """Decoded chunks of all partitions, each in offset order, until every partition is at its end.

        Parameters
        ----------
        first, end
            Offset range of each partition.
        wants
            ``wants(topic, partition) -> bool``: partitions answered False are paused (bounded memory).
        """
        todo = {TopicPartition(*k): (first[k], end[k]) for k in end if first[k] < end[k]}
        if not todo:
            return
        self._consumer.assign(list(todo))
        position = {}
        for tp, (start, _) in todo.items():
            self._consumer.seek(tp, start)
            position[tp] = start
        paused: set[TopicPartition] = set()
        deadline = time.monotonic() + self.timeout_s
        while todo:
            for tp in todo:
                wanted = wants is None or wants(tp.topic, tp.partition)
                if wanted and tp in paused:
                    self._consumer.resume(tp)
                    paused.discard(tp)
                elif not wanted and tp not in paused:
                    self._consumer.pause(tp)
                    paused.add(tp)
            for tp, polled in self._poll().items():
                if tp not in todo:
                    continue
                stop = todo[tp][1]
                records = [r for r in polled if position[tp] <= r.offset < stop]
                if records:
                    yield self._decode(tp, position[tp], records)
                    position[tp] = records[-1].offset + 1
                if position[tp] >= stop or polled[-1].offset + 1 >= stop:
                    del todo[tp]
                    self._consumer.pause(tp)
                deadline = time.monotonic() + self.timeout_s
            if len(paused) == len(todo):
                deadline = time.monotonic() + self.timeout_s
            if time.monotonic() > deadline:
                waiting = ", ".join(
                    f"{tp.topic}[{tp.partition}] at {position[tp]} of {todo[tp][1]}" for tp in todo
                )
                raise BrokerUnavailableError(f"no record for {self.timeout_s:.0f} s: {waiting}")

    def fetch(self, parts: Sequence[Part]) -> Batch:
        """The rows of exactly these parts, in canonical order, as the step that first cut them had them.

        Parts of successive calls should rise within a partition: then each record is read once.
        """
        batches = []
        for part in sorted(parts):
            batches += self._fetch_part(part)
        if not batches:
            raise StreamError(f"no parts to fetch: {parts}")
        return Batch.concat(batches, sorted(parts))

    def raw(self, part: Part) -> list[Any]:
        """The records of one part as they are in the log."""
        tp = TopicPartition(part.topic, part.partition)
        self._consumer.assign([tp])
        self._pending.clear()
        self._next.clear()
        self._consumer.seek(tp, part.first)
        records: list[Any] = []
        deadline = time.monotonic() + self.timeout_s
        while not records or records[-1].offset + 1 < part.end:
            records += self._poll().get(tp, [])
            if time.monotonic() > deadline:
                break
        return [r for r in records if r.offset < part.end]

    def _fetch_part(self, part: Part) -> list[Batch]:
        key = (part.topic, part.partition)
        self._seek_part(key, part)
        queue = self._pending[key]
        out: list[Batch] = []
        reached = part.first
        deadline = time.monotonic() + self.timeout_s
        while reached < part.end:
            if not queue:
                self._fill(part, reached, deadline)
                continue
            chunk = queue.popleft()
            lo = int(np.searchsorted(chunk.offset, reached, side="left"))
            hi = int(np.searchsorted(chunk.offset, part.end, side="left"))
            out.append(chunk.batch.take(slice(lo, hi)))
            if chunk.end > part.end:
                queue.appendleft(chunk)
            reached = min(chunk.end, part.end)
        return out

    def _seek_part(self, key: Key, part: Part) -> None:
        queue = self._pending.get(key)
        tp = TopicPartition(*key)
        if queue is not None:
            begin = queue[0].first if queue else self._next[key]
            if begin <= part.first and part.first <= self._next[key]:
                return
        assigned = self._consumer.assignment()
        if tp not in assigned:
            positions = {
                t: self._next[(t.topic, t.partition)]
                for t in assigned
                if (t.topic, t.partition) in self._next
            }
            self._consumer.assign([*positions, tp])
            for t, offset in positions.items():
                self._consumer.seek(t, offset)
        self._consumer.seek(tp, part.first)
        self._pending[key] = deque()
        self._next[key] = part.first

    def _fill(self, part: Part, reached: int, deadline: float) -> None:
        key = (part.topic, part.partition)
        # Only the partition that is needed is read: what others deliver would pile up without bound.
        for tp in self._consumer.assignment():
            wanted = (tp.topic, tp.partition) == key
            (self._consumer.resume if wanted else self._consumer.pause)(tp)
        for tp, records in self._poll().items():
            at = (tp.topic, tp.partition)
            fresh = [r for r in records if r.offset >= self._next[at]]
            if fresh:
                self._pending[at].append(self._decode(tp, self._next[at], fresh))
                self._next[at] = fresh[-1].offset + 1
        if not self._pending[key] and time.monotonic() > deadline:
            raise OffsetsLostError(
                f'the log did not give offsets {reached} to {part.end} of topic "{part.topic}" partition '
                f"{part.partition} within {self.timeout_s:.0f} s"
            )

    def _poll(self) -> dict[Any, list[Any]]:
        try:
            got: dict[Any, list[Any]] = self._consumer.poll(timeout_ms=500)
        except KafkaError as error:
            if type(error).__name__ == "OffsetOutOfRangeError":
                raise OffsetsLostError(f"the log no longer holds what is asked for: {error}") from error
            raise BrokerUnavailableError(f"reading failed: {error}") from error
        return got

    def _decode(self, tp: Any, first: int, records: list[Any]) -> Chunk:
        chunk, rejects = decode_records(
            self.decoder, tp.topic, tp.partition, first, records, self.topics[tp.topic]
        )
        self.dead_rows += len(rejects)
        return chunk
