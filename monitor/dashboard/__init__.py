"""The dashboard page, its HTTP server, health and Prometheus metrics."""

from ecdctr.monitor.dashboard.dashboard import Dashboard
from ecdctr.monitor.dashboard.health import Change, Health
from ecdctr.monitor.dashboard.reasons import Reason

__all__ = ["Change", "Dashboard", "Health", "Reason"]
