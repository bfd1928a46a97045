"""``LogConsumer``: a Faust consumer that delivers whole lists of records, from positions that the application sets.

It overrides methods of ``faust.transport.drivers.aiokafka.Consumer`` that are not public; therefore ``pyproject.toml`` pins the
exact version of Faust. Faust schedules asyncio once per message; scheduling once per list of polled records is an order of magnitude
faster (docs/performance.md). Reading resumes at the positions that the application keeps; no consumer group is joined.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalStateError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
)
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP

from ecdctr.events.kafka import SECOND_LOOK_S
from ecdctr.state.errors import OffsetsLostError
from ecdctr.streams.intake.assigned_thread import AssignedThread
from ecdctr.streams.intake.damaged_batches import DamagedBatches

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
# A list that was delivered but not started by an agent within this time is considered lost and fetched again, unless the agent is
# still working on an earlier one.
_LOST_AFTER_S = 30.0
# A partition whose offset the broker refused is fetched again after this time. Records are gone if the log begins after the offset
# for ``SECOND_LOOK_S``, or ends before it for ``_SHORT_FOR_S``: a broker that has just become the leader may not know all of them at
# first. The worker's ``BrokerWatch`` needs less time, and reports all partitions together.
_REFUSED_PAUSE_S = 2.0
_SHORT_FOR_S = 8.0


class PositionKeeper(Protocol):
    """The positions at which the consumer reads, and whether a partition is to be fetched."""

    def position(self, topic: str, partition: int) -> int | None:
        """Next offset to deliver; None for a partition that is not read here."""
        ...

    def wants(self, topic: str, partition: int) -> bool:
        """Whether the partition should be fetched; False while its buffer is full."""
        ...

    def set_end(self, topic: str, partition: int, end: int) -> None:
        """Record that the partition has records before this offset (exclusive)."""
        ...


@dataclass(slots=True, eq=False)
class RecordList:
    """Consecutive records of one partition, as they were polled.

    Attributes
    ----------
    fetched_from
        The offset of the fetch: offsets between it and the first record are no longer in the log, never held a message
        (transaction markers), or held one of an aborted transaction.
    end
        Where the consumer goes on. Offsets between the last record and it are gaps, too.
    delivered_at
        When the list was delivered to the agents, monotonic seconds.
    started
        Whether an agent has started to process it.
    """

    tp: Any
    fetched_from: int
    records: list[Any]
    end: int
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

    A list without records (a transaction marker alone, or an aborted transaction) does not go through the agents.

    The app must have the attributes ``keeper`` (:class:`PositionKeeper`); ``own_topics``, the names of the topics; ``client_options``,
    brokers and security for aiokafka; ``pass_over``, a coroutine function that takes a list without records; ``fail``, which takes
    the error that ends the app; ``epochs``, which observes the fetched batches, or None; and ``throttle``, which is told how long the
    brokers ask to wait.
    """

    IDLE_WAIT_MS = _WAIT_IDLE_MS
    mundane_level = "debug"

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
        self._refused: dict[
            TP, float
        ] = {}  # when the broker last refused to fetch from the partition's position
        self._damaged = DamagedBatches()
        self._missing: dict[TP, float] = {}  # since when the log is known not to hold it

    def done(self, records: RecordList) -> None:
        """Report that the agents have processed a list; reading of its partition continues."""
        if self._delivered.get(records.tp) is records:
            del self._delivered[records.tp]

    def holds(self, topic: str, partition: int) -> bool:
        """Whether a list of the partition is on its way through the agents."""
        return TP(topic, partition) in self._delivered

    def damaged(self) -> dict[tuple[str, int], str]:
        """The partitions whose next batch is damaged, each with a sentence."""
        return self._damaged.sentences()

    def _new_consumer_thread(self) -> AssignedThread:
        return AssignedThread(self, loop=self.loop, beacon=self.beacon)

    async def positions_of(self, partitions: Iterable[TP]) -> dict[TP, int]:
        """Position of each of these partitions that is read here; called by the consumer's thread, runs in the app's loop."""
        found = {
            tp: self._keeper.position(tp.topic, tp.partition)
            for tp in partitions
            if tp.topic in self._own_topics
        }
        return {tp: at for tp, at in found.items() if at is not None}

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every assigned partition of the click topics to its position.

        Faust calls this at start and after partitions were added, while the flow is stopped.
        """
        self._delivered.clear()
        positions = await self.positions_of(self.assignment())
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
            if found.records:
                topics.setdefault(tp.topic, []).append(found)
            elif self.flow_active:
                await self.app.pass_over(found)
        for together in topics.values():
            # A list may be the last one of its partition, so it may only be dropped if a seek is certain to follow. Lists fetched
            # before partitions were added remain valid: the app checks their offsets.
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
                is_lost = _never_started(delivered, self._delivered.values(), now)
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
        now = time.monotonic()
        wanted = {
            tp
            for tp in active_partitions or ()
            if tp.topic in self._own_topics
            and tp not in self._delivered
            and now - self._refused.get(tp, -_REFUSED_PAUSE_S) >= _REFUSED_PAUSE_S
            and self._damaged.wants(tp, now)
            and self._keeper.wants(*tp)
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
        for tp in [tp for tp, at in self._refused.items() if at >= now]:
            await self._check_refused(tp)
        return found

    async def _check_refused(self, tp: TP) -> None:
        """End the app if the log does not hold the position of a partition, from which the broker refused to fetch."""
        position = self._keeper.position(*tp)
        if position is None:
            return
        begins = (await self.earliest_offsets(tp))[tp]
        ends = (await self._thread.call_thread(self._thread._ensure_consumer().end_offsets, [tp]))[tp]
        if begins <= position <= ends:
            self._missing.pop(tp, None)
            return
        if begins > position:
            found = (
                f"{tp.topic}[{tp.partition}] begins at offset {begins}, training needs {position}: "
                f"{begins - position} offsets were deleted unread"
            )
            decided_after = SECOND_LOOK_S
        else:
            found = (
                f"the log is no longer the one that was learned from: {tp.topic}[{tp.partition}] ends at {ends}, "
                f"learned up to {position}"
            )
            decided_after = _SHORT_FOR_S
        if time.monotonic() - self._missing.setdefault(tp, time.monotonic()) >= decided_after:
            self.app.fail(
                OffsetsLostError(f"{found}; start with --reset-offsets, which reports what that loses")
            )

    # -- in the consumer's thread

    async def _fetch_in_thread(self, wanted: set[TP], timeout: float) -> dict[TP, RecordList]:
        """Take fetched records and the offset from which they were fetched, in one operation that no seek can interrupt."""
        consumer = self._thread._ensure_consumer()
        fetcher = consumer._fetcher
        deadline = time.monotonic() + timeout
        for tp in self._damaged.begin_again(wanted):
            if (position := self._keeper.position(*tp)) is not None:
                self.seek_now({tp: position})
        while self.flow_active and not fetcher._subscriptions.reassignment_in_progress:
            if consumer._closed or fetcher._closed:
                raise ConsumerStoppedError
            with fetcher._subscriptions.fetch_context():
                found = await self._take_fetched(consumer, wanted)
                lists = {tp: records for tp, records in found.items() if records.end > records.fetched_from}
                for tp in lists:
                    self._damaged.discard(tp)
                if lists:
                    fetcher._fetch_max_wait_ms = _WAIT_BUSY_MS
                    return lists
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

    async def _take_fetched(self, consumer: Any, wanted: set[TP]) -> dict[TP, RecordList]:
        """Take what was fetched; partitions that fail are noted, and left out of ``wanted``.

        Each partition is taken by a call of its own: if one fails, aiokafka drops what it has taken of the others in the same call.
        """
        fetcher, found = consumer._fetcher, dict[TP, RecordList]()
        self._forget_offsets_of_old_assignment(fetcher)
        left = consumer._max_poll_records
        for tp in [TP(*tp) for tp in fetcher._records if tp in wanted]:
            offered = isinstance(fetcher._records[tp], FetchResult)
            if found and not offered:
                continue  # the error ends the app: what was taken is delivered first
            position = fetcher._subscriptions.subscription.assignment.state_value(tp).position
            try:
                # With ``timeout=0`` the call does not wait, so no seek can run in between and the records begin at ``_next_offset``.
                taken = await fetcher.fetched_records({tp}, timeout=0, max_records=left)
            except OffsetOutOfRangeError:
                self._refused[tp] = time.monotonic()
                self._damaged.discard(tp)  # its records may have been deleted for that
            except (CorruptRecordException, RecordTooLargeError) as error:
                self._damaged.add(tp, position, error, time.monotonic())
            else:
                if offered and (tp not in fetcher._records or tp in taken):
                    found[tp] = self._as_list(fetcher, tp, taken.get(tp, []))
                    left -= len(found[tp])
                if left <= 0:
                    break
                continue
            wanted.discard(tp)
        for tp in consumer._client.take_damaged() & wanted:
            offset = self._next_offset.get(TP(*tp), -1)
            self._damaged.add(
                TP(*tp), offset, CorruptRecordException("of the broker"), 0.0, fetched_again=True
            )
        return found

    def _as_list(self, fetcher: Any, tp: TP, records: list[Any]) -> RecordList:
        end = fetcher._subscriptions.subscription.assignment.state_value(tp).position
        fetched_from = self._next_offset.get(tp, records[0].offset if records else end)
        self._next_offset[tp] = end
        return RecordList(tp, fetched_from, records, end)

    async def _seek_in_thread(self, positions: Mapping[TP, int]) -> None:
        self.seek_now(positions)

    def seek_now(self, positions: Mapping[TP, int]) -> None:
        """Continue reading at these offsets; called in the consumer's thread."""
        consumer = self._thread._ensure_consumer()
        self._forget_offsets_of_old_assignment(consumer._fetcher)
        for tp, offset in positions.items():
            try:
                consumer.seek(TopicPartition(*tp), offset)
            except IllegalStateError:  # revoked in the meantime; it is sought again when it is assigned again
                continue
            self._next_offset[tp] = offset

    def _forget_offsets_of_old_assignment(self, fetcher: Any) -> None:
        """Clear ``_next_offset`` after a new assignment; a seek to every position follows it."""
        assignment = fetcher._subscriptions.subscription.assignment
        if assignment is not self._offsets_belong_to:
            self._offsets_belong_to = assignment
            self._next_offset.clear()

    # -- in the app's loop

    def _report_ends(self) -> None:
        consumer = self._thread._ensure_consumer()
        for tp in self.assignment():
            if tp.topic not in self._own_topics:
                continue
            try:
                stable, written = consumer.last_stable_offset(tp), consumer.highwater(tp)
            except (AssertionError, IllegalStateError):
                continue  # assigned anew in the meantime, in the consumer's thread
            end = written if stable is None or stable < 0 else stable
            if end is not None:
                self._keeper.set_end(tp.topic, tp.partition, end)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Does nothing: Faust's stall detector mistakes paused partitions for stalled ones, and the worker has its own."""


def _never_started(found: RecordList, delivered: Iterable[RecordList], now: float) -> bool:
    """Whether a list was lost before an agent started it.

    The agent of a topic takes lists in the order of delivery. While it waits with an earlier one, for example for dead letters, the
    later ones wait, too: each that was fetched again would be one more copy of them in memory.
    """
    if found.started or now - found.delivered_at <= _LOST_AFTER_S:
        return False
    return not any(
        other.started and other.tp.topic == found.tp.topic and other.delivered_at <= found.delivered_at
        for other in delivered
    )


def _many(found: Mapping[TP, RecordList]) -> bool:
    """Whether many rows arrived, by the number of messages or by their bytes (a packed message contains many rows)."""
    lists = [taken.records for taken in found.values()]
    if sum(map(len, lists)) >= _MANY:
        return True
    return sum(len(record.value or b"") for records in lists for record in records) >= _MANY_BYTES
