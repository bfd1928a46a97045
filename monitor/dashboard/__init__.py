"""The dashboard page, its HTTP server, health and Prometheus metrics."""

from ecdctr.monitor.dashboard.prometheus import RunningMean
from ecdctr.monitor.dashboard.station import Station

__all__ = ["RunningMean", "Station"]
