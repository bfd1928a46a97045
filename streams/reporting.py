"""From the worker's parts to what it shows: metrics, health, the monitor, alerts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from models.batch import DOMAIN_NAMES, NATURAL
from models.engine import Engine
from models.features import FeatureSchema
from models.trainer import StepResult
from monitor.delivery import Send, webhook
from monitor.metrics import RunningMean
from monitor.monitor import Monitor
from monitor.station import Station
from replay.align import Step
from replay.connection import KafkaSettings
from streams.alerts import TopicChannel
from streams.handoff import AlignedIntake
from streams.settings import MonitorSettings, TopicSettings

__all__ = ["Reporter"]

log = logging.getLogger("ecdctr.worker")

HISTORY_EVERY = 8
"""Natural steps of which one is asked which users have TPM vectors."""


class Reporter:
    """Tells the monitor and the station what the worker does; they never stop it.

    Parameters
    ----------
    schema
        The features, for the drift table.
    kafka, topics, settings
        Configuration.

    Attributes
    ----------
    waiting_for
        Why nothing comes in (the broker is away): part of what ``/healthz`` says.
    """

    def __init__(
        self, schema: FeatureSchema, kafka: KafkaSettings, topics: TopicSettings, settings: MonitorSettings
    ) -> None:
        self._topics, self._settings = topics, settings
        self.monitor = Monitor(schema, settings.watch)
        self._topic = (
            TopicChannel(kafka, settings.alerts_topic, topics.replication) if settings.alerts_topic else None
        )
        self.station = Station(
            self.monitor,
            channels=self._channels(),
            watchdog_s=settings.watchdog_s,
            version=_version(),
        )
        self.health = self.station.health
        self._means: dict[str, RunningMean] = {}
        self._releases = self._checkpoints = 0
        self._months: tuple[str, ...] = ()
        self._broken = False
        self.waiting_for: str | None = None

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
            port = self.station.serve(self._settings.host, self._settings.port)
            log.info("dashboard and metrics on http://%s:%d", self._settings.host, port)

    def close(self) -> None:
        """Close the port; queued alerts still go out, for a few seconds at most."""
        self.station.close()
        if self._topic is not None:
            self._topic.close()

    def begin(self, engine: Engine) -> None:
        """Recovery is over: what was done before is not news, but for a refused release that none followed."""
        self._releases = len(engine.releases)
        if engine.releases and not engine.releases[-1].accepted:
            self._releases -= 1
        self._checkpoints = engine.progress.checkpoints
        self._months = tuple(engine.trainer.cpm_months)
        self.health.enter("live")

    # -- from the trainer's thread

    def stepped(self, engine: Engine, step: Step, result: StepResult, seconds: float) -> None:
        """A step was done."""
        m = self.station.metrics
        m.steps.labels(step.kind).inc()
        m.step_seconds.labels(step.kind).observe(seconds)
        self.station.stepped(step.kind, step.batch.ts, rows=result.n if result.skipped is None else 0)
        self._running_means(step, result)
        if self._broken:
            return
        try:
            self._tell_monitor(engine, step, result, seconds)
        except Exception:  # figures are not worth a training run; /metrics of the worker itself goes on
            self._broken = True
            log.exception("the monitor has failed: training goes on without it")

    def _tell_monitor(self, engine: Engine, step: Step, result: StepResult, seconds: float) -> None:
        if result.skipped is None:
            self.monitor.observe(
                step.kind,
                step.batch,
                result.scored,
                result.scores,
                result.loss,
                seconds,
                self._has_history(engine, step),
            )
        for report in engine.releases[self._releases :]:
            self.monitor.release(report)
            self._releases += 1
        months = tuple(engine.trainer.cpm_months)
        if months != self._months:
            self._months = months
            self.monitor.month(months, engine.clock)
        if engine.progress.checkpoints != self._checkpoints:
            self._checkpoints = engine.progress.checkpoints
            self.monitor.checkpoint(engine.trainer.predict)

    def _has_history(self, engine: Engine, step: Step) -> NDArray[np.bool_] | None:
        """Which rows' users have TPM vectors; of natural steps one in a few is asked, they are many and alike."""
        store, months = engine.trainer.store, engine.trainer.cpm_months
        if store is None or not months or (step.batch.domain[0] == NATURAL and engine.step % HISTORY_EVERY):
            return None
        return np.asarray(store.lookup("user", step.batch.user, months)[1].any(axis=1))

    def _running_means(self, step: Step, result: StepResult) -> None:
        m = self.station.metrics
        label = step.batch.label[result.scored].astype(np.float64)
        for arm, p in result.scores.items():
            if not len(p):
                continue
            q = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
            loss = -float(np.sum(label * np.log(q) + (1 - label) * np.log1p(-q)))
            name = f"{step.kind}/{arm}"
            for kind, total in (("loss", loss), ("p", float(q.sum())), ("y", float(label.sum()))):
                self._means.setdefault(f"{name}/{kind}", RunningMean()).add(total, len(p))
            m.log_loss.labels(arm).set(self._means[f"{name}/loss"].value)
            clicks = self._means[f"{name}/y"].value
            if clicks > 0:
                m.pcoc.labels(arm).set(self._means[f"{name}/p"].value / clicks)

    # -- from the event loop

    def tick(self, engine: Engine, intake: AlignedIntake, dead_letters: Mapping[str, int]) -> None:
        """Gauges, about once a second."""
        m, progress = self.station.metrics, engine.progress
        m.releases.set(progress.releases)
        m.checkpoints.set(progress.checkpoints)
        m.checkpoint_failures.set(progress.checkpoint_failures)
        m.stall.set(progress.stall_s_max)
        m.waiting.set(intake.waiting_rows)
        m.late_rows.set(intake.aligner.late_rows)
        failed = "the monitor has failed: windows, drift and alerts stand still" if self._broken else None
        self.health.trouble("; ".join(filter(None, (self.waiting_for, progress.last_error, failed))) or None)
        domains = self._topics.domains
        self.station.tick(
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
