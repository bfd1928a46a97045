"""What an alert rule looks at: figures of windows, drift rows, transfer, forgetting; with the sentences of the alert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ecdctr.models.training import ReleaseReport
from ecdctr.monitor.alerts.rules import Measurement
from ecdctr.monitor.drift import Row, said
from ecdctr.monitor.quality import DomainWindow
from ecdctr.monitor.settings import RuleSpec

__all__ = ["of_detectors", "of_drift", "of_forgetting", "of_release", "of_transfer", "of_window"]

_OF_ARM = ("log_loss", "ne", "pcoc", "auc", "gauc")
_NAMES = {"natural": "natural content", "ad": "ads", "both": "natural content and ads"}
_CAUSES = {
    "feature": "the traffic or what fills this field has changed",
    "label": "click rate has changed while its causes may not have: check click logging, placement and stock first",
    "prediction": "the model's scores have moved: a release, or its inputs",
    "behaviour": "this segment now clicks otherwise than the model expects, relative to the others",
}


def of_window(rule: RuleSpec, by: Mapping[str, DomainWindow], clock: int) -> list[Measurement]:
    """A figure of a window, by domain (and arm)."""
    out = []
    for domain, window in by.items():
        if rule.domain not in ("any", domain):
            continue
        f = window.figures(clock, auc=rule.metric == "auc", gauc=rule.metric == "gauc")
        where = f"{_NAMES[domain]}, {rule.window}"
        if rule.metric not in _OF_ARM:
            value = f["late"] / f["rows"] if rule.metric == "late_share" and f["rows"] else f.get(rule.metric)
            enough = f["rows"] >= rule.min_rows or rule.metric == "rows"
            out.append(
                Measurement(
                    domain, value if enough else None, f"{rule.metric} of {where} is {_number(value)}", ""
                )
            )
            continue
        for arm, a in f["arms"].items():
            if rule.arm not in ("", arm):
                continue
            value = a[rule.metric] if a["rows"] >= rule.min_rows else None
            out.append(
                Measurement(
                    f"{domain}:{arm}",
                    value,
                    f"{rule.metric} of {arm} on {where} is {_number(value)}",
                    _why(rule.metric, a),
                )
            )
    return out


def of_drift(
    rule: RuleSpec, what: str, table: Sequence[Row], marks: Sequence[Mapping[str, Any]]
) -> list[Measurement]:
    """Rows of the drift table that moved; those that did not are well."""
    out = []
    strongest = table[0] if table else None
    for row in table:
        f = row.finding
        if not row.moved or f.what != what or rule.domain not in ("any", row.domain, f.domain):
            continue
        cause = _CAUSES[f.what]
        if (
            strongest is not None
            and strongest is not row
            and (strongest.finding.what, strongest.finding.name) != (f.what, f.name)
        ):
            s = strongest.finding
            cause += f"; {s.what} {s.name} moved more (in {_NAMES[strongest.domain]})"
        near = [m["text"] for m in marks if row.since_ms and 0 <= row.since_ms - m["ts"] <= 86_400_000]
        if near:
            cause += f"; shortly after {near[-1]}"
        out.append(
            Measurement(
                f"{f.name}:{f.domain}",
                f.effect,
                f"{f.what} {f.name} has moved in {_NAMES[row.domain]}: {said(f)}",
                cause,
                row.since_ms,
            )
        )
    return out


def of_detectors(rule: RuleSpec, agreeing: Mapping[tuple[str, str, str], int]) -> list[Measurement]:
    """Share of the sequential detectors that saw a change in the last day."""
    return [
        Measurement(
            f"{domain}:{arm}:{signal}",
            n / 3,
            f"{n} of 3 detectors see a change of {signal} of {arm} on {_NAMES[domain]}",
            "a lasting change of level",
        )
        for (domain, arm, signal), n in agreeing.items()
        if rule.domain in ("any", domain) and rule.arm in ("", arm)
    ]


def of_transfer(rule: RuleSpec, now: Mapping[str, Any]) -> list[Measurement]:
    """The end of the interval that is nearest to 0: below 0 when A-CTR is proven worse."""
    gain = now["gauc"]
    if gain is None or now["rows"] < rule.min_rows:
        return [Measurement("gauc", None, "", "")]
    proven = gain["high"] if gain["high"] < 0 else max(gain["low"], 0.0)
    return [
        Measurement(
            "gauc",
            proven,
            f"A-CTR ranks ads worse than the ads-only control: GAUC {gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f}, {now['days']} days)",
            "what CPM hands on does not fit the ads: look at drift of natural content, and at the last release",
        )
    ]


def of_forgetting(rule: RuleSpec, worst: Mapping[str, tuple[float, str]]) -> list[Measurement]:
    """The lowest backward transfer, by arm."""
    return [
        Measurement(
            arm,
            value,
            f"{arm} has lost {-value:.3f} GAUC on rows of {period}",
            "what was learned since overwrote it: TPM vectors and a longer ad window keep it",
        )
        for arm, (value, period) in worst.items()
        if rule.arm in ("", arm)
    ]


def of_release(rule: RuleSpec, report: ReleaseReport | None) -> list[Measurement] | None:  # noqa: ARG001
    """1 when the gate refused the last release, with its figures; None: no release since the start."""
    if report is None:
        return None
    figures = ", ".join(f"{name} {value:+.4g}" for name, value in report.figures.items())
    return [
        Measurement(
            "gate",
            0.0 if report.accepted else 1.0,
            f"CPM release {report.number} was refused by the gate: {report.reason} ({figures})",
            "what natural content taught since the last release does not fit the ads: look at drift of natural content",
            report.clock_ms,
        )
    ]


def _why(metric: str, figures: Mapping[str, Any]) -> str:
    if metric == "pcoc" and figures["pcoc"] is not None:
        return f"predicted {figures['pcoc'] * figures['ctr']:.2%}, clicked {figures['ctr']:.2%}: the click rate moved faster than the model, or a release set the prior wrongly"
    return ""


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
