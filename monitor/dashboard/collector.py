"""The metrics of the monitor for Prometheus: windows, drift, forgetting, transfer and alerts, read at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ecdctr.monitor.drift import DriftRow
from ecdctr.monitor.quality import Interval, ProbeCurve, WindowFigures
from ecdctr.monitor.snapshot import Snapshot

__all__ = ["MonitorCollector"]

ARM_FIGURES = {
    "gauc": ("ecdctr_window_gauc", "GAUC of a window of event time."),
    "auc": ("ecdctr_window_auc", "AUC of a window of event time."),
    "ne": ("ecdctr_window_normalized_entropy", "Log loss divided by that of always predicting the mean CTR."),
    "pcoc": ("ecdctr_window_pcoc_ratio", "Predicted divided by observed clicks of a window of event time."),
    "log_loss": ("ecdctr_window_log_loss", "Progressive log loss of a window of event time."),
}
SIDE_FIGURES = {
    "rows": ("ecdctr_window_rows", "Rows of a window of event time."),
    "ctr": ("ecdctr_window_ctr_ratio", "Clicks divided by impressions of a window of event time."),
    "late": ("ecdctr_window_late_rows", "Late rows of a window of event time."),
    "unseen_users": (
        "ecdctr_window_unseen_users_ratio",
        "Share of rows whose user occurs for the first time.",
    ),
    "unseen_items": (
        "ecdctr_window_unseen_items_ratio",
        "Share of rows whose item occurs for the first time.",
    ),
    "tpm_share": ("ecdctr_window_tpm_rows_ratio", "Share of rows whose user has TPM vectors."),
}
DRIFT_FIGURES = {
    "psi": ("ecdctr_drift_psi", "Population stability index against the reference."),
    "js": ("ecdctr_drift_js_divergence", "Jensen-Shannon divergence from the reference."),
    "moved": ("ecdctr_drift_moved", "1: the change is significant and large enough to be drift."),
}
BOUNDS = (
    ("", ""),
    ("_low", ", lower end of its interval"),
    ("_high", ", upper end of its interval"),
)
DRIFT_ROWS = 50
"""Rows of the drift table that are exported, largest effect first, so that the number of time series is bounded."""


class MonitorCollector(Collector):
    """Converts a snapshot of :class:`ecdctr.monitor.monitor.Monitor` to metric families.

    Parameters
    ----------
    snapshot
        Called at each scrape; may return a cached snapshot, or None.
    """

    def __init__(self, snapshot: Callable[[], Snapshot | None]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """All families, without samples."""
        return self._families(None)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All families with the current values."""
        return self._families(self._snapshot())

    def _families(self, snapshot: Snapshot | None) -> Iterator[GaugeMetricFamily]:
        yield from _windows({} if snapshot is None else snapshot["windows"])
        yield from _drift([] if snapshot is None else snapshot["drift"]["table"])
        yield from _transfer(None if snapshot is None else snapshot["transfer"]["gauc"])
        yield from _forgetting([] if snapshot is None else snapshot["forgetting"]["curves"])
        raised = GaugeMetricFamily(
            "ecdctr_alerts_raised", "Alerts that are raised.", labels=["rule", "severity"]
        )
        counts: dict[tuple[str, str], int] = {}
        for alert in [] if snapshot is None else snapshot["alerts"]:
            name = (alert["rule"], alert["severity"])
            counts[name] = counts.get(name, 0) + 1
        for name, count in counts.items():
            raised.add_metric(list(name), count)
        yield raised


def _windows(windows: Mapping[str, Mapping[str, WindowFigures]]) -> Iterator[GaugeMetricFamily]:
    sides = [(w, d, side) for w, domains in windows.items() for d, side in domains.items()]
    for figure, (name, text) in SIDE_FIGURES.items():
        family = GaugeMetricFamily(name, text, labels=["window", "domain"])
        for window, domain, side in sides:
            _add(family, [window, domain], _number(side, figure))
        yield family
    for figure, (name, text) in ARM_FIGURES.items():
        family = GaugeMetricFamily(name, text, labels=["window", "domain", "arm"])
        for window, domain, side in sides:
            for arm, figures in side["arms"].items():
                _add(family, [window, domain, arm], _number(figures, figure))
        yield family


def _drift(table: Sequence[DriftRow]) -> Iterator[GaugeMetricFamily]:
    rows = table[:DRIFT_ROWS]
    for figure, (name, text) in DRIFT_FIGURES.items():
        family = GaugeMetricFamily(name, text, labels=["what", "name", "domain"])
        for row in rows:
            _add(family, [row["what"], row["name"], row["domain"]], _number(row, figure))
        yield family


def _transfer(gain: Interval | None) -> Iterator[GaugeMetricFamily]:
    values = (None, None, None) if gain is None else (gain["value"], gain["low"], gain["high"])
    for (suffix, text), value in zip(BOUNDS, values, strict=True):
        family = GaugeMetricFamily(
            f"ecdctr_transfer_gauc_gain{suffix}", f"GAUC of A-CTR minus that of the ads-only control{text}."
        )
        _add(family, [], value)
        yield family


def _forgetting(curves: Sequence[ProbeCurve]) -> Iterator[GaugeMetricFamily]:
    family = GaugeMetricFamily(
        "ecdctr_forgetting_gauc_change",
        "GAUC on the probe slice of an earlier period, minus its GAUC when the slice was first scored.",
        labels=["period", "arm"],
    )
    for curve in curves:
        if curve["transfer"]:
            _add(family, [curve["period"], curve["arm"]], curve["transfer"][-1])
    yield family


def _number(figures: Mapping[str, object], name: str) -> float | None:
    return cast("float | None", figures[name])


def _add(family: GaugeMetricFamily, labels: list[str], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, float(value))
