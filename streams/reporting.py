"""``Reporter``: passes completed steps to the metrics and the monitor, and the worker's state to the dashboard."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from operator import methodcaller
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import DOMAIN_NAMES, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import KafkaSettings
from ecdctr.events.step import Step, StepKind
from ecdctr.models.training import Engine, StepResult
from ecdctr.monitor.alerts import Send, webhook
from ecdctr.monitor.dashboard import Dashboard, Reason
from ecdctr.monitor.monitor import Monitor
from ecdctr.monitor.steps import ObservedStep
from ecdctr.state.snapshots import EmbeddingStore
from ecdctr.streams.alerts import TopicChannel
from ecdctr.streams.broker_watch import BrokerWatch
from ecdctr.streams.health import (
    Counts,
    Cut,
    HealthReport,
    LagReport,
    MonitorStart,
    ReleaseWatch,
    log_changes,
)
from ecdctr.streams.intake import AlignedIntake, Throttle
from ecdctr.streams.known_users import KnownUsers
from ecdctr.streams.settings import MonitorSettings, TopicSettings

__all__ = ["Reporter"]

log = logging.getLogger("ecdctr.worker")
Key = tuple[str, int]

HISTORY_EVERY = 8
"""The users of every n-th natural step are looked up in the TPM snapshots: natural rows are numerous and similar."""

PROBE_SHARE = 0.005
"""Largest share of the trainer's time that scoring probe slices may take."""

SAVE_SHARE = 0.002
"""Largest share of time that writing the monitor's state may take."""

QUEUE_STEPS = 1024
"""Capacity of the queue, in entries. At a quarter of it the monitor's thread is woken; when it is full, the trainer's thread
processes the queue itself."""

REPORTS_WITHIN_S = 15.0
""":meth:`Reporter.tick` is called every second; if it is later than this, the event loop is blocked."""

DRAIN_EVERY_S, DRAIN_AT_LATEST_S = 1.0, 5.0
DRAIN_SHARE = 0.01
"""The monitor's thread processes the queue every second; every five at most, where that takes more than this share of the
time: larger blocks of rows cost less per row."""


@dataclass(frozen=True, slots=True, eq=False)
class _CompletedStep:
    """A queued step; ``ended``: epoch seconds, ``months``: the TPM snapshots that CPM read."""

    step: Step
    result: StepResult
    seconds: float
    ended: float
    months: tuple[str, ...]


class Reporter:
    """Reports the worker's progress to the monitor and the dashboard, and its health.

    The trainer's thread appends to a queue that the monitor's thread processes. If the queue is full, the trainer's thread
    processes it.

    An exception in either is logged, reported as health, and does not stop training. A monitor that has failed is started again with
    its saved state and the score log, as after a restart of the worker (:class:`ecdctr.streams.health.MonitorStart`).

    Parameters
    ----------
    schema
        The features, for the drift table.
    kafka, topics, settings
        Configuration.
    folder
        Folder of the monitor's state; if None, the state is not saved.
    now
        Reads a monotonic clock, in seconds.

    Attributes
    ----------
    waiting_for
        Why the consumer could not connect; None if it is connected.
    damaged
        The partitions whose next batch is damaged, each with a sentence.
    stalled
        The partition of which nothing comes although records wait, as a sentence; None: there is none.
    throttle
        How long the brokers ask the consumer to wait.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        kafka: KafkaSettings,
        topics: TopicSettings,
        settings: MonitorSettings,
        *,
        folder: Path | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topics, self._settings = topics, settings
        self._schema = schema
        self.monitor = self._new_monitor()
        self._topic = (
            TopicChannel(kafka, settings.alerts_topic, topics.replication) if settings.alerts_topic else None
        )
        self.dashboard = Dashboard(
            self.monitor,
            channels=self._channels(),
            watchdog_s=settings.watchdog_s,
            version=_version(),
        )
        self.health = self.dashboard.health
        self._folder = folder
        self._releases = self._checkpoints = 0
        self._months: tuple[str, ...] = ()
        self._failing: set[str] = set()
        self.waiting_for: str | None = None
        self.damaged: dict[Key, str] = {}
        self.stalled: str | None = None
        self.throttle = Throttle()
        self._now = now
        self._start = MonitorStart(now)
        self._report = HealthReport(self.health, topics.domains, now)
        self._release_watch = ReleaseWatch()
        self._watch: BrokerWatch | None = None
        self._began_at: dict[Key, int] = {}
        self._arriving_ms: int | None = None
        self._lag = LagReport(dict.fromkeys(topics.domains))
        self._store: EmbeddingStore | None = None
        self._known: tuple[tuple[str, ...], KnownUsers] | None = None
        self._queue: deque[_CompletedStep | Cut | Callable[[Monitor], None]] = deque()
        self._drain_lock = threading.Lock()
        self._wake, self._ended = threading.Event(), False
        self._natural_steps = 0
        self._probes_due = self._save_due = -float("inf")
        self._checkpoints_done = self._checkpoints_saved = 0
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def _new_monitor(self) -> Monitor:
        return Monitor(self._schema, self._settings.watch)

    def _channels(self) -> dict[str, Send]:
        channels: dict[str, Send] = {}
        if self._topic is not None:
            channels["topic"] = self._topic.send
        address = self._settings.webhook()
        if address is not None:
            channels["webhook"] = webhook(address, self._settings.webhook_timeout_s)
        return channels

    def serve(self) -> None:
        """Start the HTTP server of the dashboard, unless ``monitor.port`` is 0."""
        if self._settings.port:
            port = self.dashboard.serve(
                self._settings.host, self._settings.port, self._settings.allowed_hosts
            )
            log.info("dashboard and metrics on http://%s:%d", self._settings.host, port)

    def close(self) -> None:
        """Process the queued steps, save the monitor's state, deliver queued alerts (for a few seconds at most), and stop the
        HTTP server."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.drain()
        if self._start.failed is None:
            self._safely(self.monitor.save)
        self.deliver()
        self.dashboard.close()
        if self._topic is not None:
            self._topic.close()

    def begin(
        self, engine: Engine, watch: BrokerWatch | None = None, positions: Mapping[Key, int] | None = None
    ) -> None:
        """Restore the monitor's state and start its thread. Call it when recovery is complete.

        Steps and releases that recovery repeats are not reported, except the last release, because its alert may have to be
        raised or resolved.

        Parameters
        ----------
        engine
            The engine after recovery.
        watch
            Where the topics end; None: the lag is that of the intake.
        positions
            Where live training begins in each partition.
        """
        self._watch, self._began_at = watch, dict(positions or {})
        if self._folder is not None:
            folder = self._folder
            self._safely(lambda: self.monitor.restore(folder, engine.scores, engine.clock))
        self._releases = max(0, len(engine.releases) - 1)
        self._checkpoints = self._checkpoints_done = self._checkpoints_saved = engine.progress.checkpoints
        self._months = tuple(engine.trainer.cpm_months)
        self._store = engine.trainer.store
        if not self._thread.is_alive():
            self._thread.start()
        self.health.enter("live")
        if watch is not None:
            self.health.expect_reports(REPORTS_WITHIN_S)

    # -- in the trainer's thread

    def stepped(self, engine: Engine, step: Step, result: StepResult, seconds: float) -> None:
        """Queue a completed step for the monitor's thread."""
        self.health.step()
        months = tuple(engine.trainer.cpm_months)
        if step.kind == StepKind.NATURAL and len(step.batch):
            self._arriving_ms = int(step.batch.ts[len(step.batch) // 2])
        for report in engine.releases[self._releases :]:
            self._queue.append(methodcaller("release", report))
            self._releases += 1
        if months != self._months:
            self._months = months
            self._queue.append(methodcaller("month", months, engine.clock))
        self._queue.append(_CompletedStep(step, result, seconds, time.time(), months))
        self._checkpoints_done = engine.progress.checkpoints
        if engine.progress.checkpoints != self._checkpoints and self._now() >= self._probes_due:
            self._checkpoints = engine.progress.checkpoints
            self._score_probes(engine)
        self.between_steps(engine)
        if len(self._queue) >= QUEUE_STEPS:
            # The monitor's thread cannot keep up: process the queue here, so that memory does not grow.
            self.drain()
        elif len(self._queue) >= QUEUE_STEPS // 4:
            self._wake.set()

    def between_steps(self, engine: Engine) -> None:
        """Called in the trainer's thread while no step is running: all rows that the score log has so far are of queued steps."""
        if self._start.wants_cut():
            self._queue.append(Cut.of(engine))

    def _score_probes(self, engine: Engine) -> None:
        """Score probe slices: in this thread, since it owns the model, and for :data:`PROBE_SHARE` of its time at most."""
        began = self._now()
        self._safely(lambda: self.monitor.score_probes(engine.trainer.predict))
        self._probes_due = self._now() + (self._now() - began) / PROBE_SHARE

    # -- in the monitor's thread

    def _run(self) -> None:
        wait = DRAIN_EVERY_S
        while not self._ended:
            self._wake.wait(wait)
            self._wake.clear()
            began = self._now()
            self.drain()
            wait = min(max((self._now() - began) / DRAIN_SHARE, DRAIN_EVERY_S), DRAIN_AT_LATEST_S)

    def drain(self) -> None:
        """Process the queued steps, and save the monitor's state after a checkpoint."""
        with self._drain_lock:
            queued = [self._queue.popleft() for _ in range(len(self._queue))]
            steps = [item for item in queued if isinstance(item, _CompletedStep)]
            cuts = [(number, item) for number, item in enumerate(queued) if isinstance(item, Cut)]
            first_new, cut = cuts[-1] if cuts else (0, None)
            if cut is not None:
                self._start_again(cut)
            # Releases and months first: the alert rules, which ``monitor.observe`` evaluates, depend on them.
            self._start.waiting += [i for i in queued if not isinstance(i, _CompletedStep | Cut)]
            # The steps before a cut are in the score log, from which the new monitor was restored.
            new = [item for item in queued[first_new:] if isinstance(item, _CompletedStep)]
            if self._start.failed is None:
                for call in self._start.take_waiting():
                    self._safely(partial(call, self.monitor))
                if new:
                    self._safely(lambda: self.monitor.observe(self._observed(new)))
            if steps:
                self._try("counting the steps", lambda: self._update_metrics(steps))
            if (
                self._start.failed is None
                and self._checkpoints_done != self._checkpoints_saved
                and self._now() >= self._save_due
            ):
                self._checkpoints_saved = self._checkpoints_done
                self._save()

    def _save(self) -> None:
        began = self._now()
        self._safely(self.monitor.save)
        self._save_due = self._now() + (self._now() - began) / SAVE_SHARE

    def _safely(self, call: Callable[[], None]) -> None:
        """Call the monitor; an exception must not end training."""
        if self._start.failed is not None:
            return
        try:
            call()
        except Exception as error:
            self._start.fail(error)
            log.exception("the monitor has failed: training continues without it, and it is started again")

    def _start_again(self, cut: Cut) -> None:
        """Replace a monitor that has failed by one that is restored as after a restart of the worker."""
        fresh = self._new_monitor()
        try:
            if self._folder is not None:
                fresh.restore(self._folder, cut.scores, cut.clock_ms)
        except Exception as error:
            self._start.fail(error)
            log.exception("the monitor could not be started again: training continues without it")
            return
        self.monitor = fresh
        self.dashboard.use(fresh)
        self._start.done()
        log.info("the monitor was started again with its saved state and the score log")

    def _try(self, what: str, call: Callable[[], None]) -> None:
        """Run a call that is repeated every second: an exception is logged when it first occurs, and the next call tries again."""
        try:
            call()
            self._failing.discard(what)
        except Exception:  # a fault of the dashboard must not end training
            if what not in self._failing:
                log.exception("%s failed: training continues, and it is tried again every second", what)
            self._failing.add(what)

    def _update_metrics(self, steps: list[_CompletedStep]) -> None:
        """Update the worker's own metrics, with one call per kind."""
        m = self.dashboard.metrics
        for kind in StepKind:
            of_kind = [s for s in steps if s.step.kind == kind]
            m.steps.labels(kind).inc(len(of_kind))
            seconds = m.step_seconds.labels(kind)
            for s in of_kind:
                seconds.observe(s.seconds)
            learned = [(s.result.learned(s.step.batch).batch.ts, s.ended) for s in of_kind]
            lost = [(s.step.batch.ts[s.result.lost], s.ended) for s in of_kind if len(s.result.lost)]
            for found in filter(None, (learned, lost)):
                ts = np.concatenate([t for t, _ in found])
                ended = np.repeat([e for _, e in found], [len(t) for t, _ in found])
                self.dashboard.stepped(kind, ts, rows=len(ts) if found is learned else 0, wall=ended)

    def _observed(self, steps: list[_CompletedStep]) -> list[ObservedStep]:
        """The steps without the rows that were not learned, converted for the monitor."""
        steps = [s for s in steps if s.result.n or s.result.skipped is None]
        learned = [s.result.learned(s.step.batch) for s in steps]
        histories = self._histories(steps, [rows.batch for rows in learned])
        return [
            ObservedStep(s.step.kind, *rows, s.result.loss, s.seconds, has_history)
            for s, rows, has_history in zip(steps, learned, histories, strict=True)
        ]

    def _histories(self, steps: list[_CompletedStep], learned: list[Batch]) -> list[NDArray[np.bool_] | None]:
        """Whether the users of each step's learned rows have TPM vectors; None for steps whose users are not looked up."""
        out: list[NDArray[np.bool_] | None] = [None] * len(steps)
        by_months: dict[tuple[str, ...], list[int]] = {}
        for i, s in enumerate(steps):
            natural = s.step.kind == StepKind.NATURAL
            self._natural_steps += natural
            if s.months and (not natural or not self._natural_steps % HISTORY_EVERY):
                by_months.setdefault(s.months, []).append(i)
        for months, numbers in by_months.items():
            if self._store is None:
                continue
            batches = [learned[i] for i in numbers]
            known = self._known_users(self._store, months)(np.concatenate([b.user for b in batches]))
            ends = np.cumsum([len(b) for b in batches])[:-1]
            for i, part in zip(numbers, np.split(known, ends), strict=True):
                out[i] = part
        return out

    def _known_users(self, store: EmbeddingStore, months: tuple[str, ...]) -> KnownUsers:
        if self._known is None or self._known[0] != months:
            self._known = (
                months,
                KnownUsers(lambda users: np.asarray(store.lookup("user", users, months)[1].any(axis=1))),
            )
        return self._known[1]

    # -- health, in any thread

    @property
    def lag(self) -> int | None:
        """Records that have not been learned, as of the last :meth:`tick`; None: not known."""
        return self._lag.total

    def condition(self, reason: Reason, sentence: str | None) -> None:
        """Report that a reason of health holds, with its particulars, or, with None, that it does not hold any more."""
        self.health.condition(reason, sentence)

    # -- in the event loop

    def tick(
        self,
        engine: Engine,
        intake: AlignedIntake,
        dead_letters: Mapping[str, int],
        examples: Mapping[str, str] | None = None,
    ) -> None:
        """Update gauges and health; called about once a second.

        Parameters
        ----------
        engine, intake
            Of the running worker.
        dead_letters
            Rejected events, by reason.
        examples
            The last rejected event of each reason, for a message.
        """
        self._try(
            "updating the health", lambda: self._update_health(engine, intake, dead_letters, examples or {})
        )
        self._try("updating the metrics", lambda: self._update_gauges(engine, intake, dead_letters))
        failing = "; ".join(f"{what} fails: see the log" for what in sorted(self._failing))
        self.condition(Reason.REPORTS_FAIL, failing or None)
        log_changes(self.health.changes())

    def deliver(self) -> None:
        """Deliver alerts that were raised or resolved; called about once a second, always from one thread at a time."""
        self._try("delivering alerts", self.dashboard.deliver)

    def _update_health(
        self,
        engine: Engine,
        intake: AlignedIntake,
        dead_letters: Mapping[str, int],
        examples: Mapping[str, str],
    ) -> None:
        error = engine.progress.last_error
        is_checkpoint = error is not None and error.startswith("checkpoint")
        self.condition(Reason.CHECKPOINTS_FAIL, error if is_checkpoint else None)
        self.condition(Reason.WAITING_FOR_DISK, None if is_checkpoint else error)
        self.condition(Reason.MONITOR_FAILED, self._start.sentence())
        if self._watch is None:
            self._lag = LagReport({t: intake.lag(t, engine.positions) for t in self._topics.domains})
            return
        learned = {**self._began_at, **engine.positions}
        counts = Counts(sum(engine.progress.rows.values()), dict(dead_letters), examples)
        self._lag = self._report.update(
            self._watch.state, learned, counts, self.waiting_for, self.damaged, self.stalled
        )
        self.condition(Reason.THROTTLED, self.throttle.sentence())
        trainer = engine.trainer
        schedule = None if trainer.transfer is None else trainer.schedule
        self.condition(
            Reason.NO_RELEASES, self._release_watch.sentence(self._now(), schedule, self._arriving_ms)
        )

    def _update_gauges(self, engine: Engine, intake: AlignedIntake, dead_letters: Mapping[str, int]) -> None:
        m, progress = self.dashboard.metrics, engine.progress
        m.releases.set(progress.releases)
        m.checkpoints.set(progress.checkpoints)
        m.checkpoint_failures.set(progress.checkpoint_failures)
        m.stall.set(progress.stall_s_max)
        m.waiting.set(intake.waiting_rows)
        m.late_rows.set(intake.aligner.late_rows)
        self.dashboard.tick(
            event_clock_ms=engine.clock,
            lag=self._lag.by_topic,
            waiting=None if self._watch is None else self._lag.waiting,
            where=self._lag.where,
            busy=progress.busy,
            dead_letters=dict(dead_letters),
            releases=progress.releases,
            tpm_months=list(engine.trainer.cpm_months),
            topics={topic: DOMAIN_NAMES[domain] for topic, domain in self._topics.domains.items()},
        )


def _version() -> str:
    try:
        return version("ecdctr")
    except PackageNotFoundError:
        return "unknown"
