"""``LogConsumer``: Faust's consumer, handing on whole record lists from positions that we name.

Overrides methods of ``faust.transport.drivers.aiokafka.Consumer`` that are not public, hence the exact
version in ``pyproject.toml``. Faust's own way costs one trip through asyncio for every message; one for
every list of polled records is some thirty times quicker, and where reading goes on is decided by what has
been counted, not by what the group committed.
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

# Also how soon a partition that was full is fetched again.
_POLL_S = 0.1
_MEND_EVERY_S = 1.0

# Decoding a list costs a millisecond or two whatever is in it: of a trickle, what comes in this time goes together.
_GATHER_S = 0.05
_MANY, _MANY_BYTES = 1_000, 1 << 18

# How long the broker may hold back an answer for want of records, while some come in and while none do. A broker is
# sent one request at a time, and partitions whose records wait here are not part of it: one that asks for quiet
# partitions alone keeps the busy ones waiting for as long. Faust's own 1,500 ms make bursts of that period.
_WAIT_BUSY_MS = 5
_WAIT_IDLE_MS = 100
_LOST_AFTER_S = 30.0


class PositionKeeper(Protocol):
    """What the consumer asks: where to read on, and whether to read at all."""

    def position(self, topic: str, partition: int) -> int | None:
        """Next offset to be handed in; None for a partition that is not ours."""
        ...

    def wants(self, topic: str, partition: int) -> bool:
        """False while the partition's buffer is full: it is then left out of the fetch."""
        ...

    def set_end(self, topic: str, partition: int, end: int) -> None:
        """The log is known to hold offsets up to ``end``."""
        ...


@dataclass(slots=True, eq=False)
class RecordList:
    """Consecutive records of one partition, as they were polled.

    Attributes
    ----------
    asked
        The offset that the broker was asked for: what lies between it and the first record is no longer
        in the log, or never held a message (transaction markers).
    handed_at
        When it was handed on, monotonic seconds.
    begun
        Whether an agent has begun with it.
    """

    tp: Any
    asked: int
    records: list[Any]
    handed_at: float = 0.0
    begun: bool = False

    def __len__(self) -> int:
        return len(self.records)


class _Forgetful(dict[Any, Any]):
    """Stands for Faust's map of read offsets, by which it drops what it takes for a redelivery.

    It counts messages as read that no agent has seen yet, so that after a seek back it drops what was asked for.
    The app compares with the intake's position, which cannot be wrong.
    """

    def __getitem__(self, key: Any) -> Any:
        return None

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def update(self, *args: Any, **kwargs: Any) -> None:
        pass


class LogConsumer(Consumer):  # type: ignore[misc]
    """Recipe: seek to our own positions, hand on record lists, fetch only what is wanted.

    A partition has at most one list on its way to the agents: until :meth:`done` is called with it,
    nothing more of the partition is taken from the fetcher (which reads ahead on its own). Lists of one topic that
    were taken together travel together.

    The app that owns it has an attribute ``keeper`` (:class:`PositionKeeper`) and an attribute ``ours``,
    the names of the topics that are read this way.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._keeper: PositionKeeper = self.app.keeper
        self._ours: frozenset[str] = self.app.ours
        self._handed: dict[TP, RecordList] = {}
        self._read_offset = _Forgetful()
        self._mended_at = 0.0
        self.mended = 0
        self._took_at, self._took_many = 0.0, False
        # Touched by the consumer's thread alone: where the next list of a partition has to begin.
        self._chain: dict[TP, int] = {}
        self._chain_of: object = None

    def done(self, records: RecordList) -> None:
        """The agents have dealt with this list: the partition may be read on."""
        if self._handed.get(records.tp) is records:
            del self._handed[records.tp]

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every owned partition of our topics to where our own count stands.

        Faust calls this at start and after each rebalance, with the flow stopped.
        """
        self._handed.clear()
        positions = {}
        for tp in self.assignment():
            at = self._keeper.position(tp.topic, tp.partition) if tp.topic in self._ours else None
            if at is not None:
                positions[tp] = at
        await self.seek_back(positions)
        return positions

    async def seek_back(self, positions: Mapping[TP, int]) -> None:
        """Read on from these offsets. A list from elsewhere that is under way shows where it was asked for."""
        for tp in positions:
            self._handed.pop(tp, None)
        if positions:
            await self._thread.call_thread(self._seek_in_thread, dict(positions))

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """Yield one message for each topic; its value is a list of :class:`RecordList`, one a partition."""
        await self._mend()
        lists, active = await self._wait_next_records(min(timeout, _POLL_S))
        if lists is None or self.should_stop:
            return
        if not self.flow_active:
            try:
                await self.perform_seek()
            except Exception as error:  # as Faust does: the seek after the rebalance follows anyway
                log.warning("seek while the flow was stopped: %r", error)
            return
        self._tell_ends()
        topics: dict[str, list[RecordList]] = {}
        for tp, found in lists.items():
            if active is not None and tp not in active and tp not in self._buffered_partitions:
                continue
            topics.setdefault(tp.topic, []).append(found)
        for together in topics.values():
            # Only what a seek is sure to follow may be dropped: a list may be the last of its partition. Those
            # fetched before a rebalance are as good as any other: positions decide, not generations.
            if not self.flow_active:
                return
            now = time.monotonic()
            for found in together:
                self.app.monitor.track_tp_end_offset(found.tp, found.records[-1].offset + 1)
                found.handed_at = now
                self._handed[found.tp] = found
            last = together[-1]
            message = self._to_message(last.tp, last.records[-1])
            message.value = together
            yield last.tp, message

    async def _mend(self) -> None:
        """Fetch again what was lost between the fetcher and the agents and would not show by itself.

        A list that came after it would show the loss, but the last list of a partition has none after it.
        Mending too much is harmless: what was counted is skipped.
        """
        now = time.monotonic()
        if now - self._mended_at < _MEND_EVERY_S or not self.flow_active:
            return
        self._mended_at = now
        lost = {}
        for tp in self.assignment():
            position = self._keeper.position(tp.topic, tp.partition) if tp.topic in self._ours else None
            if position is None:
                continue
            held = self._handed.get(tp)
            if held is None:
                gone = self._chain.get(tp, position) > position
            else:
                gone = not held.begun and now - held.handed_at > _LOST_AFTER_S
            if gone:
                lost[tp] = position
        if lost:
            self.mended += 1
            log.info(
                "read again: %s", ", ".join(f"{tp.topic}[{tp.partition}] from {o}" for tp, o in lost.items())
            )
            await self.seek_back(lost)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> dict[TP, RecordList]:
        wanted = {
            tp
            for tp in active_partitions or ()
            if tp.topic in self._ours and tp not in self._handed and self._keeper.wants(*tp)
        }
        if not wanted:  # the fetcher takes "none" for "all"
            if not self._handed and self._thread._consumer is not None:  # training is what holds things up
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
        """Take what was fetched, together with the offset it was asked for, without a seek in between."""
        consumer = self._thread._ensure_consumer()
        fetcher = consumer._fetcher
        deadline = time.monotonic() + timeout
        while self.flow_active and not fetcher._subscriptions.reassignment_in_progress:
            if consumer._closed or fetcher._closed:
                raise ConsumerStoppedError
            with fetcher._subscriptions.fetch_context():
                # Without a timeout it does not wait: what it gives is from where the chain ends.
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
        asked = self._chain.get(tp, records[0].offset)
        self._chain[tp] = records[-1].offset + 1
        return RecordList(tp, asked, records)

    async def _seek_in_thread(self, positions: dict[TP, int]) -> None:
        consumer = self._thread._ensure_consumer()
        self._same_assignment(consumer._fetcher)
        for tp, offset in positions.items():
            try:
                consumer.seek(TopicPartition(*tp), offset)
            except IllegalStateError:  # taken away meanwhile; it will be sought when it returns
                continue
            self._chain[tp] = offset

    def _same_assignment(self, fetcher: Any) -> None:
        """A new assignment starts from the group's committed offsets, until it is sought: forget the chain."""
        assignment = fetcher._subscriptions.subscription.assignment
        if assignment is not self._chain_of:
            self._chain_of = assignment
            self._chain.clear()

    # -- in the app's loop

    def _tell_ends(self) -> None:
        for tp in self.assignment():
            if tp.topic not in self._ours:
                continue
            try:
                end = self.highwater(tp)
            except (AssertionError, IllegalStateError):
                continue  # taken away meanwhile, in the consumer's thread
            if end is not None:
                self._keeper.set_end(tp.topic, tp.partition, end)

    async def publish(self, positions: Mapping[tuple[str, int], int]) -> bool:
        """Commit next offsets to the group, for lag tools only; a failure is logged, no more."""
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
        """Faust's own stall detector takes a paused partition for a stalled one; the app has another."""


def _many(found: Mapping[TP, RecordList]) -> bool:
    """Whether this was no trickle: by its messages, or by their bytes, since a packed one holds many rows."""
    lists = [taken.records for taken in found.values()]
    if sum(map(len, lists)) >= _MANY:
        return True
    return sum(len(record.value or b"") for records in lists for record in records) >= _MANY_BYTES
