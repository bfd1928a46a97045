"""Two sketches against each other: what moved, by how much, and whether chance can explain it.

Distributions (features, label, prediction): with shares ``p`` (reference) and ``q`` (now), the statistic is
``T = sum (q - p)^2 / m``, ``m`` their mean. Its covariance under "nothing changed but who came and what was shown" comes from the
groups of users and of items: each group is compared with itself (linearised, as for ratios of cluster totals), and how
differently the groups moved tells how far the whole moves by chance. ``T / E[T]`` is referred to an F distribution with
Satterthwaite's degrees of freedom. The click rate is compared on the scale of ratios, by users alone.
This is the second-order correction of Rao and Scott, "On chi-squared tests for multiway contingency tables" (Annals of
Statistics, 1984). Without it the dependence of a user's rows passes for drift.

Behaviour (of a segment, that is a cell of a feature): two figures that ask whether clicks still follow predictions there as they
do elsewhere. The level is ``ln(clicks / predicted)``, the slope that of a regression of the residual on the centred logit (-2: the
segment's likes have turned round). Both relative to the whole domain, now against the reference, studentised by the same groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ecdctr.monitor.drift.bins import LABEL, PREDICTION, Cells
from ecdctr.monitor.drift.sketches import Sketch

__all__ = ["Baseline", "Finding", "Thresholds", "adjust", "compare"]

Floats = NDArray[np.float64]
FEWEST_CLICKS = 20
"""Clicks (seen, and predicted) that a segment needs on both sides."""

SMALL = 0.25
"""Share of a threshold below which the exact p-value is of no interest."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on a difference counts."""

    psi: float = 0.1
    label_ratio: float = 0.25
    behaviour: float = 0.25


@dataclass(slots=True)
class Finding:
    """One thing that was compared.

    Attributes
    ----------
    what, name
        ``feature``, ``label``, ``prediction`` or ``behaviour``; and of which feature.
    effect
        In units of the threshold at which it counts, beyond what chance explains.
    psi, js
        Population stability index and Jensen-Shannon divergence (nats); NaN for behaviour.
    p_value, q_value
        Against "another draw of users and items"; ``q_value`` controls the false discovery rate over all findings of
        a comparison.
    detail
        Numbers for the words: the shift, the segment.
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
    """Benjamini and Hochberg's adjusted p-values: the false discovery rate at which each would be called.

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
    """A reference with what every comparison needs of it, computed once."""

    sketch: Sketch

    @cached_property
    def index(self) -> NDArray[np.intp]:
        """Cell numbers by (column, place)."""
        return _padded(self.sketch.cells)[0]

    @cached_property
    def shares(self) -> tuple[Floats, Floats, Floats]:
        """Rows, shares, and the groups' influence on them."""
        return _shares(_by_column(self.sketch, self.index), self.sketch.groups)

    @cached_property
    def segments(self) -> _Segments:
        """Level and slope of every cell."""
        return _segments(self.sketch)


def compare(
    reference: Sketch | Baseline,
    now: Sketch,
    domain: str,
    thresholds: Thresholds | None = None,
    *,
    behaviour: bool = True,
) -> list[Finding]:
    """Everything that two sketches of one layout can tell; ``q_value`` is the caller's, over all domains."""
    limits = thresholds or Thresholds()
    base = reference if isinstance(reference, Baseline) else Baseline(reference)
    found = _distributions(base, now, domain, limits)
    if behaviour:
        found += _behaviours(base, now, domain, limits)
    return found


def _padded(cells: Cells) -> tuple[NDArray[np.intp], int]:
    """Cell numbers by (column, place); places that a column lacks point behind the last cell."""
    width = max(c.size for c in cells.columns)
    index = np.full((len(cells.columns), width), cells.total, np.intp)
    for i, c in enumerate(cells.columns):
        index[i, : c.size] = np.arange(c.offset, c.offset + c.size)
    return index, width


def _by_column(sketch: Sketch, index: NDArray[np.intp]) -> Floats:
    """Counts as ``(columns, 2 G, places)``."""
    wide = sketch.counts.reshape(2 * sketch.groups, -1).astype(np.float64)
    wide[:, -1] = 0  # rows that belong nowhere; places that a column lacks point there
    return np.ascontiguousarray(wide[:, index].transpose(1, 0, 2))


def _shares(by_group: Floats, groups: int) -> tuple[Floats, Floats, Floats]:
    """Rows, shares ``(columns, places)``, and the groups' influence on the shares ``(columns, 2 G, places)``."""
    cell = by_group[:, :groups].sum(1)
    rows = cell.sum(1, keepdims=True)
    share = cell / np.maximum(rows, 1)
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
    # Degrees of freedom cost most: where the effect is far below any threshold one is enough (the most careful).
    dof = np.ones(len(trace))
    close = (psi - trace > SMALL * limits.psi) & (trace > 0)
    if close.any():
        dof[close] = trace[close] ** 2 / _squared(w[close], g)
    p_value = special.fdtrc(dof, dof * (g - 1), ratio)
    out = []
    for i, column in enumerate(reference.cells.columns):
        if min(rows_p[i], rows_q[i]) < 1:
            continue
        excess = max(0.0, float(psi[i] - trace[i]))
        detail: dict[str, Any] = {"expected_psi": float(trace[i])}
        if column.what == LABEL:
            before, after = float(p[i, 1]), float(q[i, 1])
            detail |= {"before": before, "after": after}
            if min(before, after) <= 0:
                continue  # a ratio to nothing
            # On the scale of ratios, where items of high and of low click rate move alike.
            moved = math.log(after / before)
            # By users alone: that other items are shown is a reason for a click rate to move, no excuse.
            noise = math.sqrt(float(((v[i, :g, 1] / after - u[i, :g, 1] / before) ** 2).sum()))
            p_value[i] = 2 * special.stdtr(g - 1, -abs(moved) / noise) if noise else 1.0
            certain = max(0.0, abs(moved) - 2 * noise)  # the end of its interval that is nearer to no change
            effect = certain / limits.label_ratio
        else:
            effect = excess / (limits.psi if column.what == "feature" else 2.5 * limits.psi)
            gain = q[i, : column.size] - p[i, : column.size]
            k = int(np.abs(gain).argmax())
            detail |= {"cell": k, "before": float(p[i, k]), "after": float(q[i, k])}
            if i >= reference.cells.features - len(reference.cells.numeric) and column.what == "feature":
                j = i - (reference.cells.features - len(reference.cells.numeric))
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


def _squared(w: Floats, g: int) -> Floats:
    """``tr((w' w)^2)`` of each column. Products small enough that BLAS does not wake threads for them (ours are training)."""
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
    """Level and slope of every cell relative to the whole, with the groups' influence on them ``(2 G, C)``."""
    g = sketch.groups
    features = sketch.cells.columns[: sketch.cells.features]
    # A bag counts a row in several cells: totals are each feature's own.
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
    for (
        column
    ) in features:  # the median: one segment that turned round must not bend the measure of the others
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
    for column in reference.cells.columns[: reference.cells.features]:
        part = slice(column.offset, column.offset + column.size)
        tests = 2 * int(usable[part].sum())
        if tests < 4:
            continue  # nothing to be different from
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
                    "cell": int(k),
                    "kind": ("level", "slope")[int(kind)],
                    "change": float(change),
                    "t": best,
                },
            )
        )
    return out
