"""The dashboard page, its HTTP server, health and Prometheus metrics."""

from ecdctr.monitor.dashboard.dashboard import Dashboard

__all__ = ["Dashboard"]
