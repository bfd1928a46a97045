"""What a worker reports as its health: the lag by the ends of the log, and the reasons that hold."""

from ecdctr.streams.health.lag import LagReport, lag_report
from ecdctr.streams.health.log import log_changes
from ecdctr.streams.health.monitor_start import Cut, MonitorStart
from ecdctr.streams.health.releases import ReleaseWatch
from ecdctr.streams.health.report import Counts, HealthReport

__all__ = [
    "Counts",
    "Cut",
    "HealthReport",
    "LagReport",
    "MonitorStart",
    "ReleaseWatch",
    "lag_report",
    "log_changes",
]
