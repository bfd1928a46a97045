"""The worker process: recovery, then the Faust app beside the trainer's thread, then a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ecdctr.events.align import Aligner
from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka import KafkaLog
from ecdctr.events.records import decode_records
from ecdctr.events.settings import KafkaSettings
from ecdctr.models.training import Engine
from ecdctr.replay.play import redo
from ecdctr.state.errors import BrokerUnavailableError, EcdctrError, OffsetsLostError, StateLockedError
from ecdctr.state.lock import FolderLock
from ecdctr.state.positions import Positions
from ecdctr.streams.app import StreamApp, run_app
from ecdctr.streams.broker_watch import BrokerWatch
from ecdctr.streams.dead_letters import DeadLetter, DeadLetters
from ecdctr.streams.decoders import DecodePool
from ecdctr.streams.handoff import AlignedIntake, TrainerThread
from ecdctr.streams.reporting import Reporter
from ecdctr.streams.retention import settle_positions
from ecdctr.streams.settings import MonitorSettings, TopicSettings, WorkerSettings
from ecdctr.streams.topics import ensure_topics

__all__ = ["Worker"]

log = logging.getLogger("ecdctr.worker")
Key = tuple[str, int]

TELL_EVERY_S = 10.0
"""Seconds between two lines of progress in the log."""

RETRY_S = (0.5, 1.0, 2.0, 5.0)
"""Waits between two tries to reach a broker that has gone away; the last one repeats."""


class Worker:
    """One trainer on one state folder.

    Parameters
    ----------
    make_engine
        ``make_engine(on_checkpoint=..., on_skipped=...)``.
    decoder
        Knows the features.
    make_log
        ``make_log(decoder)``: the click topics, read by offset.
    kafka, topics, worker, monitor
        Configuration.
    state_folder
        Locked while the worker lives.
    natural_batch, ad_batch
        Rows of a step.
    """

    def __init__(
        self,
        *,
        make_engine: Callable[..., Engine],
        decoder: EventDecoder,
        make_log: Callable[[EventDecoder], KafkaLog],
        kafka: KafkaSettings,
        topics: TopicSettings,
        worker: WorkerSettings,
        monitor: MonitorSettings,
        state_folder: Path,
        natural_batch: int,
        ad_batch: int,
    ) -> None:
        self._make_engine, self._decoder, self._make_log = make_engine, decoder, make_log
        self._kafka, self._topics, self._worker = kafka, topics, worker
        self._lock = FolderLock(state_folder)
        self._batches = {"natural_batch": natural_batch, "ad_batch": ad_batch}
        self._report = Reporter(decoder.schema, kafka, topics, monitor, folder=state_folder / "monitor")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stopped = False
        self._app: StreamApp | None = None
        self._letters: DeadLetters | None = None
        self._pool: DecodePool | None = None
        self._engine: Engine | None = None
        self._failure: BaseException | None = None
        self._in_doubt = True
        self._checkpoint_positions = Positions()
        self._unburied: list[tuple[Batch, str]] = []

    def run(self, *, standby: bool = False, reset_offsets: str | None = None) -> int:
        """Live until asked to stop.

        1. Own the state folder (as a standby: wait for it).
        2. Recover: newest whole checkpoint, then the journal's tail with the same rows.
        3. See that the log still holds what comes next.
        4. Train: agents hand rows to the aligner, the aligner steps to the trainer's thread.
        5. Asked to stop: leave the group, end the step in flight, checkpoint, exit code 0.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if not self._own_folder(standby):
            log.info("stopped before the state folder became free")
            return 0
        try:
            self._report.serve()
            engine = self._engine = self._make_engine(on_checkpoint=self._publish, on_skipped=self._bury)
            try:
                with contextlib.suppress(_StopAskedError):
                    positions, ends = self._recover(engine, reset_offsets)
                    asyncio.run(self._train(engine, positions, ends))
            except BaseException as error:
                # What was learned so far is in the journal: no checkpoint is forced from a state in doubt. But the
                # journal is of no use without its log, and the state is not in doubt when only the log is gone.
                engine.close(checkpoint=isinstance(error, OffsetsLostError) and not self._in_doubt)
                raise
            engine.close()
            log.info("stopped at step %d; %s", engine.step, _rows(engine))
        finally:
            self._report.close()
            self._lock.release()
        return 0

    # -- 1

    def _on_signal(self, number: int, _frame: Any) -> None:
        self._stopped = True
        if self._engine is not None:
            self._engine.stop_waiting()
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            loop.call_soon_threadsafe(stop.set)
        else:
            log.info("%s: stopping", signal.Signals(number).name)

    def _own_folder(self, standby: bool) -> bool:
        """False: asked to stop while waiting for it."""
        if standby:
            owner = self._lock.owner()
            log.info(
                "standby: waiting for the state folder %s (owner: process %s on %s)",
                self._lock.path.parent, owner.get("pid", "unknown"), owner.get("host", "unknown"),
            )  # fmt: skip
            try:
                self._lock.acquire(wait=True, should_stop=lambda: self._stopped)
            except StateLockedError:
                if not self._stopped:
                    raise
                return False
            log.info("standby: took over")
        else:
            self._lock.acquire()
        return True

    # -- 2, 3

    def _recover(self, engine: Engine, reset_offsets: str | None) -> tuple[Positions, dict[Key, int]]:
        """Give the position and the known end of every partition."""
        self._report.health.enter("recovering")
        self._patiently(lambda: ensure_topics(self._kafka, self._topics))
        with self._patiently(lambda: self._make_log(self._decoder)) as kafka:
            keys = kafka.partitions()
            beginning, ends = kafka.beginning(keys), kafka.end(keys)
            entries = engine.recover()
            self._checkpoint_positions = Positions(engine.positions)
            tail = list(settle_positions(engine, entries, beginning, ends, reset_offsets))
            if tail:
                log.info("journal: %d steps to redo", len(tail))
            began = time.monotonic()
            done = redo(engine, kafka, iter(tail), self._stop_redo)
            if done.steps:
                log.info(
                    "journal: %d steps redone, %d rows in %.1f s",
                    done.steps,
                    done.rows,
                    time.monotonic() - began,
                )
        positions = Positions({key: engine.positions.get(key, beginning[key]) for key in keys})
        behind = sum(ends[key] - positions[key] for key in keys)
        log.info("live from step %d; %d records behind", engine.step + 1, behind)
        return positions, ends

    def _stop_redo(self, _rows: int, _clock: int) -> None:
        self._report.health.step()
        if self._stopped:
            raise _StopAskedError

    def _patiently(self, call: Callable[[], Any], timeout_s: float | None = None) -> Any:
        """Try for as long as the connect timeout; a broker that is just starting is waited for."""
        deadline = time.monotonic() + (self._worker.connect_timeout_s if timeout_s is None else timeout_s)
        for attempt in range(1_000_000):
            try:
                return call()
            except BrokerUnavailableError as error:
                if self._stopped:
                    raise _StopAskedError from None
                if time.monotonic() > deadline:
                    raise
                log.warning("%s; trying again", error)
                time.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
        raise AssertionError("unreachable")

    # -- 4

    async def _train(self, engine: Engine, positions: Positions, ends: dict[Key, int]) -> None:
        loop = self._loop = asyncio.get_running_loop()
        stop = self._stop = asyncio.Event()
        if self._stopped:
            stop.set()
        now = time.monotonic()
        domains = self._topics.domains
        buffer_rows = self._worker.buffer_for(max(self._batches.values()))
        aligner = Aligner(
            {key: domains[key[0]] for key in positions},
            positions=positions,
            max_idle_s=self._worker.max_idle_s,
            max_wait_s=self._worker.max_wait_s,
            max_behind_s=self._worker.max_behind_s,
            buffer_rows=buffer_rows,
            now=now,
            **self._batches,
        )
        for key, end in ends.items():
            aligner.set_end(*key, end)
        intake = AlignedIntake(aligner, buffer_rows, domains)
        trainer = TrainerThread(
            engine,
            self._worker.queue_length,
            on_taken=intake.taken,
            on_failure=self._trainer_failed,
            on_step=partial(self._report.stepped, engine),
        )
        intake.attach(trainer)
        if self._worker.decoders:
            self._pool = DecodePool(self._decoder, self._worker.decoders)
        self._letters = DeadLetters(self._kafka, self._topics)
        await self._letters.start(self._checkpoint_positions)
        unburied, self._unburied = self._unburied, []
        for batch, reason in unburied:
            await self._letters.send(await loop.run_in_executor(None, self._letters_of, batch, reason))
        self._report.begin(engine)
        trainer.start()
        self._in_doubt = False
        watch = BrokerWatch(
            self._kafka, lambda: self._make_log(self._decoder), lambda: engine.positions, self._log_lost
        )
        watch.start()
        helpers = [
            asyncio.ensure_future(intake.pump()),
            asyncio.ensure_future(self._watch(engine, intake)),
            asyncio.ensure_future(self._tell(engine, intake)),
            asyncio.ensure_future(watch.report()),
        ]
        for helper in helpers:
            helper.add_done_callback(self._helper_ended)
        try:
            await self._stream(intake, stop)
        finally:
            watch.stop()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            # In a thread: the step in flight may still want this loop, to bury rows that it gave up.
            await loop.run_in_executor(None, trainer.stop)
            await self._letters.stop()
            if self._pool is not None:
                await loop.run_in_executor(None, self._pool.close)
        if self._failure is not None:
            raise self._failure

    async def _stream(self, intake: AlignedIntake, stop: asyncio.Event) -> None:
        """Run the Faust app; when the broker goes away, wait for it and go on from our own positions."""
        attempt = 0
        while not stop.is_set():
            assert self._letters is not None
            self._app = StreamApp(
                self._kafka, self._topics, self._worker, self._decoder, intake, self._letters, self._pool
            )
            try:
                await run_app(self._app, stop)
            except BrokerUnavailableError as error:
                wait = RETRY_S[min(attempt, len(RETRY_S) - 1)]
                attempt = 0 if self._app.records else attempt + 1
                log.warning("%s; training goes on when it answers again", error)
                self._report.waiting_for = str(error)
                try:
                    await asyncio.wait_for(stop.wait(), wait)
                except TimeoutError:
                    continue
            finally:
                self._app = None

    def _trainer_failed(self, error: BaseException) -> None:
        """From the trainer's thread."""
        self._in_doubt = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._fail, error)

    def _log_lost(self, error: OffsetsLostError) -> None:
        """From the watching thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: BaseException) -> None:
        self._report.health.enter("failed", f"training has ended: {error}")
        self._failure = self._failure or error
        if self._stop is not None:
            self._stop.set()

    def _helper_ended(self, helper: asyncio.Future[None]) -> None:
        if not helper.cancelled() and (error := helper.exception()) is not None:
            self._fail(error)

    # -- what others call

    def _publish(self, positions: Positions) -> None:
        """From the saving thread: show lag tools the durable position."""
        loop, app = self._loop, self._app
        if loop is not None and app is not None and not loop.is_closed():
            asyncio.run_coroutine_threadsafe(_quietly(app.publish(positions)), loop)

    def _bury(self, batch: Batch, reason: str) -> None:
        """The records of a step that was taken back become dead letters; from the trainer's thread.

        While the journal is redone there is no loop yet: they wait, and those that were sent before the crash are
        not sent again.
        """
        if self._loop is None or self._letters is None:
            self._unburied.append((batch, reason))
            return
        letters = self._patiently(lambda: self._letters_of(batch, reason), float("inf"))
        asyncio.run_coroutine_threadsafe(self._letters.send(letters), self._loop).result()

    def _letters_of(self, batch: Batch, reason: str) -> list[DeadLetter]:
        letters = []
        with self._make_log(self._decoder) as kafka:
            for part in batch.parts:
                records = kafka.raw(part)
                if not records:
                    continue
                domain = self._topics.domains[part.topic]
                chunk, _ = decode_records(
                    self._decoder, part.topic, part.partition, part.first, records, domain
                )
                with_rows = set(chunk.offset.tolist())  # the others did not fit, and are dead letters already
                letters += [
                    DeadLetter(
                        part.topic,
                        part.partition,
                        r.offset,
                        "loss",
                        reason,
                        r.value,
                        r.key,
                        tuple(r.headers or ()),
                    )
                    for r in records
                    if r.offset in with_rows
                ]
        return letters

    async def _watch(self, engine: Engine, intake: AlignedIntake) -> None:
        """Gauges once a second."""
        while True:
            await asyncio.sleep(1.0)
            if self._app is not None and self._app.records:
                self._report.waiting_for = None
            self._report.tick(engine, intake, {} if self._letters is None else self._letters.counts)
            # In a thread: a snapshot of the monitor may take a moment.
            await asyncio.to_thread(self._report.dashboard.deliver)

    async def _tell(self, engine: Engine, intake: AlignedIntake) -> None:
        """One line of progress now and then, while there is any."""
        told = sum(engine.progress.rows.values())
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            rows = sum(engine.progress.rows.values())
            if rows == told:
                continue
            log.info(
                "step %d: %s rows (%s/s), event time %s, %s records behind, %s dead letters",
                engine.step, f"{rows:,}", f"{(rows - told) / TELL_EVERY_S:,.0f}",
                datetime.fromtimestamp(engine.clock / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
                f"{sum(intake.lag(t, engine.positions) for t in self._topics.domains):,}",
                f"{sum(self._letters.counts.values()) if self._letters else 0:,}",
            )  # fmt: skip
            told = rows


class _StopAskedError(EcdctrError):
    """Asked to stop while the journal was redone."""


async def _quietly(call: Any) -> None:
    try:
        await call
    except Exception as error:  # only a display for lag tools hangs on it
        log.debug("offsets not published: %r", error)


def _rows(engine: Engine) -> str:
    return ", ".join(f"{n:,} {kind} rows" for kind, n in engine.progress.rows.items())
