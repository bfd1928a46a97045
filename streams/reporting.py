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
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import KafkaSettings
from ecdctr.events.step import Step, StepKind
from ecdctr.models.training import Engine, StepResult
from ecdctr.monitor.alerts import Send, webhook
from ecdctr.monitor.dashboard import Dashboard
from ecdctr.monitor.monitor import Monitor
from ecdctr.monitor.steps import ObservedStep
from ecdctr.state.snapshots import EmbeddingStore
from ecdctr.streams.alerts import TopicChannel
from ecdctr.streams.aligned_intake import AlignedIntake
from ecdctr.streams.known_users import KnownUsers
from ecdctr.streams.settings import MonitorSettings, TopicSettings

__all__ = ["Reporter"]

log = logging.getLogger("ecdctr.worker")

HISTORY_EVERY = 8
"""The users of every n-th natural step are looked up in the TPM snapshots: natural rows are numerous and similar."""

PROBE_SHARE = 0.005
"""Largest share of the trainer's time that scoring probe slices may take."""

SAVE_SHARE = 0.002
"""Largest share of time that writing the monitor's state may take."""

QUEUE_STEPS = 1024
"""Capacity of the queue, in entries. At a quarter of it the monitor's thread is woken; when it is full, the trainer's thread
processes the queue itself."""

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
    """Reports the worker's progress to the monitor and the dashboard. An exception in either is logged and does not stop training.

    The trainer's thread appends to a queue that the monitor's thread processes. If the queue is full, the trainer's thread
    processes it.

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
        Why no rows arrive, for example because no broker answers; None if rows arrive. Appended to the reason in the
        response of ``/healthz``.
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
        self.monitor = Monitor(schema, settings.watch)
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
        self._failed = False
        self._failing: set[str] = set()
        self.waiting_for: str | None = None
        self._now = now
        self._store: EmbeddingStore | None = None
        self._known: tuple[tuple[str, ...], KnownUsers] | None = None
        self._queue: deque[_CompletedStep | Callable[[], None]] = deque()
        self._drain_lock = threading.Lock()
        self._wake, self._ended = threading.Event(), False
        self._natural_steps = 0
        self._probes_due = self._save_due = -float("inf")
        self._checkpoints_done = self._checkpoints_saved = 0
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

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
            port = self.dashboard.serve(self._settings.host, self._settings.port)
            log.info("dashboard and metrics on http://%s:%d", self._settings.host, port)

    def close(self) -> None:
        """Process the queued steps, save the monitor's state, deliver queued alerts (for a few seconds at most), and stop the
        HTTP server."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.drain()
        self._safely(self.monitor.save)
        self.deliver()
        self.dashboard.close()
        if self._topic is not None:
            self._topic.close()

    def begin(self, engine: Engine) -> None:
        """Restore the monitor's state and start its thread. Call it when recovery is complete.

        Steps and releases that recovery repeats are not reported, except the last release, because its alert may have to be
        raised or resolved.
        """
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

    # -- in the trainer's thread

    def stepped(self, engine: Engine, step: Step, result: StepResult, seconds: float) -> None:
        """Queue a completed step for the monitor's thread."""
        self.health.step()
        months = tuple(engine.trainer.cpm_months)
        for report in engine.releases[self._releases :]:
            self._queue.append(partial(self.monitor.release, report))
            self._releases += 1
        if months != self._months:
            self._months = months
            self._queue.append(partial(self.monitor.month, months, engine.clock))
        self._queue.append(_CompletedStep(step, result, seconds, time.time(), months))
        self._checkpoints_done = engine.progress.checkpoints
        if engine.progress.checkpoints != self._checkpoints and self._now() >= self._probes_due:
            self._checkpoints = engine.progress.checkpoints
            self._score_probes(engine)
        if len(self._queue) >= QUEUE_STEPS:
            # The monitor's thread cannot keep up: process the queue here, so that memory does not grow.
            self.drain()
        elif len(self._queue) >= QUEUE_STEPS // 4:
            self._wake.set()

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
            # Releases and months first: the alert rules, which ``monitor.observe`` evaluates, depend on them.
            for item in queued:
                if not isinstance(item, _CompletedStep):
                    self._safely(item)
            if steps:
                self._safely(lambda: self.monitor.observe(self._observed(steps)))
                self._safely(lambda: self._update_metrics(steps))
            if self._checkpoints_done != self._checkpoints_saved and self._now() >= self._save_due:
                self._checkpoints_saved = self._checkpoints_done
                self._save()

    def _save(self) -> None:
        began = self._now()
        self._safely(self.monitor.save)
        self._save_due = self._now() + (self._now() - began) / SAVE_SHARE

    def _safely(self, call: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            call()
        except Exception:  # a fault of the monitor must not end training
            self._failed = True
            log.exception("the monitor has failed: training continues without it")

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
            for learned in (True, False):
                some = [s for s in of_kind if (s.result.skipped is None) is learned]
                if some:
                    ts = np.concatenate([s.step.batch.ts for s in some])
                    ended = np.repeat([s.ended for s in some], [len(s.step.batch) for s in some])
                    rows = sum(s.result.n for s in some) if learned else 0
                    self.dashboard.stepped(kind, ts, rows=rows, wall=ended)

    def _observed(self, steps: list[_CompletedStep]) -> list[ObservedStep]:
        """The steps that were not rolled back, converted for the monitor."""
        return [
            ObservedStep(s.step.kind, s.step.batch, r.scored, r.scores, r.loss, s.seconds, has_history)
            for s, has_history in zip(steps, self._histories(steps), strict=True)
            if (r := s.result).skipped is None
        ]

    def _histories(self, steps: list[_CompletedStep]) -> list[NDArray[np.bool_] | None]:
        """Whether the users of each step's rows have TPM vectors; None for steps whose users are not looked up."""
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
            batches = [steps[i].step.batch for i in numbers]
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

    # -- in the event loop

    def tick(self, engine: Engine, intake: AlignedIntake, dead_letters: Mapping[str, int]) -> None:
        """Update gauges and health; called about once a second."""
        self._try("updating the metrics", lambda: self._update_gauges(engine, intake, dead_letters))
        failed = "the monitor has failed: windows, drift and alerts are not updated" if self._failed else None
        failing = [f"{what} fails: see the log" for what in sorted(self._failing)]
        reasons = filter(None, (self.waiting_for, engine.progress.last_error, failed, *failing))
        self.health.problem("; ".join(reasons) or None)

    def deliver(self) -> None:
        """Deliver alerts that were raised or resolved; called about once a second, always from one thread at a time."""
        self._try("delivering alerts", self.dashboard.deliver)

    def _update_gauges(self, engine: Engine, intake: AlignedIntake, dead_letters: Mapping[str, int]) -> None:
        m, progress = self.dashboard.metrics, engine.progress
        m.releases.set(progress.releases)
        m.checkpoints.set(progress.checkpoints)
        m.checkpoint_failures.set(progress.checkpoint_failures)
        m.stall.set(progress.stall_s_max)
        m.waiting.set(intake.waiting_rows)
        m.late_rows.set(intake.aligner.late_rows)
        domains = self._topics.domains
        self.dashboard.tick(
            event_clock_ms=engine.clock,
            lag={topic: intake.lag(topic, engine.positions) for topic in domains},
            dead_letters=dict(dead_letters),
            releases=progress.releases,
            tpm_months=list(engine.trainer.cpm_months),
            topics={topic: DOMAIN_NAMES[domain] for topic, domain in domains.items()},
        )


def _version() -> str:
    try:
        return version("ecdctr")
    except PackageNotFoundError:
        return "unknown"
