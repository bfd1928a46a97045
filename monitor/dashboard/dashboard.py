"""The dashboard of a worker: metrics, health, recent values, the snapshot of the monitor, and alerts."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.monitor.alerts import Alert, AlertDelivery, AlertRecord, Send
from ecdctr.monitor.dashboard.collector import MonitorCollector
from ecdctr.monitor.dashboard.health import Health
from ecdctr.monitor.dashboard.prometheus import WorkerMetrics
from ecdctr.monitor.dashboard.reasons import Reason
from ecdctr.monitor.dashboard.recent import RecentSeries
from ecdctr.monitor.dashboard.server import MonitorServer
from ecdctr.monitor.dashboard.snapshot_json import SnapshotJson
from ecdctr.monitor.quality import Interval
from ecdctr.monitor.snapshot import Snapshot

__all__ = ["Dashboard", "SnapshotSource"]

log = logging.getLogger("ecdctr.monitor")

OLDEST_S = 30.0
"""Age from which a cached snapshot is always replaced."""

RESOLVED_SHOWN = 50
TRANSFER_POINTS = 1_000
UNATTENDED_EVERY_S = 15.0
"""Interval between snapshots while no page is open, so that the transfer chart has earlier values when one is opened."""


class SnapshotSource(Protocol):
    """The methods of :class:`ecdctr.monitor.monitor.Monitor` that the dashboard needs."""

    def snapshot(self) -> Snapshot:
        """All metrics as values for JSON."""
        ...

    def take_events(self) -> list[Alert]:
        """Alerts raised or resolved since the last call."""
        ...

    def delivered(self) -> None:
        """Mark the alerts that were returned as delivered."""
        ...


class Dashboard:
    """Collects the reports of a worker and serves them over HTTP.

    The worker calls :meth:`stepped` after each step, and :meth:`tick` and :meth:`deliver` about once per second.

    Parameters
    ----------
    monitor
        Source of the metrics; None: its sections are empty.
    channels
        Receivers of alerts in addition to the log: ``{name: send}``.
    watchdog_s
        See :class:`ecdctr.monitor.dashboard.health.Health`.
    version
        Shown on the page and in ``ecdctr_build_info``.
    now, wall
        Monotonic and epoch seconds.
    refresh_s
        Seconds between two updates of an open page.

    Examples
    --------
    >>> dashboard = Dashboard(version="0.1.0")
    >>> dashboard.health.enter("live"); dashboard.stepped("ad", np.array([1_000]), rows=1)
    >>> dashboard.tick(event_clock_ms=1_000, lag={"ad-clicks": 3})
    >>> dashboard.document()["worker"]["rows"]
    {'natural': 0, 'ad': 1}
    >>> dashboard.close()
    """

    def __init__(
        self,
        monitor: SnapshotSource | None = None,
        *,
        channels: Mapping[str, Send] | None = None,
        watchdog_s: float = 300.0,
        version: str = "",
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        refresh_s: float = 2.0,
    ) -> None:
        self._monitor = monitor
        self.version = version
        self.health = Health(watchdog_s, now, wall)
        self.metrics = WorkerMetrics(now)
        self.metrics.healthy.set_function(lambda: self.health.verdict().healthy)
        self.metrics.ready.set_function(lambda: self.health.verdict().ready)
        for reason in Reason:
            self.metrics.health.labels(reason.value).set_function(partial(self.health.holds, reason))
        self.metrics.build.info({"version": version})
        self.metrics.registry.register(MonitorCollector(self.snapshot))
        self.recent = RecentSeries(every_s=refresh_s)
        self.json = SnapshotJson(self.document, max_age_s=refresh_s / 2, now=now)
        self._refresh_s = refresh_s
        self._now, self._wall = now, wall
        self._lock = threading.Lock()
        self._delivery = AlertDelivery(
            channels or {}, outcome=lambda c, what: self.metrics.alert_deliveries.labels(c, what).inc()
        )
        self._server: MonitorServer | None = None
        self._snapshot: Snapshot | None = None
        self._snapshot_at, self._snapshot_took = -float("inf"), 0.0
        self._failing = False
        self._resolved: deque[AlertRecord] = deque(maxlen=RESOLVED_SHOWN)
        self._transfer: deque[tuple[int, Interval]] = deque(maxlen=TRANSFER_POINTS)
        self._rows = dict.fromkeys(DOMAIN_NAMES, 0)
        self._dead_letters: dict[str, int] = {}
        self._worker: dict[str, Any] = {"event_clock_ms": None, "releases": 0, "tpm_months": []}
        self._rate_from: tuple[float, dict[str, int]] = (now(), dict(self._rows))

    # -- called by the worker

    def stepped(
        self,
        kind: str,
        ts_ms: NDArray[np.int64],
        *,
        rows: int,
        wall: float | NDArray[np.float64] | None = None,
    ) -> None:
        """Report one step, or several steps of one kind.

        Parameters
        ----------
        kind
            ``natural`` or ``ad``.
        ts_ms
            Event times of the rows, ms, shape ``(n,)``; none for a step of rejected records.
        rows
            Rows that were learned; 0: the step was rolled back.
        wall
            Epoch seconds at which the step ended, one number or one per row; default: now.
        """
        wall = self._wall() if wall is None else wall
        self.health.step()
        if not len(ts_ms):  # a step of rejected records or of gaps
            return
        self.metrics.last_step.set(float(np.max(wall)))
        self._rows[kind] += rows
        if rows:
            self.metrics.rows.labels(kind).inc(rows)
            self.metrics.freshness.add(kind, wall - ts_ms / 1000)
        else:
            self.metrics.skipped.inc(len(ts_ms))

    def tick(
        self,
        *,
        event_clock_ms: int,
        lag: Mapping[str, int | None],
        waiting: int | None = None,
        where: str = "",
        busy: str | None = None,
        dead_letters: Mapping[str, int] | None = None,
        **worker: Any,
    ) -> None:
        """Report the current state; call about once per second.

        Parameters
        ----------
        event_clock_ms
            Event time reached.
        lag
            Records of each topic not yet learned; None: not known.
        waiting, where, busy
            See :meth:`ecdctr.monitor.dashboard.health.Health.lag`.
        dead_letters
            Events rejected since the start, by reason.
        worker
            Further values that the page shows: ``releases``, ``tpm_months``, ``topics``.
        """
        self._worker.update(worker, event_clock_ms=event_clock_ms)
        known = [records for records in lag.values() if records is not None]
        self.health.lag(
            sum(known) if len(known) == len(lag) else None,
            waiting=sum(known) if waiting is None else waiting,
            where=where,
            busy=busy,
        )
        self.metrics.clock.set(event_clock_ms / 1000)
        for topic, records in lag.items():
            self.metrics.lag.labels(topic).set(float("nan") if records is None else records)
        for reason, count in (dead_letters or {}).items():
            self.metrics.dead_letters.labels(reason).inc(max(0, count - self._dead_letters.get(reason, 0)))
            self._dead_letters[reason] = count
        self._sample(lag)

    def _sample(self, lag: Mapping[str, int | None]) -> None:
        now, rows = self._now(), dict(self._rows)
        since, before = self._rate_from
        elapsed_s = max(now - since, 1e-9)
        values: dict[str, float] = {f"rows/{d}": (rows[d] - before[d]) / elapsed_s for d in rows}
        values |= {
            f"lag/{t}": float("nan") if records is None else float(records) for t, records in lag.items()
        }
        values |= {f"dead/{reason}": float(count) for reason, count in self._dead_letters.items()}
        for domain in rows:
            p50, p99 = self.metrics.freshness.quantiles(domain, (0.5, 0.99))
            values |= {f"fresh/{domain} p50": p50, f"fresh/{domain} p99": p99}
        if self.recent.sample(round(self._wall(), 1), values):
            self._rate_from = (now, rows)

    def use(self, monitor: SnapshotSource) -> None:
        """Show another monitor from now on: one that was started again after a failure."""
        self._monitor = monitor
        self._snapshot_at = -float("inf")

    def deliver(self) -> None:
        """Deliver alerts that were raised or resolved; call about once per second, always from the same thread."""
        if self._monitor is None:
            return
        events = self._monitor.take_events()
        for alert in events:
            record = alert.to_json()
            if record["status"] == "resolved":
                self._resolved.appendleft(record)
            self._delivery.send(record)
        self._monitor.delivered()
        if events:
            self._snapshot_at = -float("inf")  # so that pages show the alert at once
        if self._now() - self._snapshot_at >= UNATTENDED_EVERY_S:
            self.snapshot()

    def _record_transfer(self, snapshot: Snapshot) -> None:
        """Store the current value for the chart, because the snapshot contains only the current one."""
        clock, gain = snapshot["clock"], snapshot["transfer"]["gauc"]
        if clock is not None and gain and (not self._transfer or clock > self._transfer[-1][0]):
            if self._transfer and gain == self._transfer[-1][1]:
                return
            self._transfer.append((clock, gain))

    # -- results

    def snapshot(self, *, fresh: bool = False) -> Snapshot | None:
        """The snapshot of the monitor, shared by scrapes and pages; None without a monitor.

        A snapshot is reused for half of ``refresh_s``, and longer if it is expensive, up to :data:`OLDEST_S`: snapshots take half a
        percent of the time, however many clients read them. ``fresh``: do not reuse the last one.
        """
        if self._monitor is None:
            return None
        with self._lock:
            began = self._now()
            age = max(self._refresh_s / 2, min(200 * self._snapshot_took, OLDEST_S))
            if fresh or began - self._snapshot_at >= age:
                self._snapshot_at = began
                try:
                    self._snapshot = self._monitor.snapshot()
                    self._record_transfer(self._snapshot)
                    self._snapshot_took = self._now() - began
                    self._failing = False
                except Exception:  # the last snapshot is still worth showing, and the metrics of the worker must stay available
                    if not self._failing:
                        log.exception("no snapshot of the monitor could be made: the last one is shown")
                    self._failing = True
            return self._snapshot

    def document(self) -> dict[str, Any]:
        """The sections of ``/api/snapshot``: ``worker`` and ``live``, then those of the monitor.

        ``transfer`` has a further entry ``past`` (columns ``t``, ``value``, ``low``, ``high``); ``alerts`` holds the alerts that are
        ``raised`` and, newest first, those that were ``resolved``.
        """
        verdict = self.health.verdict()
        worker = {
            **self._worker,
            "version": self.version,
            "rows": dict(self._rows),
            "healthy": verdict.healthy,
            "ready": verdict.ready,
            "phase": verdict.phase,
            "status": verdict.status,
            "reason": verdict.reason,
            "reasons": [finding.to_json() for finding in verdict.findings],
            "lag": verdict.lag,
        }
        snapshot = self.snapshot()
        figures: dict[str, Any] = {} if snapshot is None else {**snapshot}
        monitor = {k: v for k, v in figures.items() if k not in ("clock", "rows", "alerts", "transfer")}
        past = list(self._transfer)
        columns = {
            "value": [p["value"] for _, p in past],
            "low": [p["low"] for _, p in past],
            "high": [p["high"] for _, p in past],
        }
        transfer = {**figures.get("transfer", {}), "past": {"t": [t for t, _ in past], **columns}}
        alerts = {"raised": figures.get("alerts", []), "resolved": list(self._resolved)}
        return {
            "worker": worker,
            "live": self.recent.to_json(),
            **monitor,
            "transfer": transfer,
            "alerts": alerts,
        }

    def serve(self, host: str, port: int, allowed_hosts: Iterable[str] = ()) -> int:
        """Serve metrics, health, JSON and the page from threads of its own; returns the port.

        ``allowed_hosts``: see :class:`ecdctr.monitor.allowed_hosts.AllowedHosts`.
        """
        self._server = MonitorServer(
            self.metrics.registry,
            self.health,
            self.json,
            allowed_hosts=allowed_hosts,
            every_s=self._refresh_s,
        )
        return self._server.start(host, port)

    def close(self) -> None:
        """Stop serving; queued alerts are still delivered, for a few seconds at most."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._delivery.close()
