"""Settings of the monitor's core: windows, drift, forgetting, alert rules."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ecdctr.state.settings import Section

__all__ = ["DriftSettings", "ProbeSettings", "RuleSpec", "WatchSettings", "default_rules"]

LENGTH = r"^\d+(s|m|h|d)$"


class RuleSpec(Section):
    """One alert rule: a figure, its window, what is too much, and for how long."""

    name: str = Field(min_length=1, description="Name of the alert.")
    metric: str = Field(
        description="Figure of a window (ctr, rows, late_share, unseen_users, unseen_items, tpm_share, log_loss, ne, pcoc, auc, "
        "gauc), or drift.feature, drift.label, drift.prediction, drift.behaviour, drift.detectors, transfer, forgetting, release."
    )
    window: Literal["5m", "1h", "1d"] = Field(default="1h", description="Window of event time.")
    domain: Literal["natural", "ad", "any"] = "any"
    arm: str = Field(default="", description="Arm whose figure is meant; empty: any arm that has it.")
    above: float | None = Field(default=None, description="Raise when the figure is above this.")
    below: float | None = Field(default=None, description="Raise when the figure is below this.")
    hold: str = Field(default="0s", pattern=LENGTH, description="... for so long in event time.")
    clear: str = Field(default="1h", pattern=LENGTH, description="Resolve after so long without cause.")
    min_rows: int = Field(default=1000, ge=0, description="Rows without which a window says nothing.")
    severity: Literal["info", "warning", "critical"] = "warning"


def default_rules() -> tuple[RuleSpec, ...]:
    """Rules that hold for most streams."""
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
    """Comparison with a reference that is kept as sketches."""

    reference: str = Field(
        default="", description="Folder of a saved reference; empty: the first days that are seen become one."
    )
    reference_length: str = Field(default="7d", pattern=LENGTH, description="Length of a gathered reference.")
    every: str = Field(default="3h", pattern=LENGTH, description="Event time between comparisons.")
    compare_rows: int = Field(default=8192, ge=1, description="Rows between comparisons, at least.")
    natural_every: int = Field(default=4, ge=1, description="Of natural rows each n-th is compared.")
    bins: int = Field(default=64, ge=8, le=1024, description="Bins of a feature's histogram.")
    groups: int = Field(
        default=32, ge=8, le=64, description="Groups of users (items) that tell the variance."
    )
    alpha: float = Field(default=0.01, gt=0, lt=1, description="False discovery rate of one comparison.")
    psi: float = Field(default=0.1, gt=0, description="PSI (beyond what chance gives) that counts.")
    label_ratio: float = Field(default=0.25, gt=0, description="|ln(CTR / reference CTR)| that counts.")
    behaviour: float = Field(default=0.25, gt=0, description="|ln| or slope change of a segment that counts.")


class ProbeSettings(Section):
    """Probe slices for the forgetting chart."""

    period: str = Field(default="7d", pattern=LENGTH, description="Event time of one slice.")
    periods: int = Field(default=8, ge=1, description="Slices kept, newest last.")
    rows: int = Field(default=4096, ge=64, description="Rows of a slice, by user.")


class WatchSettings(Section):
    """What is watched."""

    late_after: str = Field(default="5m", pattern=LENGTH, description="Rows this much behind are late.")
    gauc_rows: int = Field(default=65_536, ge=1024, description="Rows kept a window for GAUC, by user.")
    drift: DriftSettings = Field(default_factory=DriftSettings, description="Drift.")
    probes: ProbeSettings = Field(default_factory=ProbeSettings, description="Forgetting.")
    transfer_days: int = Field(default=7, ge=1, le=60, description="Days of the transfer figure.")
    rules: tuple[RuleSpec, ...] = Field(default_factory=default_rules, description="Alert rules.")
