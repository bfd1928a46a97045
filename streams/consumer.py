"""``LogConsumer``: a Faust consumer that delivers whole lists of records, from positions that the application sets.

It overrides methods of ``faust.transport.drivers.aiokafka.Consumer`` that are not public, hence the exact version in
``pyproject.toml``. Faust needs one pass through asyncio for each message; one pass for each list of polled records is about thirty
times as fast. Reading continues where the application has counted records, not where the group has committed offsets.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP

__all__ = ["LogConsumer", "PositionKeeper", "RecordList"]

log = logging.getLogger("ecdctr.consumer")

# Also the time after which a partition that was full is fetched again.
_POLL_S = 0.1
_REFETCH_CHECK_S = 1.0

# Decoding a list takes one or two milliseconds, however short it is: while few records arrive, they are gathered for this time.
_GATHER_S = 0.05
_MANY, _MANY_BYTES = 1_000, 1 << 18

# How long the broker may delay its answer to a fetch while there are no records: while some arrive, and while none do. A broker gets
# one request at a time, which leaves out partitions whose records are buffered here: a request for quiet partitions alone would
# delay the busy ones by this time. Faust's own 1,500 ms lead to bursts of that period.
_WAIT_BUSY_MS = 5
_WAIT_IDLE_MS = 100
_LOST_AFTER_S = 30.0


class PositionKeeper(Protocol):
    """The positions at which the consumer reads, and whether a partition is to be fetched."""

    def position(self, topic: str, partition: int) -> int | None:
        """Next offset to deliver; None for a partition that is not read here."""
        ...

    def wants(self, topic: str, partition: int) -> bool:
        """False while the partition's buffer is full: it is not fetched then."""
        ...

    def set_end(self, topic: str, partition: int, end: int) -> None:
        """Record that the log holds offsets up to ``end``."""
        ...


@dataclass(slots=True, eq=False)
class RecordList:
    """Consecutive records of one partition, as they were polled.

    Attributes
    ----------
    fetched_from
        The offset of the fetch: offsets between it and the first record are no longer in the log, or never held a message
        (transaction markers).
    delivered_at
        When the list was delivered to the agents, monotonic seconds.
    started
        Whether an agent has started to process it.
    """

    tp: Any
    fetched_from: int
    records: list[Any]
    delivered_at: float = 0.0
    started: bool = False

    def __len__(self) -> int:
        return len(self.records)


class _NoReadOffsets(dict[Any, Any]):
    """Replaces Faust's map of read offsets, with which it drops messages that it considers redelivered; always empty.

    Faust counts messages as read before an agent gets them, and so would drop the records that a seek back fetches again. The app
    compares with the intake's position instead, which is exact.
    """

    def __getitem__(self, key: Any) -> Any:
        return None

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def update(self, *args: Any, **kwargs: Any) -> None:
        pass


class LogConsumer(Consumer):  # type: ignore[misc]
    """Seeks to the application's positions, delivers lists of records, and fetches only partitions with room in their buffer.

    A partition has at most one list in the hands of the agents: until :meth:`done` is called with it, nothing more of the partition
    is taken from the fetcher, which reads ahead by itself. Lists of one topic that were taken together are delivered together.

    The app that owns the consumer has an attribute ``keeper`` (:class:`PositionKeeper`) and an attribute ``own_topics``, the names
    of the topics that are read this way.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._keeper: PositionKeeper = self.app.keeper
        self._own_topics: frozenset[str] = self.app.own_topics
        self._delivered: dict[TP, RecordList] = {}
        self._read_offset = _NoReadOffsets()
        self._checked_at = 0.0
        self.refetches = 0
        self._took_at, self._took_many = 0.0, False
        # Used by the consumer's thread alone: where the next list of each partition has to begin.
        self._next_offset: dict[TP, int] = {}
        self._assignment_of_next: object = None

    def done(self, records: RecordList) -> None:
        """The agents have processed this list: reading of the partition may continue."""
        if self._delivered.get(records.tp) is records:
            del self._delivered[records.tp]

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every assigned partition of the click topics to its position.

        Faust calls this at start and after each rebalance, while the flow is stopped.
        """
        self._delivered.clear()
        positions = {}
        for tp in self.assignment():
            at = self._keeper.position(tp.topic, tp.partition) if tp.topic in self._own_topics else None
            if at is not None:
                positions[tp] = at
        await self.seek_back(positions)
        return positions

    async def seek_back(self, positions: Mapping[TP, int]) -> None:
        """Continue to read at these offsets. A list from elsewhere that arrives later is recognised by ``fetched_from``."""
        for tp in positions:
            self._delivered.pop(tp, None)
        if positions:
            await self._thread.call_thread(self._seek_in_thread, dict(positions))

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """Yield one message per topic; its value is a list of :class:`RecordList`, one per partition."""
        await self._refetch_lost()
        lists, active = await self._wait_next_records(min(timeout, _POLL_S))
        if lists is None or self.should_stop:
            return
        if not self.flow_active:
            try:
                await self.perform_seek()
            except Exception as error:  # as Faust does: the seek after the rebalance follows in any case
                log.warning("the seek failed while the flow was stopped: %r", error)
            return
        self._report_ends()
        topics: dict[str, list[RecordList]] = {}
        for tp, found in lists.items():
            if active is not None and tp not in active and tp not in self._buffered_partitions:
                continue
            topics.setdefault(tp.topic, []).append(found)
        for together in topics.values():
            # A list may be the last of its partition, so it may be dropped only where a seek is certain to follow. Lists that were
            # fetched before a rebalance are valid: positions decide, not generations.
            if not self.flow_active:
                return
            now = time.monotonic()
            for found in together:
                self.app.monitor.track_tp_end_offset(found.tp, found.records[-1].offset + 1)
                found.delivered_at = now
                self._delivered[found.tp] = found
            last = together[-1]
            message = self._to_message(last.tp, last.records[-1])
            message.value = together
            yield last.tp, message

    async def _refetch_lost(self) -> None:
        """Fetch lists again that were lost between the fetcher and the agents.

        A later list would reveal the loss, but the last list of a partition has none after it. Needless fetches are harmless: records
        that were counted are skipped.
        """
        now = time.monotonic()
        if now - self._checked_at < _REFETCH_CHECK_S or not self.flow_active:
            return
        self._checked_at = now
        lost = {}
        for tp in self.assignment():
            position = self._keeper.position(tp.topic, tp.partition) if tp.topic in self._own_topics else None
            if position is None:
                continue
            delivered = self._delivered.get(tp)
            if delivered is None:
                is_lost = self._next_offset.get(tp, position) > position
            else:
                is_lost = not delivered.started and now - delivered.delivered_at > _LOST_AFTER_S
            if is_lost:
                lost[tp] = position
        if lost:
            self.refetches += 1
            log.info(
                "fetching again: %s",
                ", ".join(f"{tp.topic}[{tp.partition}] from {o}" for tp, o in lost.items()),
            )
            await self.seek_back(lost)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> dict[TP, RecordList]:
        wanted = {
            tp
            for tp in active_partitions or ()
            if tp.topic in self._own_topics and tp not in self._delivered and self._keeper.wants(*tp)
        }
        if not wanted:  # an empty set would mean all partitions to the fetcher
            if not self._delivered and self._thread._consumer is not None:  # reading waits for training
                self._thread._consumer._fetcher._fetch_max_wait_ms = _WAIT_IDLE_MS
            await self.sleep(_POLL_S / 2)
            return {}
        early = self._took_at + _GATHER_S - time.monotonic()
        if early > 0 and not self._took_many:
            await self.sleep(early)
        found: dict[TP, RecordList] = await self._thread.call_thread(self._fetch_in_thread, wanted, timeout)
        self._took_at, self._took_many = time.monotonic(), _many(found)
        return found

    # -- in the consumer's thread

    async def _fetch_in_thread(self, wanted: set[TP], timeout: float) -> dict[TP, RecordList]:
        """Take fetched records together with the offset of their fetch, without a seek in between."""
        consumer = self._thread._ensure_consumer()
        fetcher = consumer._fetcher
        deadline = time.monotonic() + timeout
        while self.flow_active and not fetcher._subscriptions.reassignment_in_progress:
            if consumer._closed or fetcher._closed:
                raise ConsumerStoppedError
            with fetcher._subscriptions.fetch_context():
                # Without a timeout it does not wait: the records continue at ``_next_offset``.
                taken = await fetcher.fetched_records(
                    wanted, timeout=0, max_records=consumer._max_poll_records
                )
                if taken:
                    fetcher._fetch_max_wait_ms = _WAIT_BUSY_MS
                    self._same_assignment(fetcher)
                    return {TP(*tp): self._as_list(TP(*tp), records) for tp, records in taken.items()}
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                waiter = fetcher._create_fetch_waiter()
                await asyncio.wait([waiter], timeout=left)
                if not waiter.done():
                    waiter.cancel()
                else:
                    waiter.result()  # an authorisation error shows here
        fetcher._fetch_max_wait_ms = _WAIT_IDLE_MS
        return {}

    def _as_list(self, tp: TP, records: list[Any]) -> RecordList:
        fetched_from = self._next_offset.get(tp, records[0].offset)
        self._next_offset[tp] = records[-1].offset + 1
        return RecordList(tp, fetched_from, records)

    async def _seek_in_thread(self, positions: dict[TP, int]) -> None:
        consumer = self._thread._ensure_consumer()
        self._same_assignment(consumer._fetcher)
        for tp, offset in positions.items():
            try:
                consumer.seek(TopicPartition(*tp), offset)
            except IllegalStateError:  # revoked meanwhile; the seek follows when it is assigned again
                continue
            self._next_offset[tp] = offset

    def _same_assignment(self, fetcher: Any) -> None:
        """Clear ``_next_offset`` after a new assignment, which starts at the group's committed offsets until the seek."""
        assignment = fetcher._subscriptions.subscription.assignment
        if assignment is not self._assignment_of_next:
            self._assignment_of_next = assignment
            self._next_offset.clear()

    # -- in the app's loop

    def _report_ends(self) -> None:
        for tp in self.assignment():
            if tp.topic not in self._own_topics:
                continue
            try:
                end = self.highwater(tp)
            except (AssertionError, IllegalStateError):
                continue  # revoked meanwhile, in the consumer's thread
            if end is not None:
                self._keeper.set_end(tp.topic, tp.partition, end)

    async def publish(self, positions: Mapping[tuple[str, int], int]) -> bool:
        """Commit next offsets to the group, for lag tools only; a failure is only logged."""
        owned = self.assignment()
        offsets = {
            TopicPartition(*key): OffsetAndMetadata(offset, "")
            for key, offset in positions.items()
            if TP(*key) in owned
        }
        if not offsets:
            return False
        try:
            await self._thread.call_thread(self._thread._ensure_consumer().commit, offsets)
        except KafkaError as error:
            log.warning("offsets were not published to the group (%s); the next checkpoint will", error)
            return False
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Does nothing: Faust's stall detector mistakes paused partitions for stalled ones, and the worker has its own."""


def _many(found: Mapping[TP, RecordList]) -> bool:
    """Whether many rows arrived: by the number of messages, or by their bytes, since a packed message holds many rows."""
    lists = [taken.records for taken in found.values()]
    if sum(map(len, lists)) >= _MANY:
        return True
    return sum(len(record.value or b"") for records in lists for record in records) >= _MANY_BYTES
