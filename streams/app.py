"""The Faust app: one agent a stream, from record lists to chunks of rows."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import faust
from aiokafka.errors import KafkaError

from ecdctr.events.align import Chunk
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka import codec_error
from ecdctr.events.records import Fetched, chunks_of, decode_values, is_packed
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError, EcdctrError, OffsetsLostError, StreamError
from ecdctr.streams.consumer import LogConsumer, PositionKeeper, RecordList
from ecdctr.streams.dead_letters import DeadLetterSink, letters_of
from ecdctr.streams.decoders import DecodePool
from ecdctr.streams.settings import TopicSettings, WorkerSettings

__all__ = ["Intake", "StreamApp", "run_app"]

log = logging.getLogger("ecdctr.streams")

_LEAVE_S = 4.0
"""A clean end is promised within ten seconds, with or without a broker."""


class Intake(PositionKeeper, Protocol):
    """Where rows are handed in. Its positions decide what is read."""

    async def put(self, chunk: Chunk) -> None:
        """Rows of one partition, from its position on; moves the position to ``chunk.end``."""
        ...


class _App(faust.App):  # type: ignore[misc]
    """Faust's app without what we do not use: data folder, web server."""

    keeper: PositionKeeper
    ours: frozenset[str]

    def _create_directories(self) -> None:
        pass


class StreamApp:
    """Reads the click topics into an intake.

    Each record list goes this way:

    1. What lies before the intake's position was counted already: skipped (``redelivered``).
    2. A list that was asked for from beyond the position means that one in between was lost on the
       way, in a rebalance: seek back (``jumps``). A gap behind an offset that *was* asked for is the
       broker's own (compaction, transaction markers) and lawful, unless its log begins only there.
    3. Decode, all lists of a topic that came together at once. Rejects go to the dead-letter topic and are
       acknowledged there.
    4. Only then are the good rows handed in, and the position moves.

    A partition that the group takes away is not read any more; one that comes back is read on from the
    intake's position. What the group has committed never matters.

    Parameters
    ----------
    connection, topics, worker
        Configuration.
    decoder
        Knows the features.
    intake
        Where rows go.
    dead_letters
        Where the rest goes; started by the caller.
    pool
        Processes that decode, started by the caller; None: decoding happens in this process.

    Attributes
    ----------
    records, rows
        Records read and rows handed in.
    redelivered
        Records skipped because they were counted already.
    jumps
        Times that reading went back because a list was lost on the way.
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
    ) -> None:
        self.pool = pool
        self.topics = topics
        self.worker = worker
        self.decoder = decoder
        self.intake = intake
        self.dead_letters = dead_letters
        self.connection = connection
        self.records = self.rows = self.redelivered = self.jumps = 0
        self.failed: asyncio.Future[None] | None = None
        self._progress = time.monotonic()
        self.faust = self._build(connection)

    def _build(self, connection: KafkaSettings) -> _App:
        worker = self.worker
        app = _App(
            worker.group,
            broker=[f"kafka://{address}" for address in connection.addresses],
            broker_credentials=_credentials(connection),
            broker_session_timeout=worker.session_timeout_s,
            broker_heartbeat_interval=min(3.0, worker.session_timeout_s / 4),
            broker_max_poll_records=worker.poll_records,
            consumer_max_fetch_size=worker.fetch_bytes,
            consumer_auto_offset_reset="earliest",
            store="memory://",
            datadir=Path.cwd(),  # never written to, see _App
            autodiscover=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            web_enabled=False,
            stream_wait_empty=False,
            stream_recovery_delay=0,
            table_standby_replicas=0,  # no tables: a standard assignor, which any client can join
        )
        app.keeper = self.intake
        app.ours = frozenset(self.topics.domains)
        app.transport.Consumer = LogConsumer
        for name, domain in self.topics.domains.items():
            topic = app.topic(name, value_serializer="raw")
            topic.acks = False  # nothing is tracked or committed message by message
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

    async def publish(self, positions: Mapping[tuple[str, int], int]) -> bool:
        """Show the group's lag tools where the last checkpoint stands."""
        return bool(await self.consumer.publish(positions))

    def idle_s(self) -> float:
        """Wall seconds since a record was last read."""
        return time.monotonic() - self._progress

    async def _handle(self, together: Sequence[RecordList], domain: int) -> None:
        for records in together:
            records.begun = True
        try:
            await self._take(together, domain)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if self.failed is not None and not self.failed.done():
                self.failed.set_exception(error)
            raise
        finally:
            for records in together:
                self.consumer.done(records)

    async def _take(self, together: Sequence[RecordList], domain: int) -> None:
        found = [await self._fresh(records) for records in together]
        lists = [fetched for fetched in found if fetched is not None]
        if not lists:
            return
        records = [record for fetched in lists for record in fetched.records]
        values, packed = [r.value for r in records], [is_packed(r) for r in records]
        if self.pool is None:  # 3
            decoded = decode_values(self.decoder, values, packed, domain)
        else:
            decoded = await self.pool.decode(values, packed, domain)
        for fetched, (chunk, rejects) in zip(lists, chunks_of(lists, decoded), strict=True):
            if rejects:
                await self.dead_letters.send(letters_of(chunk.topic, chunk.partition, rejects))
            await self.intake.put(chunk)  # 4
            self.records += len(fetched.records)
            self.rows += len(chunk.batch)

    async def _fresh(self, records: RecordList) -> Fetched | None:
        """What of a list is to be decoded; None: nothing, or reading goes back first."""
        topic, partition = records.tp
        position = self.intake.position(topic, partition)
        if position is None:
            return None
        self._progress = time.monotonic()
        if records.asked > position:  # 2
            self.jumps += 1
            log.info("%s[%d]: reading goes back from %d to %d", topic, partition, records.asked, position)
            await self.consumer.seek_back({records.tp: position})
            return None
        found = records.records
        if found[-1].offset < records.asked:
            raise OffsetsLostError(
                f"{topic}[{partition}] answered with offset {found[-1].offset} when asked for {records.asked}: the log was "
                "cut or made anew; start with --reset-offsets, which says what that loses"
            )
        start = bisect_left(found, position, key=lambda record: record.offset)  # 1
        self.redelivered += start
        fresh = found[start:]
        if not fresh:
            return None
        if fresh[0].offset > position:
            await self._check_gap(records.tp, position)
        return Fetched(topic, partition, position, fresh)

    async def _check_gap(self, tp: Any, position: int) -> None:
        """A gap is lawful when the log reaches back to our position; else records were deleted unread."""
        beginning = (await self.consumer.earliest_offsets(tp))[tp]
        if beginning > position:
            raise OffsetsLostError(
                f"{tp.topic}[{tp.partition}] begins at offset {beginning}, training needs {position}: "
                f"{beginning - position} offsets were deleted unread; start with --reset-offsets, which says what that loses"
            )


async def run_app(app: StreamApp, stop: asyncio.Event) -> None:
    """Run the app in this loop until ``stop`` is set; then leave the group and return.

    Signals are the caller's: nothing is installed here.

    Raises
    ------
    BrokerUnavailableError
        No broker answered at start.
    DataError
        Records are compressed with a codec whose package is not installed.
    StreamError
        Whatever else ended the app, the error of an agent included.
    """
    app.failed = asyncio.get_running_loop().create_future()
    service = app.faust
    starting = asyncio.ensure_future(service.start())
    ends = [
        asyncio.ensure_future(stop.wait()),
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
        if not stop.is_set():
            raise service.crash_reason or StreamError("the stream app ended by itself")
    except EcdctrError:
        raise
    except KafkaError as error:
        unreadable = codec_error(error, " or ".join(app.topics.domains))
        if unreadable is not None:
            raise unreadable from error
        raise BrokerUnavailableError(
            f"the connection to {', '.join(app.connection.addresses)} was lost: {type(error).__name__}: {error}"
        ) from error
    finally:
        for end in ends:
            end.cancel()
        starting.cancel()
        await asyncio.gather(starting, *ends, return_exceptions=True)
        try:
            await asyncio.wait_for(service.stop(), _LEAVE_S)
        except TimeoutError:  # no broker to say goodbye to; the group notices by the session timeout
            log.warning("the group was not left in %.0f s: no broker answers", _LEAVE_S)


def _credentials(connection: KafkaSettings) -> Any:
    if connection.uses_sasl:
        return faust.SASLCredentials(
            username=connection.username,
            password=connection.secret(),
            mechanism=connection.mechanism,
            ssl_context=connection.tls_context(),
        )
    if connection.uses_tls:
        return faust.SSLCredentials(connection.tls_context())
    return None
