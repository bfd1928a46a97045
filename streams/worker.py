"""The worker process: recovery, then the Faust app and the trainer's thread, then a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ecdctr.events.align import Aligner
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka import EndsReader, KafkaLog, LeaderEpochs, LogState
from ecdctr.events.plausible_time import TimeRule
from ecdctr.events.settings import KafkaSettings
from ecdctr.models.training import Engine
from ecdctr.monitor.dashboard import Reason
from ecdctr.state.errors import BrokerUnavailableError, ConfigError, OffsetsLostError, StateLockedError
from ecdctr.state.lock import FolderLock
from ecdctr.state.positions import LogIdentity, Positions
from ecdctr.streams.app import StreamApp, run_app
from ecdctr.streams.broker_watch import BrokerWatch
from ecdctr.streams.dead_letters import DeadLetters
from ecdctr.streams.decoders import DecodePool
from ecdctr.streams.identity_watch import IdentityWatch
from ecdctr.streams.intake import AlignedIntake, EpochGuard, OffsetPublisher, StallWatch
from ecdctr.streams.progress_log import log_progress, rows_by_kind
from ecdctr.streams.reporting import Reporter
from ecdctr.streams.retention import (
    identity_after,
    positions_after,
    redo_journal,
    settle_positions,
    warn_of_compaction,
)
from ecdctr.streams.retry import RetryDelays, StopRequestedError, call_until_available
from ecdctr.streams.rollback_letters import RollbackLetters
from ecdctr.streams.settings import MonitorSettings, TopicSettings, WorkerSettings
from ecdctr.streams.topics import ensure_topics
from ecdctr.streams.trainer_thread import TrainerThread

__all__ = ["Worker"]

log = logging.getLogger("ecdctr.worker")
Key = tuple[str, int]
T = TypeVar("T")

_PUBLISH_S = 3.0
"""Time to commit the last offsets at the end; a broker that does not answer must not delay it for longer."""


class Worker:
    """One trainer with one state folder.

    Parameters
    ----------
    make_engine
        ``make_engine(on_checkpoint=..., on_skipped=...)`` creates the engine; the callbacks receive the positions of each
        checkpoint, and the rows of each step that was rolled back.
    decoder
        Decodes the messages of the click topics.
    make_log
        ``make_log(decoder)`` connects to the click topics, for reads by offset.
    kafka, topics, worker, monitor
        Configuration.
    state_folder
        Locked while the worker runs.
    natural_batch, ad_batch
        Rows of a full step.
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
        self._batch_rows = {"natural_batch": natural_batch, "ad_batch": ad_batch}
        self._reporter = Reporter(decoder.schema, kafka, topics, monitor, folder=state_folder / "monitor")
        self._rollback_letters = RollbackLetters(make_log, decoder, topics.domains, self._is_ending)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stop_requested = False
        self._app: StreamApp | None = None
        self._letters: DeadLetters | None = None
        self._pool: DecodePool | None = None
        self._guard: EpochGuard | None = None
        self._times = TimeRule(decoder.max_ahead_ms)
        self._engine: Engine | None = None
        self._failure: BaseException | None = None
        self._state_is_whole = False
        self._checkpoint_positions = Positions()
        self._publisher = OffsetPublisher(kafka, worker.group)

    def run(self, *, standby: bool = False, reset_offsets: str | None = None) -> int:
        """Train until a signal asks to stop; return the exit code.

        1. Lock the state folder (a standby waits for it).
        2. Recover: load the newest undamaged checkpoint, then redo the later steps of the journal with the same rows.
        3. Check that the log still holds the rows that come next.
        4. Train: the agents pass rows to the aligner, the aligner passes steps to the trainer's thread.
        5. When asked to stop: close the consumer, end the current step, write a checkpoint, commit its offsets for monitoring tools.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if not self._lock_folder(standby):
            log.info("stopped before the state folder became free")
            return 0
        try:
            self._reporter.serve()
            engine = self._engine = self._make_engine(
                on_checkpoint=self._publisher.put, on_skipped=self._rollback_letters.add
            )
            try:
                with contextlib.suppress(StopRequestedError):
                    positions, ends = self._recover(engine, reset_offsets)
                    asyncio.run(self._train(engine, positions, ends))
            except BaseException as error:
                # The journal contains all that was learned, so a state that may be incomplete is not saved. If only records
                # of the Kafka topics were lost, the state is complete and is saved, because the journal can no longer be redone.
                engine.close(checkpoint=isinstance(error, OffsetsLostError) and self._state_is_whole)
                raise
            # A step whose letters were not sent is not part of a checkpoint: after a restart the journal repeats it.
            engine.close(checkpoint=not self._rollback_letters.waiting)
            self._publisher.close(_PUBLISH_S)
            log.info("stopped at step %d; %s", engine.step, rows_by_kind(engine))
        finally:
            self._reporter.close()
            self._lock.release()
        return 0

    # -- 1

    def _on_signal(self, number: int, _frame: Any) -> None:
        self._stop_requested = True
        self._reporter.health.enter("stopping")
        if self._engine is not None:
            self._engine.stop_waiting()
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            with contextlib.suppress(
                RuntimeError
            ):  # the loop has ended: the last checkpoint is being written
                loop.call_soon_threadsafe(stop.set)
        else:
            log.info("%s: stopping", signal.Signals(number).name)

    def _lock_folder(self, standby: bool) -> bool:
        """Lock the state folder; return False if a stop was requested in the meantime."""
        if standby:
            owner = self._lock.owner()
            log.info(
                "standby: waiting for the state folder %s (owner: process %s on %s)",
                self._lock.path.parent, owner.get("pid", "unknown"), owner.get("host", "unknown"),
            )  # fmt: skip
            try:
                self._lock.acquire(wait=True, should_stop=lambda: self._stop_requested)
            except StateLockedError:
                if not self._stop_requested:
                    raise
                return False
            log.info("standby: took over")
        else:
            self._lock.acquire()
        return True

    # -- 2, 3

    def _recover(self, engine: Engine, reset_offsets: str | None) -> tuple[Positions, dict[Key, int]]:
        """Load the checkpoint, redo the journal, and return the next offset and the end of every partition."""
        self._reporter.health.enter("recovering")
        self._connect(lambda: ensure_topics(self._kafka, self._topics))
        entries = list(engine.recover())
        self._checkpoint_positions = Positions(engine.positions)
        identity = identity_after(engine.identity, entries)
        reached, needed = positions_after(engine.positions, entries)
        kafka, log_state, ends = self._connect(lambda: self._open_log(identity, needed, reached))
        with kafka:
            warn_of_compaction(log_state)
            engine.origin = LeaderEpochs(log_state.topic_ids, {}, LogIdentity())
            tail = list(settle_positions(engine, entries, log_state, reset_offsets))
            if tail:
                log.info("journal: %d steps to redo", len(tail))
            began = time.monotonic()
            done = redo_journal(engine, kafka, tail, log_state, reset_offsets, self._redone)
            if done.steps:
                log.info(
                    "journal: %d steps redone, %d rows in %.1f s",
                    done.steps,
                    done.rows,
                    time.monotonic() - began,
                )
        engine.origin = epochs = LeaderEpochs(
            log_state.topic_ids, engine.positions, engine.identity, self._times
        )
        self._guard = EpochGuard(epochs, lambda: self._make_log(self._decoder), self._is_ending)
        beginning = log_state.beginning
        positions = Positions({key: engine.positions.get(key, first) for key, first in beginning.items()})
        behind = sum(max(0, end - positions[key]) for key, end in ends.items())
        log.info("live from step %d; %d records behind", engine.step + 1, behind)
        return positions, ends

    def _open_log(
        self, identity: LogIdentity, needed: Mapping[Key, int], reached: Mapping[Key, int]
    ) -> tuple[KafkaLog, LogState, dict[Key, int]]:
        """Connect, and ask for the state of the log, and where each partition can be read up to."""
        kafka = self._make_log(self._decoder)
        # Records that the log holds are waited for without a limit; a signal ends the wait.
        kafka.stall_s, kafka.on_wait = math.inf, self._raise_if_stopping
        try:
            state = kafka.confirmed_state(identity, needed, reached)
            return kafka, state, kafka.end(list(state.ends))
        except BaseException:
            kafka.close()
            raise

    def _redone(self, _rows: int, _clock: int) -> None:
        self._reporter.health.step()
        self._raise_if_stopping()

    def _is_ending(self) -> bool:
        return self._stop_requested or self._failure is not None

    def _raise_if_stopping(self) -> None:
        if self._stop_requested:
            raise StopRequestedError

    def _connect(self, call: Callable[[], T]) -> T:
        """Repeat a call for up to ``worker.connect_timeout_s``, to wait for a broker that is still starting."""

        def attempt() -> T:
            try:
                result = call()
            except BrokerUnavailableError as error:
                self._reporter.condition(Reason.WAITING_FOR_BROKER, str(error))
                raise
            self._reporter.condition(Reason.WAITING_FOR_BROKER, None)
            return result

        return call_until_available(attempt, self._worker.connect_timeout_s, lambda: self._stop_requested)

    # -- 4

    async def _train(self, engine: Engine, positions: Positions, ends: dict[Key, int]) -> None:
        loop = self._loop = asyncio.get_running_loop()
        stop = self._stop = asyncio.Event()
        if self._stop_requested:
            stop.set()
        now = time.monotonic()
        domains = self._topics.domains
        buffer_rows = self._worker.buffer_for(max(self._batch_rows.values()))
        aligner = Aligner(
            {key: domains[key[0]] for key in positions},
            positions=positions,
            max_idle_s=self._worker.max_idle_s,
            max_wait_s=self._worker.max_wait_s,
            max_behind_s=self._worker.max_behind_s,
            buffer_rows=buffer_rows,
            now=now,
            **self._batch_rows,
        )
        for key, end in ends.items():
            aligner.set_end(*key, end)
        intake = AlignedIntake(aligner, buffer_rows, domains)
        trainer = TrainerThread(
            engine,
            self._worker.queue_length,
            on_taken=intake.taken,
            on_failure=self._trainer_failed,
            on_step=partial(self._reporter.stepped, engine),
            on_idle=partial(self._reporter.between_steps, engine),
        )
        intake.attach(trainer)
        if self._worker.decoders:
            self._pool = DecodePool(self._decoder, self._worker.decoders)
        self._letters = DeadLetters(
            self._kafka,
            self._topics,
            on_waiting=partial(self._reporter.condition, Reason.DEAD_LETTERS_WAIT),
            connect_timeout_s=self._worker.connect_timeout_s,
            stop_requested=self._is_ending,
        )
        try:
            await self._letters.start(self._checkpoint_positions)
            await self._rollback_letters.start(self._letters)
        except BaseException:
            await self._close_helpers(self._letters)
            raise
        watch = BrokerWatch(
            EndsReader(self._kafka, domains),
            lambda: engine.positions,
            self._offsets_lost,
            group=self._worker.group,
        )
        identity_watch = IdentityWatch(lambda: self._make_log(self._decoder), engine, self._offsets_lost)
        self._reporter.begin(engine, watch, positions)
        trainer.start()
        self._state_is_whole = True
        watch.start()
        identity_watch.start()
        tasks = [
            asyncio.ensure_future(intake.pump()),
            asyncio.ensure_future(self._update_gauges(engine, intake)),
            asyncio.ensure_future(self._follow_ends(watch, intake)),
            asyncio.ensure_future(log_progress(engine, lambda: self._reporter.lag, self._dead_letters)),
        ]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        try:
            await self._stream(intake, stop)
        finally:
            watch.stop()
            identity_watch.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # In a thread: the current step may still need this loop, to send dead letters of rows that it rolled back.
            await loop.run_in_executor(None, trainer.stop)
            await self._close_helpers(self._letters)
        if self._failure is not None:
            raise self._failure

    async def _close_helpers(self, letters: DeadLetters) -> None:
        await letters.stop()
        if self._decoder.packed_reader is not None:
            await asyncio.to_thread(self._decoder.packed_reader.close)
        if self._pool is not None:
            await asyncio.to_thread(self._pool.close)

    async def _stream(self, intake: AlignedIntake, stop: asyncio.Event) -> None:
        """Run the Faust app; when the broker becomes unavailable, wait for it and continue at the intake's positions.

        Passwords and certificates are read anew for each app. A file that is missing then is waited for like a broker: it may be
        about to be replaced.
        """
        delays = RetryDelays()
        while not stop.is_set():
            assert self._letters is not None
            try:
                self._app = StreamApp(
                    self._kafka,
                    self._topics,
                    self._worker,
                    self._decoder,
                    intake,
                    self._letters,
                    self._pool,
                    self._guard,
                    self._times,
                    self._reporter.throttle,
                )
                await run_app(self._app, stop)
            except (BrokerUnavailableError, ConfigError) as error:
                delay = delays.next(restart=self._app is not None and self._app.records > 0)
                log.warning("%s; training continues when that is mended", error)
                self._reporter.waiting_for = str(error)
                try:
                    await asyncio.wait_for(stop.wait(), delay)
                except TimeoutError:
                    continue
            finally:
                self._app = None

    async def _follow_ends(self, watch: BrokerWatch, intake: AlignedIntake) -> None:
        """Pass the ends that the brokers report to the intake, and give up a consumer that stands still; never returns."""
        stalls, known = StallWatch(), None

        def has_room(topic: str, partition: int) -> bool:
            return intake.wants(topic, partition) and (topic, partition) not in self._reporter.damaged

        def is_read(topic: str, partition: int) -> bool:
            is_limited = self._reporter.throttle.sentence() is not None  # a new consumer would be, too
            return self._app is not None and not is_limited and not self._app.holds(topic, partition)

        while True:
            await asyncio.sleep(1.0)
            state = watch.state
            if state.ends is not known:
                known = state.ends
                intake.set_ends(known)
            now = time.monotonic()
            reason = stalls.check(
                now, state.ends, state.reported_at, intake.aligner.position, has_room, is_read
            )
            self._reporter.stalled = stalls.sentence(now)
            if reason is not None and self._app is not None:
                log.warning("%s: it is built again, with new connections", reason)
                self._app.give_up()

    def _trainer_failed(self, error: BaseException) -> None:
        """Called in the trainer's thread."""
        self._state_is_whole = False
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._fail, error)

    def _offsets_lost(self, error: OffsetsLostError) -> None:
        """Called in the threads of :class:`BrokerWatch` and :class:`IdentityWatch`."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, StopRequestedError):
            self._reporter.health.enter("failed", f"training has ended: {error}")
        self._failure = self._failure or error
        # The trainer may be waiting for disk space or for the acknowledgement of letters; as after a signal, that ends here.
        if self._engine is not None:
            self._engine.stop_waiting()
        if self._stop is not None:
            self._stop.set()

    def _task_ended(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _dead_letters(self) -> int:
        return 0 if self._letters is None else sum(self._letters.counts.values())

    async def _update_gauges(self, engine: Engine, intake: AlignedIntake) -> None:
        """Update the gauges and deliver alerts once a second; never returns."""
        delivering: asyncio.Future[None] | None = None
        while True:
            await asyncio.sleep(1.0)
            if self._app is not None and self._app.records:
                self._reporter.waiting_for = None
            if self._app is not None:
                self._reporter.damaged = self._app.damaged()
            letters = self._letters
            counts, examples = ({}, {}) if letters is None else (letters.counts, letters.examples)
            self._reporter.tick(engine, intake, counts, examples)
            # In a thread, and not waited for: a snapshot of the monitor may take a moment, and health does not wait for it.
            if delivering is None or delivering.done():
                delivering = asyncio.ensure_future(asyncio.to_thread(self._reporter.deliver))
