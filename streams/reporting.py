"""From the worker's parts to what it shows: metrics, health, the monitor, alerts."""

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
from ecdctr.monitor.dashboard import Dashboard, RunningMean
from ecdctr.monitor.monitor import Monitor
from ecdctr.state.snapshots import EmbeddingStore
from ecdctr.streams.alerts import TopicChannel
from ecdctr.streams.aligned_intake import AlignedIntake
from ecdctr.streams.known_users import KnownUsers
from ecdctr.streams.settings import MonitorSettings, TopicSettings

__all__ = ["Reporter"]

log = logging.getLogger("ecdctr.worker")

HISTORY_EVERY = 8
"""Natural steps of which one is asked which users have TPM vectors."""

PROBE_SHARE = 0.005
"""Share of the time that scoring probe slices may take."""

KEEP_SHARE = 0.002
"""Share of the time that writing the monitor's state may take."""

WAKE, FULL = 256, 1024
"""Steps put aside at which the thread is woken, and at which training waits for it."""

LOOK_EVERY_S, FLUSH_EVERY_S = 1.0, 5.0


@dataclass(slots=True)
class _Done:
    """A step that was done; ``at``: epoch seconds of its end, ``months``: the snapshots that CPM read."""

    step: Step
    result: StepResult
    seconds: float
    at: float
    months: tuple[str, ...]


class Reporter:
    """Tells the monitor and the station what the worker does; they never stop it.

    Parameters
    ----------
    schema
        The features, for the drift table.
    kafka, topics, settings
        Configuration.
    folder
        Where the monitor keeps what it knows; None: nowhere.
    now
        Monotonic seconds.

    Attributes
    ----------
    waiting_for
        Why nothing comes in (the broker is away): part of what ``/healthz`` says.
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
        self._means: dict[str, RunningMean] = {}
        self._releases = self._checkpoints = 0
        self._months: tuple[str, ...] = ()
        self._broken = False
        self.waiting_for: str | None = None
        self._now = now
        self._store: EmbeddingStore | None = None
        self._known: tuple[tuple[str, ...], KnownUsers] | None = None
        self._done: deque[_Done] = deque()
        self._marks: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._wake, self._end = threading.Event(), False
        self._steps = 0
        self._flushed = self._probe_from = self._keep_from = -float("inf")
        self._seen_checkpoints = self._kept_checkpoints = 0
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
        """Open the port, unless it is 0."""
        if self._settings.port:
            port = self.dashboard.serve(self._settings.host, self._settings.port)
            log.info("dashboard and metrics on http://%s:%d", self._settings.host, port)

    def close(self) -> None:
        """Close the port; queued alerts still go out, for a few seconds at most."""
        self._end = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.work_off()
        self._safely(self.monitor.save)
        self._safely(self.dashboard.deliver)
        self.dashboard.close()
        if self._topic is not None:
            self._topic.close()

    def begin(self, engine: Engine) -> None:
        """Recovery is over: the monitor takes up what it knew. What was done before is not news, but for the last release:
        its alert may have to be raised or resolved."""
        if self._folder is not None:
            folder = self._folder
            self._safely(lambda: self.monitor.restore(folder, engine.scores, engine.clock))
        self._releases = max(0, len(engine.releases) - 1)
        self._checkpoints = self._seen_checkpoints = self._kept_checkpoints = engine.progress.checkpoints
        self._months = tuple(engine.trainer.cpm_months)
        self._store = engine.trainer.store
        if not self._thread.is_alive():
            self._thread.start()
        self.health.enter("live")

    # -- from the trainer's thread

    def stepped(self, engine: Engine, step: Step, result: StepResult, seconds: float) -> None:
        """A step was done. It is only put aside here; a thread of its own makes figures of it."""
        self.health.step()
        months = tuple(engine.trainer.cpm_months)
        self._done.append(_Done(step, result, seconds, time.time(), months))
        for report in engine.releases[self._releases :]:
            self._marks.append(partial(self.monitor.release, report))
            self._releases += 1
        if months != self._months:
            self._months = months
            self._marks.append(partial(self.monitor.month, months, engine.clock))
        self._seen_checkpoints = engine.progress.checkpoints
        if engine.progress.checkpoints != self._checkpoints and self._now() >= self._probe_from:
            self._checkpoints = engine.progress.checkpoints
            self._score_probes(engine)
        if len(self._done) >= FULL:  # the thread does not keep up: training waits rather than memory grows
            self.work_off()
        elif len(self._done) >= WAKE:
            self._wake.set()

    def _score_probes(self, engine: Engine) -> None:
        """The model is this thread's: probes are scored here, and never so often that it shows."""
        began = self._now()
        self._safely(lambda: self.monitor.checkpoint(engine.trainer.predict))
        self._probe_from = self._now() + (self._now() - began) / PROBE_SHARE

    # -- in a thread of its own

    def _run(self) -> None:
        while not self._end:
            self._wake.wait(LOOK_EVERY_S)
            self._wake.clear()
            self.work_off()

    def work_off(self) -> None:
        """Make figures of the steps that were put aside."""
        with self._lock:
            done = [self._done.popleft() for _ in range(len(self._done))]
            marks = [self._marks.popleft() for _ in range(len(self._marks))]
            if done:
                self._safely(lambda: self._count(done))
                self._safely(lambda: self._tell_monitor(done))
            for mark in marks:
                self._safely(mark)
            if self._now() - self._flushed >= FLUSH_EVERY_S:
                self._flushed = self._now()
                self._safely(self.monitor.flush)
            if self._seen_checkpoints != self._kept_checkpoints and self._now() >= self._keep_from:
                self._kept_checkpoints = self._seen_checkpoints
                self._keep()

    def _keep(self) -> None:
        began = self._now()
        self._safely(self.monitor.save)
        self._keep_from = self._now() + (self._now() - began) / KEEP_SHARE

    def _safely(self, call: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            call()
        except Exception:  # figures are not worth a training run
            self._broken = True
            log.exception("the monitor has failed: training goes on without it")

    def _count(self, done: list[_Done]) -> None:
        """The worker's own metrics, by kind at once."""
        m = self.dashboard.metrics
        for kind in DOMAIN_NAMES:
            mine = [d for d in done if d.step.kind == kind]
            m.steps.labels(kind).inc(len(mine))
            seconds = m.step_seconds.labels(kind)
            for d in mine:
                seconds.observe(d.seconds)
            for learned in (True, False):
                some = [d for d in mine if (d.result.skipped is None) is learned]
                if some:
                    ts = np.concatenate([d.step.batch.ts for d in some])
                    ended = np.repeat([d.at for d in some], [len(d.step.batch) for d in some])
                    self.dashboard.stepped(
                        kind, ts, rows=sum(d.result.n for d in some) if learned else 0, wall=ended
                    )
            self._running_means(kind, mine)

    def _tell_monitor(self, done: list[_Done]) -> None:
        histories = self._histories(done)
        for d, has_history in zip(done, histories, strict=True):
            r = d.result
            if r.skipped is None:
                self.monitor.observe(
                    d.step.kind, d.step.batch, r.scored, r.scores, r.loss, d.seconds, has_history
                )

    def _histories(self, done: list[_Done]) -> list[NDArray[np.bool_] | None]:
        """Which rows' users have TPM vectors; of natural steps one in a few is asked, they are many and alike."""
        out: list[NDArray[np.bool_] | None] = [None] * len(done)
        asked: dict[tuple[str, ...], list[int]] = {}
        for i, d in enumerate(done):
            self._steps += 1
            if d.months and (d.step.kind != StepKind.NATURAL or not self._steps % HISTORY_EVERY):
                asked.setdefault(d.months, []).append(i)
        for months, of in asked.items():
            if self._store is None:
                continue
            known = self._known_users(self._store, months)(
                np.concatenate([done[i].step.batch.user for i in of])
            )
            ends = np.cumsum([len(done[i].step.batch) for i in of])[:-1]
            for i, part in zip(of, np.split(known, ends), strict=True):
                out[i] = part
        return out

    def _known_users(self, store: EmbeddingStore, months: tuple[str, ...]) -> KnownUsers:
        if self._known is None or self._known[0] != months:
            self._known = (
                months,
                KnownUsers(lambda users: np.asarray(store.lookup("user", users, months)[1].any(axis=1))),
            )
        return self._known[1]

    def _running_means(self, kind: str, done: list[_Done]) -> None:
        m = self.dashboard.metrics
        for arm in {arm for d in done for arm in d.result.scores}:
            some = [d for d in done if len(d.result.scores.get(arm, ()))]
            if not some:
                continue
            label = np.concatenate([d.step.batch.label[d.result.scored] for d in some]).astype(np.float64)
            p = np.concatenate([d.result.scores[arm] for d in some]).astype(np.float64)
            q = np.clip(p, 1e-7, 1 - 1e-7)
            loss = -float(np.log(np.where(label > 0, q, 1 - q)).sum())
            name = f"{kind}/{arm}"
            for of, total in (("loss", loss), ("p", float(q.sum())), ("y", float(label.sum()))):
                self._means.setdefault(f"{name}/{of}", RunningMean()).add(total, len(p))
            m.log_loss.labels(arm).set(self._means[f"{name}/loss"].value)
            clicks = self._means[f"{name}/y"].value
            if clicks > 0:
                m.pcoc.labels(arm).set(self._means[f"{name}/p"].value / clicks)

    # -- from the event loop

    def tick(self, engine: Engine, intake: AlignedIntake, dead_letters: Mapping[str, int]) -> None:
        """Gauges, about once a second."""
        m, progress = self.dashboard.metrics, engine.progress
        m.releases.set(progress.releases)
        m.checkpoints.set(progress.checkpoints)
        m.checkpoint_failures.set(progress.checkpoint_failures)
        m.stall.set(progress.stall_s_max)
        m.waiting.set(intake.waiting_rows)
        m.late_rows.set(intake.aligner.late_rows)
        failed = "the monitor has failed: windows, drift and alerts stand still" if self._broken else None
        self.health.problem("; ".join(filter(None, (self.waiting_for, progress.last_error, failed))) or None)
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
