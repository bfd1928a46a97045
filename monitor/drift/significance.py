"""Comparison of two sketches: size and significance of the change of each feature, label, prediction and segment.

Distributions (features, label, prediction): with shares ``p`` (reference) and ``q`` (now), the statistic is
``T = sum (q - p)^2 / m``, ``m`` their mean. Its covariance under "only the sample of users and items
changed" is estimated from the groups of users and of items: each group is compared with itself (linearised, as for ratios of cluster
totals), and the spread of these differences estimates the change of the whole that is due to chance. ``T / E[T]`` is referred to an F distribution with
Satterthwaite's degrees of freedom. The click rate is compared as a ratio, and its variance is estimated from the groups of users alone.
This is the second-order correction of Rao and Scott, "On chi-squared tests for multiway contingency tables" (Annals of
Statistics, 1984). Without it the dependence between rows of a user is reported as drift.

Behaviour (of a segment, that is a bin of a feature): two values that measure whether clicks depend on predictions in the segment as
they do elsewhere. The level is ``ln(clicks / predicted)``, the slope is that of a regression of the residual on the centred logit (-2: the
segment's preferences are inverted). Both are relative to the whole domain, compared with the reference, and studentised by the same groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ecdctr.monitor.drift.bins import LABEL, PREDICTION, BinLayout
from ecdctr.monitor.drift.sketches import Sketch

__all__ = ["Baseline", "Finding", "Thresholds", "adjust", "compare"]

Floats = NDArray[np.float64]
FEWEST_CLICKS = 20
"""Observed and predicted clicks that a segment needs in both sketches."""

SMALL = 0.25
"""Share of a threshold below which the exact p-value does not matter."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Sizes from which a significant change is drift."""

    psi: float = 0.1
    label_ratio: float = 0.25
    behaviour: float = 0.25


@dataclass(slots=True)
class Finding:
    """The comparison of one feature, label, prediction or segment.

    Attributes
    ----------
    what, name
        ``feature``, ``label``, ``prediction`` or ``behaviour``; name of the feature.
    effect
        Size in excess of chance, in units of the threshold for drift.
    psi, js
        Population stability index and Jensen-Shannon divergence (nats); NaN for behaviour.
    p_value, q_value
        Under the hypothesis of another sample of users and items; ``q_value`` controls the false discovery rate over all findings of
        a comparison.
    detail
        Numbers for the description: the shift, the segment.
    """

    what: str
    name: str
    domain: str
    effect: float
    psi: float
    js: float
    p_value: float
    q_value: float = 1.0
    detail: dict[str, Any] = field(default_factory=dict)


def adjust(p: Floats) -> Floats:
    """Benjamini and Hochberg's adjusted p-values: the false discovery rate at which each would be reported.

    >>> adjust(np.array([0.01, 0.02, 0.03, 0.5])).round(3).tolist()
    [0.04, 0.04, 0.04, 0.5]
    """
    n = len(p)
    order = np.argsort(p)
    scaled = p[order] * n / np.arange(1, n + 1)
    out = np.empty(n)
    out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return out


@dataclass(eq=False)
class Baseline:
    """A reference, with quantities that are computed once for all comparisons."""

    sketch: Sketch

    @cached_property
    def index(self) -> NDArray[np.intp]:
        """Bin numbers by (column, place)."""
        return _padded(self.sketch.layout)[0]

    @cached_property
    def shares(self) -> tuple[Floats, Floats, Floats]:
        """Rows, shares, and the influence of the groups on them."""
        return _shares(_by_column(self.sketch, self.index), self.sketch.groups)

    @cached_property
    def segments(self) -> _Segments:
        """Level and slope of each bin."""
        return _segments(self.sketch)


def compare(
    reference: Sketch | Baseline,
    now: Sketch,
    domain: str,
    thresholds: Thresholds | None = None,
    *,
    behaviour: bool = True,
) -> list[Finding]:
    """Compare two sketches of one layout; the caller sets ``q_value``, over all domains."""
    limits = thresholds or Thresholds()
    base = reference if isinstance(reference, Baseline) else Baseline(reference)
    found = _distributions(base, now, domain, limits)
    if behaviour:
        found += _behaviours(base, now, domain, limits)
    return found


def _padded(layout: BinLayout) -> tuple[NDArray[np.intp], int]:
    """Bin numbers by (column, place); places beyond the size of a column refer to the extra bin after the last one."""
    width = max(c.size for c in layout.columns)
    index = np.full((len(layout.columns), width), layout.total, np.intp)
    for i, c in enumerate(layout.columns):
        index[i, : c.size] = np.arange(c.offset, c.offset + c.size)
    return index, width


def _by_column(sketch: Sketch, index: NDArray[np.intp]) -> Floats:
    """Counts as ``(columns, 2 G, places)``."""
    wide = sketch.counts.reshape(2 * sketch.groups, -1).astype(np.float64)
    wide[:, -1] = 0  # values that are not counted; places beyond the size of a column refer to it
    return np.ascontiguousarray(wide[:, index].transpose(1, 0, 2))


def _shares(by_group: Floats, groups: int) -> tuple[Floats, Floats, Floats]:
    """Rows, shares ``(columns, places)``, and the influence of the groups on the shares ``(columns, 2 G, places)``."""
    count = by_group[:, :groups].sum(1)
    rows = count.sum(1, keepdims=True)
    share = count / np.maximum(rows, 1)
    size = by_group.sum(2, keepdims=True)
    influence = (by_group - size * share[:, None, :]) / np.maximum(rows, 1)[:, :, None]
    return rows[:, 0], share, influence * math.sqrt(groups / (groups - 1))


def _distributions(base: Baseline, now: Sketch, domain: str, limits: Thresholds) -> list[Finding]:
    reference = base.sketch
    g = reference.groups
    index = base.index
    rows_p, p, u = base.shares
    rows_q, q, v = _shares(_by_column(now, index), g)
    middle = (p + q) / 2
    scale = np.where(middle > 0, 1 / np.sqrt(np.maximum(middle, 1e-12)), 0.0)
    w = (v - u) * scale[:, None, :]
    # tr(C) and tr(C^2) of the covariance C = w' w; squared entries of w' w are those of w w'.
    trace = np.einsum("fgk,fgk->f", w, w)
    statistic = ((q - p) ** 2 * scale**2).sum(1)
    ratio = np.divide(statistic, trace, out=np.zeros_like(trace), where=trace > 0)
    tiny = 0.5 / np.maximum(np.minimum(rows_p, rows_q), 1)[:, None]
    a, b = p + np.where(middle > 0, tiny, 0), q + np.where(middle > 0, tiny, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        psi = np.where(middle > 0, (b - a) * np.log(b / a), 0).sum(1)
        m = (a + b) / 2
        js = np.where(middle > 0, a * np.log(a / m) + b * np.log(b / m), 0).sum(1) / 2
    # Degrees of freedom are the costliest part: far below any threshold, one (the most conservative value) is enough.
    dof = np.ones(len(trace))
    close = (psi - trace > SMALL * limits.psi) & (trace > 0)
    if close.any():
        dof[close] = trace[close] ** 2 / _squared(w[close], g)
    p_value = special.fdtrc(dof, dof * (g - 1), ratio)
    out = []
    for i, column in enumerate(reference.layout.columns):
        if min(rows_p[i], rows_q[i]) < 1:
            continue
        excess = max(0.0, float(psi[i] - trace[i]))
        detail: dict[str, Any] = {"expected_psi": float(trace[i])}
        if column.what == LABEL:
            before, after = float(p[i, 1]), float(q[i, 1])
            detail |= {"before": before, "after": after}
            certain, p_value[i] = _label_change(
                (before, after), (rows_p[i], rows_q[i]), (u[i, :g, 1], v[i, :g, 1]), g - 1
            )
            effect = certain / limits.label_ratio
        else:
            effect = excess / (limits.psi if column.what == "feature" else 2.5 * limits.psi)
            gain = q[i, : column.size] - p[i, : column.size]
            k = int(np.abs(gain).argmax())
            detail |= {"bin": k, "before": float(p[i, k]), "after": float(q[i, k])}
            if i >= reference.layout.features - len(reference.layout.numeric) and column.what == "feature":
                j = i - (reference.layout.features - len(reference.layout.numeric))
                detail |= _quantiles(reference.quantiles[j], now.quantiles[j])
        what = column.what if column.what in (LABEL, PREDICTION) else "feature"
        out.append(
            Finding(
                what,
                column.name,
                domain,
                effect,
                float(psi[i]),
                float(js[i]),
                float(p_value[i]),
                detail=detail,
            )
        )
    return out


def _label_change(
    rates: tuple[float, float], rows: tuple[float, float], influence: tuple[Floats, Floats], dof: int
) -> tuple[float, float]:
    """Logarithm of the ratio of two click rates, up to the end of its 95% interval that is nearer to no change, and its p-value.

    As a ratio, so that items with high and with low click rates change alike. The variance is from users alone: other items being
    shown is a cause of a changed click rate, not sampling noise.

    A rate of 0 has no logarithm and no spread, although clicks that end are the largest change there is. Then the clicks that the
    other rate leads to expect, divided by its design effect (the variance by users over that of a Poisson count), are compared
    with a Poisson count of 0, whose upper limit at 95% is 3 ("rule of three").
    """
    before, after = rates
    u, v = influence
    if min(before, after) > 0:
        moved = math.log(after / before)
        noise = math.sqrt(float(((v / after - u / before) ** 2).sum()))
        p_value = 2 * float(special.stdtr(dof, -abs(moved) / noise)) if noise else 1.0
        return max(0.0, abs(moved) - 2 * noise), p_value
    if max(before, after) <= 0:
        return 0.0, 1.0
    known, spread, seen = (before, u, 0) if before > 0 else (after, v, 1)
    design = max(1.0, float(((spread / known) ** 2).sum()) * known * rows[seen])
    expected = known * rows[1 - seen] / design
    return max(0.0, math.log(max(expected, 1e-9) / 3)), math.exp(-expected)


def _squared(w: Floats, g: int) -> Floats:
    """``tr((w' w)^2)`` of each column. The products are small, so that BLAS starts no threads; training needs the cores."""
    parts = w.reshape(len(w), -1, g // 2 if g % 2 == 0 else g, w.shape[2])
    product = np.matmul(parts.transpose(0, 1, 3, 2), parts).sum(1)
    return np.asarray(np.einsum("fkl,fkl->f", product, product))


def _quantiles(before: Any, after: Any) -> dict[str, Any]:
    if before.is_empty() or after.is_empty():
        return {}
    ranks = [0.05, 0.5, 0.95]
    return {"quantiles": [before.get_quantiles(ranks), after.get_quantiles(ranks)]}


@dataclass(frozen=True, slots=True)
class _Segments:
    level: Floats
    slope: Floats
    level_influence: Floats
    slope_influence: Floats
    enough: NDArray[np.bool_]


def _segments(sketch: Sketch) -> _Segments:
    """Level and slope of each bin relative to the whole, with the influence of the groups on them ``(2 G, C)``."""
    g = sketch.groups
    features = sketch.layout.columns[: sketch.layout.features]
    # A multi-valued feature counts a row in several bins, so each feature has its own totals.
    starts = np.asarray([c.offset for c in features], np.intp)
    sizes = np.asarray([c.size for c in features])
    behaviour = sketch.behaviour[:, :, :, : int(starts[-1] + sizes[-1])].astype(np.float64)
    sums = behaviour[0].sum(1)
    y, p, yl, pl, qll = sums
    total = np.repeat(np.add.reduceat(sums, starts, axis=1), sizes, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = total[0] / total[1]
        level = np.log(y / (rho * p))
        slope = (yl - rho * pl) / qll
        groups = behaviour.transpose(1, 0, 2, 3)
        gy, gp, gyl, gpl, gqll = groups.reshape(len(groups), 2 * g, -1)
        spread = math.sqrt(g / (g - 1))
        level_influence = spread * (gy / y - gp / p)
        slope_influence = spread * (gyl - rho * gpl - slope * gqll) / qll
    enough = (y >= FEWEST_CLICKS) & (p >= FEWEST_CLICKS)
    # The median is robust: one inverted segment must not distort the slopes of the others.
    for column in features:
        part = slice(column.offset, column.offset + column.size)
        if enough[part].any():
            slope[part] -= np.median(slope[part][enough[part]])
    return _Segments(level, slope, level_influence, slope_influence, enough)


def _behaviours(base: Baseline, now: Sketch, domain: str, limits: Thresholds) -> list[Finding]:
    reference = base.sketch
    if not (reference.behaviour[0, 1].any() and now.behaviour[0, 1].any()):
        return []
    before, after = base.segments, _segments(now)
    usable = before.enough & after.enough
    g = reference.groups
    out = []
    with np.errstate(divide="ignore", invalid="ignore"):
        level, slope = after.level - before.level, after.slope - before.slope
        level_se = np.sqrt(((after.level_influence - before.level_influence) ** 2).sum(0))
        slope_se = np.sqrt(((after.slope_influence - before.slope_influence) ** 2).sum(0))
        t = np.stack([np.abs(level) / level_se, np.abs(slope) / slope_se])
    t = np.where(usable & np.isfinite(t), t, 0.0)
    for column in reference.layout.columns[: reference.layout.features]:
        part = slice(column.offset, column.offset + column.size)
        tests = 2 * int(usable[part].sum())
        if tests < 4:
            continue  # there is no other segment to compare with
        kind, k = np.unravel_index(int(t[:, part].argmax()), t[:, part].shape)
        best = float(t[kind, column.offset + k])
        p_value = min(1.0, tests * 2 * float(special.stdtr(g - 1, -best)))
        change = (level, slope)[int(kind)][column.offset + k]
        error = (level_se, slope_se)[int(kind)][column.offset + k]
        certain = max(0.0, abs(float(change)) - 2 * float(error))
        limit = limits.behaviour if kind == 0 else 2 * limits.behaviour
        out.append(
            Finding(
                "behaviour",
                column.name,
                domain,
                certain / limit,
                math.nan,
                math.nan,
                p_value,
                detail={
                    "bin": int(k),
                    "kind": ("level", "slope")[int(kind)],
                    "change": float(change),
                    "t": best,
                },
            )
        )
    return out
