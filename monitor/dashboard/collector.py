"""The monitor's figures for Prometheus: windows, drift, forgetting, transfer and alerts, read at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

__all__ = ["MonitorCollector"]

ARM_FIGURES = {
    "gauc": ("ecdctr_window_gauc", "GAUC of a window of event time."),
    "auc": ("ecdctr_window_auc", "AUC of a window of event time."),
    "ne": ("ecdctr_window_normalized_entropy", "Log loss over that of always predicting the mean CTR."),
    "pcoc": ("ecdctr_window_pcoc_ratio", "Predicted over observed clicks of a window of event time."),
    "log_loss": ("ecdctr_window_log_loss", "Progressive log loss of a window of event time."),
}
SIDE_FIGURES = {
    "rows": ("ecdctr_window_rows", "Rows of a window of event time."),
    "ctr": ("ecdctr_window_ctr_ratio", "Clicks over impressions of a window of event time."),
    "late": ("ecdctr_window_late_rows", "Rows of a window that came late."),
    "unseen_users": ("ecdctr_window_unseen_users_ratio", "Share of rows whose user was never met before."),
    "unseen_items": ("ecdctr_window_unseen_items_ratio", "Share of rows whose item was never met before."),
    "tpm_share": ("ecdctr_window_tpm_rows_ratio", "Share of rows whose user has TPM vectors."),
}
DRIFT_FIGURES = {
    "psi": ("ecdctr_drift_psi", "Population stability index against the reference."),
    "js": ("ecdctr_drift_js_divergence", "Jensen-Shannon divergence from the reference."),
    "moved": ("ecdctr_drift_moved", "1: the change is proven and large enough to count."),
}
BOUNDS = {"value": "", "low": "_low", "high": "_high"}
DRIFT_ROWS = 50
"""Series stay bounded: that many of the strongest rows of the drift table."""


class MonitorCollector(Collector):
    """Turns a snapshot of :class:`ecdctr.monitor.monitor.Monitor` into metric families.

    Parameters
    ----------
    snapshot
        Called at each scrape; cached by its owner.
    """

    def __init__(self, snapshot: Callable[[], Mapping[str, Any]]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Every family, without samples."""
        return self._families({})

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Every family, with what is known now."""
        return self._families(self._snapshot())

    def _families(self, snapshot: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
        yield from _windows(snapshot.get("windows", {}))
        yield from _drift(snapshot.get("drift", {}))
        yield from _transfer(snapshot.get("transfer", {}))
        yield from _forgetting(snapshot.get("forgetting", {}))
        raised = GaugeMetricFamily("ecdctr_alerts_raised", "Alerts now raised.", labels=["rule", "severity"])
        counts: dict[tuple[str, str], int] = {}
        for alert in snapshot.get("alerts", ()):
            name = (alert["rule"], alert["severity"])
            counts[name] = counts.get(name, 0) + 1
        for name, count in counts.items():
            raised.add_metric(list(name), count)
        yield raised


def _windows(windows: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    sides = [(w, d, side) for w, domains in windows.items() for d, side in domains.items()]
    for figure, (name, text) in SIDE_FIGURES.items():
        family = GaugeMetricFamily(name, text, labels=["window", "domain"])
        for window, domain, side in sides:
            _add(family, [window, domain], side.get(figure))
        yield family
    for figure, (name, text) in ARM_FIGURES.items():
        family = GaugeMetricFamily(name, text, labels=["window", "domain", "arm"])
        for window, domain, side in sides:
            for arm, figures in side.get("arms", {}).items():
                _add(family, [window, domain, arm], figures.get(figure))
        yield family


def _drift(drift: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    rows = drift.get("table", ())[:DRIFT_ROWS]
    for figure, (name, text) in DRIFT_FIGURES.items():
        family = GaugeMetricFamily(name, text, labels=["what", "name", "domain"])
        for row in rows:
            _add(family, [row["what"], row["name"], row["domain"]], row.get(figure))
        yield family


def _transfer(transfer: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    gain = transfer.get("gauc") or {}
    for bound, ending in BOUNDS.items():
        said = {"value": "", "low": ", lower end of its interval", "high": ", upper end of its interval"}[
            bound
        ]
        family = GaugeMetricFamily(
            f"ecdctr_transfer_gauc_gain{ending}", f"GAUC of A-CTR minus that of the ads-only control{said}."
        )
        _add(family, [], gain.get(bound))
        yield family


def _forgetting(forgetting: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    family = GaugeMetricFamily(
        "ecdctr_forgetting_gauc_change",
        "GAUC on the slice of an earlier period now, minus that when it was last learned.",
        labels=["period", "arm"],
    )
    for curve in forgetting.get("curves", ()):
        if curve.get("transfer"):
            _add(family, [str(curve["period"]), curve["arm"]], curve["transfer"][-1])
    yield family


def _add(family: GaugeMetricFamily, labels: list[str], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, float(value))
