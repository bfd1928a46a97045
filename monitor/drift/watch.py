"""``DriftWatch``: compares the last day of each stream with a reference.

Results are sorted by effect, and p-values are corrected for the false discovery rate over all comparisons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.time import DAY_MS, HOUR_MS, duration_ms
from ecdctr.monitor.drift.reference import HOURS, Reference
from ecdctr.monitor.drift.results import DriftRow, DriftTable, ReferenceInfo
from ecdctr.monitor.drift.significance import Baseline, Finding, Thresholds, adjust, compare
from ecdctr.monitor.drift.sketches import Block, Sketch, make_layout
from ecdctr.monitor.settings import DriftSettings

__all__ = ["DriftTableRow", "DriftWatch", "describe", "format_minute"]

CTR_PRIOR_ROWS = 200
"""Weight, in rows, of the mean click rate as a prior for the click rate of each hour, so that an hour with few rows has a plausible rate."""

SUSPECT_P_VALUE, SUSPECT_EFFECT = 0.01, 0.25
"""Limits of a change that may be drift. They are weaker than those of drift, so that ``since`` is the beginning of a slow change."""


def format_minute(ms: int) -> str:
    """Format a time in ms as UTC date, hour and minute."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


@dataclass(slots=True)
class DriftTableRow:
    """One row of the drift table.

    Attributes
    ----------
    finding
        The comparison.
    domain
        ``natural``, ``ad``, or ``both`` if the change is in both domains.
    moved
        Whether the change is significant and large enough to be reported as drift.
    since_ms
        Event time since which it has been at least suspected, ms; None unless ``moved``.
    """

    finding: Finding
    domain: str
    moved: bool
    since_ms: int | None

    def to_json(self) -> DriftRow:
        f = self.finding
        text = describe(f)
        if self.domain == "both" and f.what == "feature":
            text += "; in both streams at once, so probably a change of a producer"
        return {
            "what": f.what,
            "name": f.name,
            "domain": self.domain,
            "effect": _finite(f.effect),
            "psi": _finite(f.psi),
            "js": _finite(f.js),
            "p_value": _finite(f.p_value),
            "q_value": _finite(f.q_value),
            "moved": self.moved,
            "since": self.since_ms,
            "description": text,
            "said": text,  # old name of description, for one version
        }


def _finite(v: float) -> float | None:
    return float(v) if math.isfinite(v) else None


def describe(f: Finding) -> str:
    """Text that describes the size of a change."""
    d = f.detail
    if f.what == "label":
        before, after = d["before"], d["after"]
        times = after / before if before else math.inf
        return f"CTR {before:.2%} -> {after:.2%} (x {times:.2f})"
    if f.what == "behaviour":
        where = f"segment {d['bin']} of {f.name}"
        if d["kind"] == "level":
            return f"observed / predicted clicks in {where} changed by a factor of {math.exp(d['change']):.2f}, relative to the other segments"
        inverted = " (preferences are inverted)" if d["change"] < -1 else ""
        return f"slope of clicks on predictions in {where}: {1 + d['change']:.2f} (reference: 1){inverted}"
    if "quantiles" in d:
        before, after = d["quantiles"]
        span = f"{before[0]:.3g} to {before[2]:.3g} -> {after[0]:.3g} to {after[2]:.3g}"
        return f"median {before[1]:.3g} -> {after[1]:.3g}, 5th to 95th percentile {span}"
    return f"share of bin {d['bin']}: {d['before']:.1%} -> {d['after']:.1%}"


@dataclass(slots=True)
class _Domain:
    """Histograms of the last day of one stream, by number of the time slot, and values computed from its reference."""

    slots: dict[int, Sketch] = field(default_factory=dict)
    baseline: Baseline | None = None


class DriftWatch:
    """Compares the last 24 hours of each domain with a reference, at the end of each time slot.

    1. If no reference is given, one is collected from the first ``reference_length`` of event time.
    2. Rows are added to the histograms of slots of length ``every``; the slots of one day are retained.
    3. A comparison is made at the end of a slot if at least ``compare_rows`` rows were added since the last attempt and the slots cover
       a full day. It covers all features, the label, the predictions and the behaviour of segments, in both domains, with one
       false discovery rate.

    A whole day is compared, so that the daily cycle of a stream is not reported as drift.

    Parameters
    ----------
    schema, settings
        The features; sizes and thresholds.
    reference
        Saved reference. Default: the one in ``settings.reference``; if that is empty, a reference is collected from the stream.

    Attributes
    ----------
    reference
        None before the first row, unless given.
    ready
        Whether the reference is complete.
    table
        Rows of the last comparison; see :func:`_sorted_table` for their order.
    evaluated_at
        Event time of the last comparison, ms; None before the first.
    """

    def __init__(
        self, schema: FeatureSchema, settings: DriftSettings, reference: Reference | None = None
    ) -> None:
        self.schema, self.settings = schema, settings
        if reference is None and settings.reference:
            reference = Reference.load(settings.reference, schema)
        self.reference = reference
        self.ready = reference is not None
        self.slot_ms = duration_ms(settings.every)
        self.slots = max(1, round(DAY_MS / self.slot_ms))
        self.evaluated_at: int | None = None
        self.table: list[DriftTableRow] = []
        self._domains: dict[str, _Domain] = {}
        # Event time since which a change has been suspected, by (what, name, domain).
        self._changed_since: dict[tuple[str, str, str], int] = {}
        self._slot = -1
        self._rows_since = 0
        self._limits = Thresholds(settings.psi, settings.label_ratio, settings.behaviour)
        self._length_ms = duration_ms(settings.reference_length)

    def resume(self, reference: Reference, *, ready: bool) -> None:
        """Continue with a reference that is complete (``ready``) or still being collected."""
        self.reference, self.ready = reference, ready

    def add(
        self,
        domain: str,
        batch: Batch,
        scored: NDArray[np.intp] | None = None,
        p: NDArray[np.float32] | None = None,
    ) -> None:
        """Add rows of one domain; ``p``: predictions of its first arm (cpm, actr) for the rows with the numbers ``scored``."""
        if not len(batch):
            return
        if self.reference is None:
            begin = int(batch.ts.min())
            self.reference = Reference(
                "first days of the stream", self.schema.fingerprint(), begin, begin + self._length_ms
            )
        self._rows_since += len(batch)
        d = self._domains.setdefault(domain, _Domain())
        sketch = self.reference.sketches.get(domain)
        if sketch is None:
            if self.ready:  # the reference has no rows of this domain
                return
            layout = make_layout(self.schema, self.settings.bins, batch, p)
            sketch = self.reference.sketches[domain] = Sketch.empty(layout, self.settings.groups)
        every = self.settings.natural_every if domain == "natural" else 1
        block = Block.make(sketch.layout, sketch.groups, batch, scored, p, every)
        if not self.ready:
            self._collect(domain, sketch, batch, block)
        first, last = int(batch.ts.min()) // self.slot_ms, int(batch.ts.max()) // self.slot_ms
        for s in range(max(first, self._slot - self.slots + 1), last + 1):
            part = block.take(s * self.slot_ms, (s + 1) * self.slot_ms)
            if len(part.label) or len(part.predicted):
                d.slots.setdefault(s, Sketch.empty(sketch.layout, sketch.groups, np.float32)).add(part)

    def _collect(self, domain: str, sketch: Sketch, batch: Batch, block: Block) -> None:
        assert self.reference is not None
        until = self.reference.until_ms
        sketch.add(block.take(0, until))
        early = batch.ts < until
        if not early.any():
            return
        ts = batch.ts[early]
        sketch.first_ms = sketch.first_ms or int(ts.min())
        sketch.last_ms = max(sketch.last_ms, int(ts.max()))
        hour = ts // HOUR_MS % HOURS
        hours = self.reference.hours.setdefault(domain, np.zeros((2, HOURS)))
        hours[0] += np.bincount(hour, weights=batch.label[early], minlength=HOURS)
        hours[1] += np.bincount(hour, minlength=HOURS)

    def advance(self, clock_ms: int) -> bool:
        """Advance event time to ``clock_ms``; return whether a comparison was made."""
        slot = clock_ms // self.slot_ms
        if self.reference is None or slot <= self._slot:
            return False
        first = self._slot < 0
        self._slot = slot
        for d in self._domains.values():
            for s in [s for s in d.slots if s < slot - self.slots]:
                del d.slots[s]
        if not self.ready and clock_ms >= self.reference.until_ms:
            self.ready = True
        if first or not self.ready or self._rows_since < self.settings.compare_rows:
            return False
        self._rows_since = 0
        return self._evaluate(slot * self.slot_ms)

    def _evaluate(self, now_ms: int) -> bool:
        """Compare the day that ends at ``now_ms``, from the slots that :meth:`advance` retained."""
        assert self.reference is not None
        found: list[Finding] = []
        full = now_ms // self.slot_ms
        for domain, d in self._domains.items():
            reference = self.reference.sketches.get(domain)
            slots = [s for s in d.slots if full - self.slots <= s < full]
            if reference is None or not slots or min(slots) > full - self.slots:
                continue
            day = Sketch.empty(reference.layout, reference.groups, np.float32)
            for s in slots:
                day.merge(d.slots[s])
            if d.baseline is None:
                d.baseline = Baseline(reference)
            found += compare(d.baseline, day, domain, self._limits)
        if not found:
            return False
        q_values = adjust(np.asarray([f.p_value for f in found]))
        rows = []
        for f, q in zip(found, q_values, strict=True):
            f.q_value = float(q)
            key = (f.what, f.name, f.domain)
            if f.p_value < SUSPECT_P_VALUE and f.effect > SUSPECT_EFFECT:
                since = self._changed_since.setdefault(key, self.evaluated_at or now_ms - self.slot_ms)
            else:
                self._changed_since.pop(key, None)
                since = now_ms
            moved = f.q_value <= self.settings.alpha and f.effect >= 1
            rows.append(DriftTableRow(f, f.domain, moved, since if moved else None))
        self.table = _sorted_table(rows)
        self.evaluated_at = now_ms
        return True

    def hourly_ctr(self, domain: str) -> NDArray[np.float64] | None:
        """Click rate of the reference by hour of the day (UTC), shape ``(24,)``.

        None if the reference is not complete or has no rows of this domain.
        """
        hours = None if self.reference is None or not self.ready else self.reference.hours.get(domain)
        if hours is None:
            return None
        mean = hours[0].sum() / max(float(hours[1].sum()), 1.0)
        rate: NDArray[np.float64] = (hours[0] + CTR_PRIOR_ROWS * mean) / (hours[1] + CTR_PRIOR_ROWS)
        return np.clip(rate, 1e-6, 1 - 1e-6)

    def to_json(self) -> DriftTable:
        """The section ``drift`` of ``Monitor.snapshot``, without the detectors."""
        none: ReferenceInfo = {
            "name": "",
            "from": None,
            "until": None,
            "rows": {"natural": 0, "ad": 0},
            "ready": False,
        }
        return {
            "reference": none if self.reference is None else self.reference.about(ready=self.ready),
            "evaluated_at": self.evaluated_at,
            "table": [r.to_json() for r in self.table],
        }


def _sorted_table(rows: list[DriftTableRow]) -> list[DriftTableRow]:
    """Sort the rows: drift first, then by effect. A change in both domains becomes one row with the values of the larger one.

    If the behaviour of a segment changed, it is listed before the change of the click rate that it causes.
    """
    by_name: dict[tuple[str, str], list[DriftTableRow]] = {}
    out = []
    explained = any(r.moved and r.finding.what == "behaviour" for r in rows)

    def order(r: DriftTableRow) -> tuple[bool, bool, float, float]:
        is_consequence = explained and r.finding.what == "label"
        return (not r.moved, is_consequence, -r.finding.effect, r.finding.p_value)

    for row in sorted(rows, key=order):
        if row.moved:
            same = by_name.setdefault((row.finding.what, row.finding.name), [])
            same.append(row)
            if len(same) > 1:
                same[0].domain = "both"
                continue
        out.append(row)
    return out
