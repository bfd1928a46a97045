"""``LogConsumer``: a Faust consumer that delivers whole lists of records, from positions that the application sets.

It overrides methods of ``faust.transport.drivers.aiokafka.Consumer`` that are not public; therefore ``pyproject.toml`` pins the
exact version of Faust. Faust schedules asyncio once per message; scheduling once per list of polled records is an order of magnitude
faster (docs/performance.md). Reading resumes at the positions that the application keeps, not at the committed offsets of the
consumer group.
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

# Maximum time that one poll waits for records. A partition whose buffer was full is considered again after at most this time.
_POLL_S = 0.1
# Interval of the search for lists that were lost between fetcher and agents.
_REFETCH_CHECK_S = 1.0

# Decoding a list costs one to two milliseconds even if the list is short. While few records arrive, they are collected for this
# time and decoded together.
_GATHER_S = 0.05
# A poll that returns at least this many records or bytes is not followed by a collecting pause.
_MANY, _MANY_BYTES = 1_000, 1 << 18

# Maximum time that the broker waits for records before it answers a fetch with none (fetch.max.wait.ms): the first value applies
# while records are arriving, the second while the topics are idle. The client sends one fetch request at a time to a broker,
# without the partitions whose records are still buffered in the client. A request that covers only idle partitions therefore blocks
# the busy ones for up to this time. With Faust's default of 1,500 ms, records arrive in bursts 1.5 s apart.
_WAIT_BUSY_MS = 5
_WAIT_IDLE_MS = 100
# A list that was delivered but not started by an agent within this time is considered lost and fetched again.
_LOST_AFTER_S = 30.0


class PositionKeeper(Protocol):
    """The positions at which the consumer reads, and whether a partition is to be fetched."""

    def position(self, topic: str, partition: int) -> int | None:
        """Next offset to deliver; None for a partition that is not read here."""
        ...

    def wants(self, topic: str, partition: int) -> bool:
        """Whether the partition should be fetched; False while its buffer is full."""
        ...

    def set_end(self, topic: str, partition: int, end: int) -> None:
        """Record the end offset (exclusive) of the partition."""
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
    """Replaces Faust's map of read offsets, which Faust uses to drop messages that it considers redelivered; always empty.

    Faust counts messages as read before an agent gets them, and so would drop the records that a seek back fetches again. The app
    decides by the position of the intake instead, which is exact.
    """

    def __getitem__(self, key: Any) -> Any:
        return None

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def update(self, *args: Any, **kwargs: Any) -> None:
        pass


class LogConsumer(Consumer):  # type: ignore[misc]
    """Seeks to the application's positions, delivers lists of records, and fetches only partitions with room in their buffer.

    The agents process at most one list per partition at a time. No further records of the partition are taken from the fetcher until
    :meth:`done` is called; the fetcher prefetches in the meantime. Lists of one topic that were taken together are delivered together.

    The app must have an attribute ``keeper`` (:class:`PositionKeeper`) and an attribute ``own_topics``, the names of the topics that
    are read this way.
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
        # Only the consumer's thread uses these: where the next list of each partition has to begin, and in which assignment.
        self._next_offset: dict[TP, int] = {}
        self._offsets_belong_to: object = None

    def done(self, records: RecordList) -> None:
        """Report that the agents have processed a list; reading of its partition continues."""
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
        """Continue reading at these offsets.

        A list that was fetched from another offset and arrives later is recognised by ``fetched_from``.
        """
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
            except Exception as error:  # Faust ignores it as well: another seek is made after the rebalance
                log.warning("the seek failed while the flow was stopped: %r", error)
            return
        self._report_ends()
        topics: dict[str, list[RecordList]] = {}
        for tp, found in lists.items():
            if active is not None and tp not in active and tp not in self._buffered_partitions:
                continue
            topics.setdefault(tp.topic, []).append(found)
        for together in topics.values():
            # A list may be the last one of its partition, so it may only be dropped if a seek is certain to follow. Lists fetched
            # before a rebalance remain valid: the app checks their offsets, not the generation of the consumer group.
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
        """Fetch again the lists that were lost between fetcher and agents.

        The loss of a list is detected when the next list of the partition arrives, but the last list has no successor. Unnecessary
        fetches are harmless, because records that the intake has already accepted are skipped.
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
        if not wanted:  # the fetcher treats an empty set as "all partitions"
            # All buffers are full: reading is paused until training catches up.
            if not self._delivered and self._thread._consumer is not None:
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
        """Take fetched records and the offset from which they were fetched, in one operation that no seek can interrupt."""
        consumer = self._thread._ensure_consumer()
        fetcher = consumer._fetcher
        deadline = time.monotonic() + timeout
        while self.flow_active and not fetcher._subscriptions.reassignment_in_progress:
            if consumer._closed or fetcher._closed:
                raise ConsumerStoppedError
            with fetcher._subscriptions.fetch_context():
                # With ``timeout=0`` the call does not wait, so no seek can run in between and the records begin at ``_next_offset``.
                taken = await fetcher.fetched_records(
                    wanted, timeout=0, max_records=consumer._max_poll_records
                )
                if taken:
                    fetcher._fetch_max_wait_ms = _WAIT_BUSY_MS
                    self._forget_offsets_of_old_assignment(fetcher)
                    return {TP(*tp): self._as_list(TP(*tp), records) for tp, records in taken.items()}
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                waiter = fetcher._create_fetch_waiter()
                await asyncio.wait([waiter], timeout=left)
                if not waiter.done():
                    waiter.cancel()
                else:
                    waiter.result()  # raises authorisation errors
        fetcher._fetch_max_wait_ms = _WAIT_IDLE_MS
        return {}

    def _as_list(self, tp: TP, records: list[Any]) -> RecordList:
        fetched_from = self._next_offset.get(tp, records[0].offset)
        self._next_offset[tp] = records[-1].offset + 1
        return RecordList(tp, fetched_from, records)

    async def _seek_in_thread(self, positions: dict[TP, int]) -> None:
        consumer = self._thread._ensure_consumer()
        self._forget_offsets_of_old_assignment(consumer._fetcher)
        for tp, offset in positions.items():
            try:
                consumer.seek(TopicPartition(*tp), offset)
            except IllegalStateError:  # revoked in the meantime; it is sought again when it is assigned again
                continue
            self._next_offset[tp] = offset

    def _forget_offsets_of_old_assignment(self, fetcher: Any) -> None:
        """Clear ``_next_offset`` after a new assignment.

        Reading then starts at the committed offsets of the group, until the next seek.
        """
        assignment = fetcher._subscriptions.subscription.assignment
        if assignment is not self._offsets_belong_to:
            self._offsets_belong_to = assignment
            self._next_offset.clear()

    # -- in the app's loop

    def _report_ends(self) -> None:
        for tp in self.assignment():
            if tp.topic not in self._own_topics:
                continue
            try:
                end = self.highwater(tp)
            except (AssertionError, IllegalStateError):
                continue  # revoked in the meantime, in the consumer's thread
            if end is not None:
                self._keeper.set_end(tp.topic, tp.partition, end)

    async def publish(self, positions: Mapping[tuple[str, int], int]) -> bool:
        """Commit the positions to the consumer group, only so that monitoring tools can show the lag.

        Errors are logged and ignored.
        """
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
            log.warning(
                "offsets were not committed to the group (%s); this is tried again at the next checkpoint",
                error,
            )
            return False
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Does nothing: Faust's stall detector mistakes paused partitions for stalled ones, and the worker has its own."""


def _many(found: Mapping[TP, RecordList]) -> bool:
    """Whether many rows arrived, by the number of messages or by their bytes (a packed message contains many rows)."""
    lists = [taken.records for taken in found.values()]
    if sum(map(len, lists)) >= _MANY:
        return True
    return sum(len(record.value or b"") for records in lists for record in records) >= _MANY_BYTES
