"""The dashboard page, its HTTP server, health and Prometheus metrics."""

from ecdctr.monitor.dashboard.dashboard import Dashboard
from ecdctr.monitor.dashboard.prometheus import RunningMean

__all__ = ["Dashboard", "RunningMean"]
