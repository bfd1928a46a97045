"""The Faust app: one agent per topic, which turns lists of records into chunks of rows."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

import faust
import numpy as np
from aiokafka.errors import KafkaError
from faust.app.base import BootStrategy

from ecdctr.events.align import Chunk
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka import codec_error, probe_brokers
from ecdctr.events.plausible_time import TimeRule
from ecdctr.events.records import Fetched, chunks_of, decode_values, is_packed
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError, EcdctrError, OffsetsLostError, StreamError
from ecdctr.streams.dead_letters import DeadLetterSink, letters_of
from ecdctr.streams.decoders import DecodePool
from ecdctr.streams.intake import EpochGuard, LogConsumer, PositionKeeper, RecordList, Throttle
from ecdctr.streams.settings import TopicSettings, WorkerSettings

__all__ = ["Intake", "StreamApp", "run_app"]

log = logging.getLogger("ecdctr.streams")

_STOP_S = 4.0
"""Time to close the connections. A clean end takes ten seconds at most, with or without a broker."""


class Intake(PositionKeeper, Protocol):
    """Receives decoded rows. Its positions determine what is read."""

    async def put(self, chunk: Chunk) -> None:
        """Take rows of one partition, which begin at its position; the position moves to ``chunk.end``."""
        ...


class _ConsumerOnly(BootStrategy):  # type: ignore[misc]
    """Starts no producer: nothing is sent by Faust, and it would be one more client that can hang."""

    enable_kafka_producer = False


class _App(faust.App):  # type: ignore[misc]
    """Faust's app without its data folder and its producer, which are not used here; attributes: see :class:`LogConsumer`."""

    BootStrategy = _ConsumerOnly
    mundane_level = "debug"

    keeper: PositionKeeper
    own_topics: frozenset[str]
    client_options: dict[str, Any]
    pass_over: Callable[[RecordList], Coroutine[Any, Any, None]]
    fail: Callable[[BaseException], None]

    def _create_directories(self) -> None:
        pass


class StreamApp:
    """Reads the click topics into an intake.

    Each list of records is processed as follows:

    1. Records before the intake's position have already been accepted: they are skipped (``redelivered``).
    2. If the list was fetched from an offset after the position, a list in between was lost on the way: seek back (``jumps``).
       A gap after the fetched offset is part of the log (compaction, transaction markers, aborted transactions) and is valid,
       unless the log begins after the position.
    3. Decode all lists of a topic that arrived together in one call, and judge the event times. Send rejected records to the
       dead-letter topic and wait for the acknowledgement.
    4. Only then deliver the valid rows, which moves the position.

    Every partition of the topics is read, from the intake's position; no consumer group is joined, and committed offsets are never
    used. Partitions that are added to a topic are read within ten seconds.

    Parameters
    ----------
    connection, topics, worker
        Configuration.
    decoder
        Decodes the messages.
    intake
        Receives the rows.
    dead_letters
        Receives rejected records; started by the caller.
    pool
        Decoding processes, started by the caller. If None, this process decodes.
    guard
        Observes the leader epochs of what is fetched. If None, a log that an unclean leader election has cut is not recognised here.
    times
        Refuses rows whose event time is far ahead of their record's time. If None, none is refused.
    throttle
        Is told how long the brokers ask to wait because a quota is used up.

    Attributes
    ----------
    records, rows
        Number of records read and of rows delivered.
    redelivered
        Records that were skipped because the intake had already accepted them.
    jumps
        Number of seeks back because a list was lost.
    """

    def __init__(
        self,
        connection: KafkaSettings,
        topics: TopicSettings,
        worker: WorkerSettings,
        decoder: EventDecoder,
        intake: Intake,
        dead_letters: DeadLetterSink,
        pool: DecodePool | None = None,
        guard: EpochGuard | None = None,
        times: TimeRule | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        self.pool = pool
        self.times = TimeRule(None) if times is None else times
        self.throttle = throttle or Throttle()
        self.guard = guard
        self.topics = topics
        self.worker = worker
        self.decoder = decoder
        self.intake = intake
        self.dead_letters = dead_letters
        self.connection = connection
        self.records = self.rows = self.redelivered = self.jumps = 0
        self.failed: asyncio.Future[None] | None = None
        self._given_up = asyncio.Event()
        self._ended = False
        self._progress = time.monotonic()
        self.faust = self._build(connection)

    def _build(self, connection: KafkaSettings) -> _App:
        worker = self.worker
        app = _App(
            worker.group,
            broker=[f"kafka://{address}" for address in connection.addresses],
            broker_max_poll_records=worker.poll_records,
            consumer_max_fetch_size=worker.fetch_bytes,
            store="memory://",
            datadir=Path.cwd(),  # nothing is written there, see _App
            autodiscover=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            web_enabled=False,
            stream_wait_empty=False,
            stream_recovery_delay=0,
            table_standby_replicas=0,
        )
        app.keeper = self.intake
        app.own_topics = frozenset(self.topics.domains)
        app.client_options = connection.aiokafka()  # certificates and passwords are read anew for each app
        app.pass_over, app.fail = self._pass_over, self._fail
        app.epochs = None if self.guard is None else self.guard.epochs
        app.throttle = self.throttle
        app.transport.Consumer = LogConsumer
        for name, domain in self.topics.domains.items():
            topic = app.topic(name, value_serializer="raw")
            topic.acks = False  # no tracking or commits per message
            app.agent(topic, name=f"{name}-agent")(self._agent(domain))
        return app

    def _agent(self, domain: int) -> Any:
        async def read(stream: Any) -> None:
            async for event in stream.noack().events():
                await self._handle(event.value, domain)

        return read

    @property
    def consumer(self) -> LogConsumer:
        """The running consumer."""
        consumer: LogConsumer = self.faust.consumer
        return consumer

    def holds(self, topic: str, partition: int) -> bool:
        """Whether records of the partition were read and not delivered yet, for example while dead letters are not acknowledged."""
        consumer: LogConsumer | None = self.faust._consumer
        return consumer is not None and consumer.holds(topic, partition)

    def damaged(self) -> dict[tuple[str, int], str]:
        """The partitions whose next batch of records is damaged, each with a sentence; they wait until it can be read."""
        consumer: LogConsumer | None = self.faust._consumer
        return {} if consumer is None else consumer.damaged()

    def give_up(self) -> None:
        """End :func:`run_app`, so that the caller can run another app with new connections."""
        self._given_up.set()

    def idle_s(self) -> float:
        """Wall seconds since a record was last read."""
        return time.monotonic() - self._progress

    async def _handle(self, together: Sequence[RecordList], domain: int) -> None:
        for records in together:
            records.started = True
        try:
            await self._take(together, domain)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            for records in together:
                self.consumer.done(records)

    def _fail(self, error: BaseException) -> None:
        if self.failed is not None and not self.failed.done():
            self.failed.set_exception(error)

    async def _pass_over(self, records: RecordList) -> None:
        """Move the position over offsets without a record: transaction markers and aborted transactions."""
        topic, partition = records.tp
        position = self.intake.position(topic, partition)
        if position is None or records.end <= position or self._ended:
            return
        if records.fetched_from > position:
            await self._seek_back(records, position)
            return
        none = np.empty(0, np.int64)
        await self.intake.put(Chunk(topic, partition, position, records.end, none, self.decoder.empty()))

    async def _take(self, together: Sequence[RecordList], domain: int) -> None:
        found = [await self._fresh(records) for records in together]
        lists = [fetched for fetched in found if fetched is not None]
        if not lists:
            return
        records = [record for fetched in lists for record in fetched.records]
        values, packed = [r.value for r in records], [is_packed(r) for r in records]
        if self.pool is None and any(packed):  # 3
            decoded = await asyncio.to_thread(decode_values, self.decoder, values, packed, domain)
        elif self.pool is None:
            decoded = decode_values(self.decoder, values, packed, domain)
        else:
            decoded = await self.pool.decode(values, packed, domain)
        for fetched, (found_rows, found_rejects) in zip(lists, chunks_of(lists, decoded), strict=True):
            chunk, rejects, refused = self.times.apply(found_rows, found_rejects, fetched.records)
            if rejects:
                await self.dead_letters.send(letters_of(chunk.topic, chunk.partition, rejects))
            if self._ended:  # another app reads into the intake
                return
            if self.intake.position(chunk.topic, chunk.partition) != chunk.first:
                # Sought back in the meantime (partitions were added), and read again without records up to a later offset, from
                # which reading continues.
                self.redelivered += len(fetched.records)
                continue
            self.times.remember(chunk.topic, chunk.partition, refused)
            await self.intake.put(chunk)  # 4
            self.records += len(fetched.records)
            self.rows += len(chunk.batch)

    async def _fresh(self, records: RecordList) -> Fetched | None:
        """The part of a list that must be decoded; None if there is none, or if reading first continues at an earlier offset."""
        topic, partition = records.tp
        position = self.intake.position(topic, partition)
        if position is None:
            return None
        self._progress = time.monotonic()
        if records.fetched_from > position:  # 2
            await self._seek_back(records, position)
            return None
        found = records.records
        if found[-1].offset < records.fetched_from:
            raise OffsetsLostError(
                f"the log is no longer the one that was learned from: {topic}[{partition}] returned offset {found[-1].offset} "
                f"for a fetch from {records.fetched_from}; start with --reset-offsets, which reports what that loses"
            )
        start = bisect_left(found, position, key=lambda record: record.offset)  # 1
        self.redelivered += start
        fresh = found[start:]
        if not fresh:
            await self._pass_over(records)
            return None
        if fresh[0].offset > position:
            await self._check_gap(records.tp, position)
        if self.guard is not None and self.guard.is_due(topic, partition, fresh[-1].offset):
            await asyncio.to_thread(self.guard.check, topic, partition, fresh[-1].offset)
        return Fetched(topic, partition, position, fresh, max(records.end, fresh[-1].offset + 1))

    async def _seek_back(self, records: RecordList, position: int) -> None:
        topic, partition = records.tp
        self.jumps += 1
        log.info("%s[%d]: seeking back from %d to %d", topic, partition, records.fetched_from, position)
        await self.consumer.seek_back({records.tp: position})

    async def _check_gap(self, tp: Any, position: int) -> None:
        """Raise an error if the log no longer contains the position, because records were then deleted before they were read."""
        beginning = (await self.consumer.earliest_offsets(tp))[tp]
        if beginning > position:
            raise OffsetsLostError(
                f"{tp.topic}[{tp.partition}] begins at offset {beginning}, training needs {position}: "
                f"{beginning - position} offsets were deleted unread; start with --reset-offsets, which reports what that loses"
            )


async def run_app(app: StreamApp, stop: asyncio.Event) -> None:
    """Run the app in this loop until ``stop`` is set or the app is given up; then close its connections and return.

    No signal handlers are installed; this is left to the caller.

    Raises
    ------
    BrokerUnavailableError
        No broker answered at start.
    DataError
        Records are compressed with a codec whose package is not installed.
    StreamError
        The app ended for another reason, for example an error in an agent.
    """
    app.failed = asyncio.get_running_loop().create_future()
    service = app.faust
    starting = asyncio.ensure_future(service.start())
    ends = [
        asyncio.ensure_future(stop.wait()),
        asyncio.ensure_future(app._given_up.wait()),
        asyncio.ensure_future(service._crashed.wait()),
        app.failed,
    ]
    try:
        await asyncio.wait([starting, *ends], return_when=asyncio.FIRST_COMPLETED)
        if not any(end.done() for end in ends):
            starting.result()
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if app.failed.done():
            app.failed.result()
        if not stop.is_set() and not app._given_up.is_set():
            raise service.crash_reason or StreamError("the stream app ended by itself")
    except EcdctrError:
        raise
    except KafkaError as error:
        unreadable = codec_error(error, " or ".join(app.topics.domains))
        if unreadable is not None:
            raise unreadable from error
        problem = await asyncio.to_thread(probe_brokers, app.connection, list(app.topics.domains))
        lost = f"the connection to {', '.join(app.connection.addresses)} was lost: {type(error).__name__}: {error}"
        raise BrokerUnavailableError(lost if problem is None else str(problem)) from error
    finally:
        for end in ends:
            end.cancel()
        starting.cancel()
        await asyncio.gather(starting, *ends, return_exceptions=True)
        try:
            await asyncio.wait_for(service.stop(), _STOP_S)
        except TimeoutError:  # its thread ends with the process, or when it gives up the request
            log.debug("the consumer did not end within %.0f s: a broker does not answer", _STOP_S)
        finally:
            app._ended = True
