"""Scored rows -> figures: totals, days, differences between arms, calibration; plain data, ready for JSON."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.batch import DOMAIN_NAMES
from replay.bootstrap import gauc_difference, gauc_interval
from replay.metrics import calibration_curve, rela_impr, summary

__all__ = ["ORACLE", "ReplayResult", "evaluate"]

DAY_MS = 86_400_000
ORACLE = "oracle"
"""Name under which a simulator's true probabilities stand beside the arms."""

ReplayResult = dict[str, Any]
"""See :func:`evaluate`."""


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows of one domain that every arm scored."""

    ts: NDArray[np.int64]
    user: NDArray[Any]
    label: NDArray[Any]
    list_id: NDArray[Any] | None
    scores: dict[str, NDArray[Any]]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> _Rows:
        return _Rows(
            self.ts[rows],
            self.user[rows],
            self.label[rows],
            None if self.list_id is None else self.list_id[rows],
            {arm: p[rows] for arm, p in self.scores.items()},
        )


def evaluate(
    columns: Mapping[str, NDArray[Any]],
    arms: Sequence[str],
    *,
    base: str = "ads_only",
    samples: int = 1000,
    day_samples: int = 200,
    seed: int = 0,
) -> ReplayResult:
    """Every figure of a replay. All arms of a domain are judged on the identical rows.

    Parameters
    ----------
    columns
        Scored rows: ``ts`` (ms), ``domain`` (0 natural, 1 ad), ``user``, ``label``, ``p_<arm>`` (NaN where the arm
        did not score the row), and, if known, ``list_id`` (0: none) and ``oracle`` (NaN: unknown). Shape
        ``(n,)`` each, any order.
    arms
        Names of the arms; one that scored no row of a domain does not appear there.
    base
        The arm that the others are compared with; where it is absent, the first one that is there.
    samples, day_samples
        Bootstrap draws for the whole, and for a day.
    seed
        Of the bootstrap.

    Returns
    -------
    dict
        ``totals[domain][arm]``
            As :func:`replay.metrics.summary`, and the bounds of GAUC, ``gauc_low, gauc_high`` (95 %).
        ``days[domain]``
            A list, oldest first, of ``{day, n, arms, differences}``: the same for the rows of one UTC day.
        ``differences[domain][arm]``
            GAUC minus that of ``base[domain]``: ``value, low, high`` (95 %, paired over users) and ``rela_impr``.
        ``calibration[domain][arm]``
            ``predicted, observed, rows`` of twenty groups of equally many rows.
        ``left_out[domain]``
            Rows that only some of the arms scored.

        Domains are "natural" and "ad"; one without scored rows is absent. The oracle, where it is known, stands beside
        the arms.

    Examples
    --------
    >>> columns = {"ts": np.zeros(4, int), "domain": np.ones(4, int), "user": np.array([1, 1, 2, 2])}
    >>> columns |= {"label": np.array([1, 0, 1, 0]), "p_a": np.array([0.9, 0.1, 0.2, 0.8])}
    >>> result = evaluate(columns, ["a"])
    >>> result["totals"]["ad"]["a"]["gauc"], result["days"]["ad"][0]["day"]
    (0.5, '1970-01-01')
    """
    out: ReplayResult = {"arms": list(arms)}
    out |= {k: {} for k in ("base", "left_out", "totals", "differences", "days", "calibration")}
    for number, domain in enumerate(DOMAIN_NAMES):
        found = _common_rows(columns, arms, number)
        if found is None:
            continue
        rows, out["left_out"][domain] = found
        reference = base if base in rows.scores else next(iter(rows.scores))
        out["base"][domain] = reference
        out["totals"][domain], out["differences"][domain] = _figures(rows, reference, samples, seed)
        out["days"][domain] = _days(rows, reference, day_samples, seed)
        out["calibration"][domain] = {arm: _curve(rows.label, p) for arm, p in rows.scores.items()}
    return out


def _common_rows(
    columns: Mapping[str, NDArray[Any]], arms: Sequence[str], domain: int
) -> tuple[_Rows, int] | None:
    here = columns["domain"] == domain
    scores = {arm: columns[f"p_{arm}"][here] for arm in arms if f"p_{arm}" in columns}
    scored = {arm: ~np.isnan(p) for arm, p in scores.items()}
    scores = {arm: p for arm, p in scores.items() if scored[arm].any()}
    if not scores:
        return None
    common = np.logical_and.reduce([scored[arm] for arm in scores])
    some = np.logical_or.reduce([scored[arm] for arm in scores])
    if "oracle" in columns and not np.isnan(columns["oracle"][here][common]).any():
        scores[ORACLE] = columns["oracle"][here]
    lists = columns["list_id"][here] if "list_id" in columns else None
    if lists is not None and not lists.any():
        lists = None
    rows = _Rows(columns["ts"][here], columns["user"][here], columns["label"][here], lists, scores)
    return rows.take(common), int(some.sum() - common.sum())


def _figures(
    rows: _Rows, reference: str, samples: int, seed: int
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, float]]]:
    """Metrics of each arm, and its GAUC difference to the reference."""
    totals, differences = {}, {}
    for arm, p in rows.scores.items():
        totals[arm] = summary(rows.label, p, rows.user, rows.list_id)
        interval = gauc_interval(rows.label, p, rows.user, samples=samples, seed=seed)
        totals[arm] |= {"gauc_low": interval.low, "gauc_high": interval.high}
    for arm, p in rows.scores.items():
        if arm in (reference, ORACLE):
            continue
        gain = gauc_difference(rows.label, p, rows.scores[reference], rows.user, samples=samples, seed=seed)
        differences[arm] = asdict(gain)
        differences[arm]["rela_impr"] = rela_impr(totals[arm]["gauc"], totals[reference]["gauc"])
    return totals, differences


def _days(rows: _Rows, reference: str, samples: int, seed: int) -> list[dict[str, Any]]:
    day = rows.ts // DAY_MS
    order = np.argsort(day, kind="stable")
    rows, day = rows.take(order), day[order]
    edge = [0, *(np.flatnonzero(np.diff(day)) + 1).tolist(), len(day)] if len(day) else []
    out = []
    for first, end in pairwise(edge):
        arms, differences = _figures(rows.take(slice(first, end)), reference, samples, seed)
        date = (dt.date(1970, 1, 1) + dt.timedelta(days=int(day[first]))).isoformat()
        out.append({"day": date, "n": end - first, "arms": arms, "differences": differences})
    return out


def _curve(label: NDArray[Any], p: NDArray[Any]) -> dict[str, list[float]]:
    predicted, observed, rows = calibration_curve(label, p)
    return {"predicted": predicted.tolist(), "observed": observed.tolist(), "rows": rows.tolist()}
