"""Settings of the monitor: windows, drift, forgetting, alert rules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ecdctr.events.time import check_above_zero
from ecdctr.state.settings import Section

__all__ = ["DriftSettings", "ProbeSettings", "RuleSpec", "WatchSettings", "default_rules"]

LENGTH = r"^\d+(s|m|h|d)$"
Interval = Annotated[str, Field(pattern=LENGTH), AfterValidator(check_above_zero)]
"""A duration in event time that is not zero."""


class RuleSpec(Section):
    """One alert rule: a metric, its window, its limits, and for how long they must be exceeded."""

    name: str = Field(min_length=1, description="Name of the alert.")
    metric: str = Field(
        description="Metric of a window (ctr, rows, late_share, unseen_users, unseen_items, tpm_share, log_loss, ne, pcoc, auc, "
        "gauc), or drift.feature, drift.label, drift.prediction, drift.behaviour, drift.detectors, transfer, forgetting, release."
    )
    window: Literal["5m", "1h", "1d"] = Field(default="1h", description="Window of event time.")
    domain: Literal["natural", "ad", "any"] = "any"
    arm: str = Field(default="", description="Arm that the metric belongs to; empty: any arm that has it.")
    above: float | None = Field(default=None, description="Raise the alert when the metric is above this.")
    below: float | None = Field(default=None, description="Raise the alert when the metric is below this.")
    hold: str = Field(
        default="0s",
        pattern=LENGTH,
        description="Event time for which the limit must be exceeded before the alert is raised.",
    )
    clear: str = Field(
        default="1h",
        pattern=LENGTH,
        description="Event time within the limits after which the alert is resolved.",
    )
    min_rows: int = Field(default=1000, ge=0, description="A window with fewer rows is not evaluated.")
    severity: Literal["info", "warning", "critical"] = "warning"


def default_rules() -> tuple[RuleSpec, ...]:
    """Rules that suit most streams."""
    return (
        RuleSpec(name="feature-drift", metric="drift.feature", clear="6h"),
        RuleSpec(name="label-drift", metric="drift.label", clear="6h"),
        RuleSpec(name="behaviour-drift", metric="drift.behaviour", clear="6h"),
        RuleSpec(name="miscalibrated-high", metric="pcoc", window="1d", domain="ad", above=1.5, hold="6h"),
        RuleSpec(name="miscalibrated-low", metric="pcoc", window="1d", domain="ad", below=0.67, hold="6h"),
        RuleSpec(name="negative-transfer", metric="transfer", below=0.0, hold="1d", clear="1d", domain="ad"),
        RuleSpec(name="forgetting", metric="forgetting", below=-0.05, clear="1d"),
        RuleSpec(name="release-refused", metric="release", clear="0s"),
    )


class DriftSettings(Section):
    """Comparison with a reference that is stored as sketches."""

    reference: str = Field(
        default="",
        description="Folder of a saved reference; empty: the first days of the stream become the reference.",
    )
    reference_length: Interval = Field(
        default="7d", description="Length of a reference that is collected from the stream."
    )
    every: Interval = Field(default="3h", description="Event time between comparisons.")
    compare_rows: int = Field(default=8192, ge=1, description="Minimum number of rows between comparisons.")
    natural_every: int = Field(default=4, ge=1, description="Only every n-th natural row is counted.")
    bins: int = Field(default=64, ge=8, le=1024, description="Bins of the histogram of a feature.")
    groups: int = Field(
        default=32,
        ge=8,
        le=64,
        description="Number of groups of users (and of items) from which the variance of histograms is estimated.",
    )
    alpha: float = Field(default=0.01, gt=0, lt=1, description="False discovery rate of one comparison.")
    psi: float = Field(
        default=0.1,
        gt=0,
        description="Smallest PSI, after subtraction of the value expected by chance, that is reported as drift of a feature (of the "
        "predictions: 2.5 times this value).",
    )
    label_ratio: float = Field(
        default=0.25,
        gt=0,
        description="Smallest |ln(CTR / reference CTR)| that is reported as drift, at the end of its interval that is nearer to 0.",
    )
    behaviour: float = Field(
        default=0.25,
        gt=0,
        description="Smallest change of ln(clicks / predicted clicks) of a segment (a bin of a feature) that is reported as drift; for "
        "the slope of clicks on predictions, twice this value.",
    )


class ProbeSettings(Section):
    """Probe slices: rows of earlier periods that are scored again at checkpoints to measure forgetting."""

    period: Interval = Field(
        default="7d", description="Length of the period of a probe slice, in event time."
    )
    periods: int = Field(default=8, ge=1, description="Number of periods whose probe slices are retained.")
    rows: int = Field(
        default=4096,
        ge=64,
        description="Maximum number of rows of a probe slice; a user's rows are retained completely or not at all.",
    )


class WatchSettings(Section):
    """What the monitor computes."""

    late_after: str = Field(
        default="5m", pattern=LENGTH, description="Rows this far behind the event clock are late."
    )
    gauc_rows: int = Field(
        default=65_536,
        ge=1024,
        description="Maximum number of rows that each window retains for GAUC; beyond it, a sample of users with all their rows.",
    )
    drift: DriftSettings = Field(default_factory=DriftSettings, description="Drift against a reference.")
    probes: ProbeSettings = Field(
        default_factory=ProbeSettings, description="Probe slices of earlier periods, for forgetting."
    )
    transfer_days: int = Field(
        default=7,
        ge=1,
        le=60,
        description="Event days over which the serving arm is compared with the ads-only control.",
    )
    rules: tuple[RuleSpec, ...] = Field(default_factory=default_rules, description="Alert rules.")
