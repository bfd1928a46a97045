"""Counters and gauges of a running worker, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.process_collector import ProcessCollector

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.monitor.dashboard.freshness import Freshness

__all__ = ["Total", "WorkerMetrics"]

FRESHNESS_SPAN_S = 120.0
"""Length of the period that the quantiles on the page cover."""


class WorkerMetrics:
    """Metrics of one worker, in a registry of their own.

    Names follow the conventions of Prometheus (base units, ``_total`` on counters). The metrics of windows, drift and alerts
    are those of :class:`ecdctr.monitor.dashboard.collector.MonitorCollector`.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        ProcessCollector(registry=r)
        self.build = Info("ecdctr_build", "Version of the worker.", registry=r)
        self.rows = Counter("ecdctr_rows_trained", "Rows learned from.", ["domain"], registry=r)
        self.steps = Counter("ecdctr_steps", "Steps completed.", ["domain"], registry=r)
        self.skipped = Counter(
            "ecdctr_rows_rolled_back", "Rows that could not be learned (the loss was not finite).", registry=r
        )
        self.dead_letters = Counter(
            "ecdctr_dead_letters", "Events sent to a dead-letter topic.", ["reason"], registry=r
        )
        self.late_rows = Total(
            Counter(
                "ecdctr_late_rows", "Rows that were older than the event clock when they arrived.", registry=r
            )
        )
        self.releases = Total(Counter("ecdctr_cpm_releases", "CPM releases.", registry=r))
        self.waiting = Gauge("ecdctr_rows_waiting", "Rows read but not yet learned.", registry=r)
        self.lag = Gauge(
            "ecdctr_lag_records",
            "Records that have not been learned yet; NaN: not known.",
            ["topic"],
            registry=r,
        )
        self.clock = Gauge(
            "ecdctr_event_clock_timestamp_seconds", "Event time reached, seconds since the epoch.", registry=r
        )
        self.last_step = Gauge(
            "ecdctr_last_step_timestamp_seconds", "When the last step ended, wall clock.", registry=r
        )
        self.checkpoints = Total(Counter("ecdctr_checkpoints", "Checkpoints written.", registry=r))
        self.checkpoint_failures = Total(
            Counter("ecdctr_checkpoint_failures", "Checkpoints that failed.", registry=r)
        )
        self.stall = Gauge(
            "ecdctr_checkpoint_stall_max_seconds", "Longest pause of training for a checkpoint.", registry=r
        )
        self.step_seconds = Histogram(
            "ecdctr_step_seconds",
            "Wall time of a step.",
            ["domain"],
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=r,
        )
        self.healthy = Gauge("ecdctr_healthy", "1: /healthz returns 200.", registry=r)
        self.ready = Gauge("ecdctr_ready", "1: /readyz returns 200.", registry=r)
        self.health = Gauge(
            "ecdctr_health", "1: this reason holds (docs/operations.md); several may.", ["reason"], registry=r
        )
        self.alert_deliveries = Counter(
            "ecdctr_alert_deliveries",
            "Alerts by channel and outcome of the delivery.",
            ["channel", "outcome"],
            registry=r,
        )
        self.freshness = Freshness(DOMAIN_NAMES, span_s=FRESHNESS_SPAN_S, now=now)
        r.register(self.freshness)


class Total:
    """A counter that is set to a total, which is counted elsewhere.

    >>> total = Total(Counter("example", "An example.", registry=CollectorRegistry()))
    >>> total.set(3); total.set(5); total.value
    5.0
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self.value = 0.0

    def set(self, total: float) -> None:
        """Raise the counter to ``total``; a smaller total than before is ignored."""
        if total > self.value:
            self._counter.inc(total - self.value)
            self.value = float(total)
