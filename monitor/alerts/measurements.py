"""The metrics that alert rules compare with their limits, and the texts of the alerts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from ecdctr.events.time import DAY_MS
from ecdctr.models.training import ReleaseReport
from ecdctr.monitor.alerts.rules import Measurement
from ecdctr.monitor.drift import MAKERS, Detectors, DriftTableRow, describe
from ecdctr.monitor.marks import Mark
from ecdctr.monitor.quality import ArmFigures, DomainWindow, Forgetting, TransferFigures, WindowFigures
from ecdctr.monitor.settings import RuleSpec

__all__ = ["Inputs", "measure"]

_ARM_METRICS = ("log_loss", "ne", "pcoc", "auc", "gauc")
_NAMES = {"natural": "natural content", "ad": "ads", "both": "natural content and ads"}
_CAUSES = {
    "feature": "the traffic has changed, or the producer of this field",
    "label": "the click rate has changed; check click logging, placement and stock before looking for other causes",
    "prediction": "the distribution of the model's scores has changed: a release, or a change of its inputs",
    "behaviour": "users click differently in this segment than the model predicts, relative to the other segments",
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that rules can measure.

    Attributes
    ----------
    clock_ms
        Event time reached.
    windows
        By window and domain.
    drift
        The drift table; None: no comparison was made yet.
    detectors
        Sequential change detectors.
    transfer
        Returns the transfer metrics; called only if a rule needs them.
    forgetting
        Probe slices.
    release
        Report of the last CPM release; None: none since the start.
    marks
        Marks on the time axis; they are reported as possible causes of drift.
    """

    clock_ms: int
    windows: Mapping[str, Mapping[str, DomainWindow]]
    drift: Sequence[DriftTableRow] | None
    detectors: Detectors
    transfer: Callable[[], TransferFigures]
    forgetting: Forgetting
    release: ReleaseReport | None
    marks: Sequence[Mark]


def measure(rule: RuleSpec, inputs: Inputs) -> Sequence[Measurement] | None:
    """Measure the metric of a rule. None: it cannot be measured now, and the alerts of the rule do not change."""
    kind, _, what = rule.metric.partition(".")
    if kind == "drift" and what == "detectors":
        return _detectors(rule, inputs.detectors.agreeing(inputs.clock_ms, DAY_MS))
    if kind == "drift":
        return None if inputs.drift is None else _drift(rule, what, inputs.drift, inputs.marks)
    if kind == "transfer":
        return _transfer(rule, inputs.transfer())
    if kind == "release":
        return _release(inputs.release)
    if kind == "forgetting":
        return _forgetting(rule, inputs.forgetting.worst())
    return _window(rule, inputs.windows[rule.window], inputs.clock_ms)


def _window(rule: RuleSpec, by_domain: Mapping[str, DomainWindow], clock_ms: int) -> list[Measurement]:
    """A metric of a window, by domain (and arm)."""
    out = []
    for domain, window in by_domain.items():
        if rule.domain not in ("any", domain):
            continue
        figures = window.figures(clock_ms, auc=rule.metric == "auc", gauc=rule.metric == "gauc")
        where = f"{_NAMES[domain]}, {rule.window}"
        if rule.metric not in _ARM_METRICS:
            value = _domain_value(rule.metric, figures)
            enough = figures["rows"] >= rule.min_rows or rule.metric == "rows"
            text = f"{rule.metric} of {where} is {_number(value)}"
            out.append(Measurement(domain, value if enough else None, text, ""))
            continue
        for arm, f in figures["arms"].items():
            if rule.arm not in ("", arm):
                continue
            arm_value = _arm_value(rule.metric, f) if f["rows"] >= rule.min_rows else None
            text = f"{rule.metric} of {arm} on {where} is {_number(arm_value)}"
            out.append(Measurement(f"{domain}:{arm}", arm_value, text, _cause(rule.metric, f)))
    return out


def _domain_value(metric: str, figures: WindowFigures) -> float | None:
    if metric == "late_share" and figures["rows"]:
        return figures["late"] / figures["rows"]
    return cast("float | None", dict(figures).get(metric))


def _arm_value(metric: str, figures: ArmFigures) -> float | None:
    return cast("float | None", dict(figures)[metric])


def _drift(
    rule: RuleSpec, what: str, table: Sequence[DriftTableRow], marks: Sequence[Mark]
) -> list[Measurement]:
    """Rows of the drift table that are drift; a row that is not returned is within its limits."""
    out = []
    largest = table[0] if table else None
    for row in table:
        f = row.finding
        if not row.moved or f.what != what or rule.domain not in ("any", row.domain, f.domain):
            continue
        cause = _CAUSES[f.what]
        if (
            largest is not None
            and largest is not row
            and (largest.finding.what, largest.finding.name) != (f.what, f.name)
        ):
            s = largest.finding
            cause += f"; {s.what} {s.name} changed more (in {_NAMES[largest.domain]})"
        before = [m["text"] for m in marks if row.since_ms and 0 <= row.since_ms - m["ts"] <= DAY_MS]
        if before:
            cause += f"; shortly after {before[-1]}"
        text = f"{f.what} {f.name} has changed in {_NAMES[row.domain]}: {describe(f)}"
        out.append(Measurement(f"{f.name}:{f.domain}", f.effect, text, cause, row.since_ms))
    return out


def _detectors(rule: RuleSpec, agreeing: Mapping[tuple[str, str, str], int]) -> list[Measurement]:
    """Share of the sequential detectors that found a change in the last day."""
    return [
        Measurement(
            f"{domain}:{arm}:{signal}",
            n / len(MAKERS),
            f"{n} of {len(MAKERS)} detectors found a change of {signal} of {arm} on {_NAMES[domain]}",
            "a lasting change of level",
        )
        for (domain, arm, signal), n in agreeing.items()
        if rule.domain in ("any", domain) and rule.arm in ("", arm)
    ]


def _transfer(rule: RuleSpec, figures: TransferFigures) -> list[Measurement]:
    """The end of the interval that is nearest to 0: below 0 when A-CTR is significantly worse."""
    gain = figures["gauc"]
    if gain is None or figures["rows"] < rule.min_rows:
        return [Measurement("gauc", None, "", "")]
    value = gain["high"] if gain["high"] < 0 else max(gain["low"], 0.0)
    interval = f"{gain['low']:+.4f} to {gain['high']:+.4f}, {figures['days']} days"
    return [
        Measurement(
            "gauc",
            value,
            f"A-CTR ranks ads worse than the ads-only control: GAUC {gain['value']:+.4f} ({interval})",
            "what CPM transfers does not fit the ads: look at the drift of natural content, and at the last release",
        )
    ]


def _forgetting(rule: RuleSpec, worst: Mapping[str, tuple[float, str]]) -> list[Measurement]:
    """The lowest backward transfer, by arm."""
    return [
        Measurement(
            arm,
            value,
            f"{arm} has lost {-value:.3f} GAUC on rows of {period}",
            "it was overwritten by later training; TPM vectors and a longer ad window preserve it",
        )
        for arm, (value, period) in worst.items()
        if rule.arm in ("", arm)
    ]


def _release(report: ReleaseReport | None) -> list[Measurement] | None:
    """1 if the gate refused the last release, with the gate's metrics; None: no release since the start."""
    if report is None:
        return None
    figures = ", ".join(f"{name} {value:+.4g}" for name, value in report.figures.items())
    return [
        Measurement(
            "gate",
            0.0 if report.accepted else 1.0,
            f"CPM release {report.number} was refused by the gate: {report.reason} ({figures})",
            "what CPM learned from natural content since the last release does not fit the ads: look at the drift of natural content",
            report.clock_ms,
        )
    ]


def _cause(metric: str, figures: ArmFigures) -> str:
    if metric != "pcoc" or figures["pcoc"] is None:
        return ""
    predicted = figures["pcoc"] * figures["ctr"]
    return (
        f"predicted {predicted:.2%}, clicked {figures['ctr']:.2%}: the click rate changed faster than the model, or a release "
        "set a wrong prior"
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
