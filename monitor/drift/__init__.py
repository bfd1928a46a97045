"""Drift: reference sketches, comparison by bins, change detectors and the offline report."""

from ecdctr.monitor.drift.daily import by_day, gather
from ecdctr.monitor.drift.detectors import MAKERS, Detectors
from ecdctr.monitor.drift.reference import Reference
from ecdctr.monitor.drift.report import summarise, write_drift_report
from ecdctr.monitor.drift.results import DriftFigures, DriftRow
from ecdctr.monitor.drift.watch import DriftTableRow, DriftWatch, describe

__all__ = [
    "MAKERS",
    "Detectors",
    "DriftFigures",
    "DriftRow",
    "DriftTableRow",
    "DriftWatch",
    "Reference",
    "by_day",
    "describe",
    "gather",
    "summarise",
    "write_drift_report",
]
