"""Counters and gauges of a running worker, for Prometheus."""

from __future__ import annotations

import math
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from state.errors import ConfigError

__all__ = ["WorkerMetrics"]


class WorkerMetrics:
    """Metrics of one worker, in a registry of their own.

    Names follow Prometheus' conventions (base units, ``_total`` on counters).
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.rows = Counter("ecdctr_rows_trained", "Rows learned from.", ["domain"], registry=r)
        self.steps = Counter("ecdctr_steps", "Steps done.", ["domain"], registry=r)
        self.dead_letters = Counter(
            "ecdctr_dead_letters", "Events sent to a dead-letter topic.", ["reason"], registry=r
        )
        self.late_rows = Gauge(
            "ecdctr_late_rows", "Rows older than the event clock when they came.", registry=r
        )
        self.releases = Gauge("ecdctr_cpm_releases", "CPM releases so far.", registry=r)
        self.waiting = Gauge("ecdctr_rows_waiting", "Rows read but not yet learned.", registry=r)
        self.lag = Gauge("ecdctr_lag_records", "Records of the log not yet learned.", ["topic"], registry=r)
        self.clock = Gauge(
            "ecdctr_event_clock_seconds", "Event time reached, seconds since the epoch.", registry=r
        )
        self.checkpoints = Gauge("ecdctr_checkpoints_written", "Checkpoints written since start.", registry=r)
        self.checkpoint_failures = Gauge(
            "ecdctr_checkpoint_failures", "Checkpoints that failed since start.", registry=r
        )
        self.stall = Gauge(
            "ecdctr_checkpoint_stall_max_seconds", "Longest stall of training by a checkpoint.", registry=r
        )
        self.log_loss = Gauge("ecdctr_log_loss", "Progressive log loss, running mean.", ["arm"], registry=r)
        self.pcoc = Gauge(
            "ecdctr_pcoc_ratio", "Predicted over observed clicks, running.", ["arm"], registry=r
        )
        self.step_seconds = Histogram(
            "ecdctr_step_seconds",
            "Wall time of a step.",
            ["domain"],
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=r,
        )
        self._server: WSGIServer | None = None

    def serve(self, host: str, port: int) -> int:
        """Serve ``/metrics`` from a thread of its own; returns the port."""
        try:
            self._server, _ = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            raise ConfigError(
                f"monitor.port = {port} cannot be bound on {host} ({error.strerror}): choose another, or 0 for none"
            ) from error
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class RunningMean:
    """Exponentially weighted mean over rows; NaN before the first.

    Parameters
    ----------
    half_life
        Rows after which an observation counts half.

    Examples
    --------
    >>> m = RunningMean(half_life=1); m.add(4.0, 1); m.add(0.0, 1); round(m.value, 3)
    1.333
    """

    def __init__(self, half_life: float = 20_000) -> None:
        self._decay = math.log(2) / half_life
        self._sum = 0.0
        self._weight = 0.0

    def add(self, total: float, rows: int) -> None:
        """``total`` over ``rows`` new rows."""
        keep = math.exp(-self._decay * rows)
        self._sum = self._sum * keep + total
        self._weight = self._weight * keep + rows

    @property
    def value(self) -> float:
        """The mean, NaN when nothing was added."""
        return self._sum / self._weight if self._weight else math.nan
