"""The type of ``Monitor.snapshot``: all metrics of a monitor as plain data for JSON."""

from __future__ import annotations

from typing import TypedDict

from ecdctr.monitor.alerts import AlertRecord
from ecdctr.monitor.drift import DriftFigures
from ecdctr.monitor.marks import Mark
from ecdctr.monitor.quality import ForgettingFigures, SeriesFigures, TransferFigures, WindowFigures

__all__ = ["Snapshot", "TrainingFigures"]


class TrainingFigures(TypedDict):
    """Loss of the last step by arm, and rows per second of wall time spent in steps."""

    loss: dict[str, float]
    rows_per_s: float | None


class Snapshot(TypedDict):
    """All metrics of a monitor; undefined ones are None.

    Attributes
    ----------
    clock
        Event time reached, ms; None before the first row.
    rows
        Rows observed since the start, by domain.
    training
        Metrics of the training steps.
    windows
        By window (``5m``, ``1h``, ``1d`` of event time up to ``clock``) and domain (``natural``, ``ad``).
    series
        Earlier values for charts, by length of a slot: ``5m`` (last day), ``1h`` (last week), ``1d`` (last quarter).
    drift, forgetting, transfer
        See their types.
    marks
        Releases, TPM months and the completed drift reference, oldest first; the last 200.
    alerts
        Alerts that are raised, oldest first.
    """

    clock: int | None
    rows: dict[str, int]
    training: TrainingFigures
    windows: dict[str, dict[str, WindowFigures]]
    series: dict[str, SeriesFigures]
    drift: DriftFigures
    forgetting: ForgettingFigures
    transfer: TransferFigures
    marks: list[Mark]
    alerts: list[AlertRecord]
