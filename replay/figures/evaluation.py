"""Figures of a replay: by arm and day, differences to the base, calibration, slices."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ecdctr.events.batch import AD, DOMAIN_NAMES
from ecdctr.replay.figures.partitioned import PART_ROWS, Cut, PartitionedRows, Ranked, scratch
from ecdctr.replay.figures.result import ArmFigures, DayFigures, Difference, ReplayResult, SliceFigures
from ecdctr.replay.figures.scored_days import (
    ORACLE,
    Columns,
    ScoredDays,
    ScoredRows,
    Shape,
    common_rows,
    days_of,
    survey,
)
from ecdctr.replay.figures.slices import TPM, USER_GAP_BOTH, Coding, Slicer
from ecdctr.replay.figures.slices_by_feature import FeatureSlice
from ecdctr.replay.metrics import (
    ROW_METRICS,
    Interval,
    gauc_difference,
    gauc_interval,
    rela_impr,
    summary,
    weighted_mean,
)
from ecdctr.state.row_logs import ScoreLog

__all__ = ["evaluate"]

_ALL = Cut()


def evaluate(
    rows: Columns | ScoreLog | ScoredDays,
    arms: Sequence[str],
    *,
    base: str = "ads_only",
    slices: Sequence[FeatureSlice] = (),
    samples: int = 1000,
    day_samples: int = 200,
    seed: int = 0,
    folder: Path | None = None,
    part_rows: int = PART_ROWS,
) -> ReplayResult:
    """Compute every figure of a replay. All arms of a domain are evaluated on the identical rows.

    Memory is bounded by the largest event day and by the number of users and items: rows are read one day at a
    time, and figures over all days are computed from partitions on disk (:class:`PartitionedRows`). The figures are exact.

    Parameters
    ----------
    rows
        Scored rows, as columns or in a score log: ``ts`` (ms), ``domain`` (0 natural, 1 ad), ``user``, ``label``,
        ``p_<arm>`` (NaN where the arm did not score the row), and, if known, ``item``, ``list_id`` (0: none) and
        ``oracle`` (NaN: unknown). Shape ``(n,)`` each, any order.
    arms
        Names of the arms; an arm that scored no row of a domain is left out there.
    base
        The arm with which the others are compared; where it is absent, the first one present.
    slices
        Features by which the rows are sliced; the rows hold their columns. ``s_tpm`` and ``s_user_gap_both`` are slices, too,
        where the rows hold them.
    samples, day_samples
        Bootstrap draws for all rows, and for a day or a slice.
    seed
        Seed of the bootstrap.
    folder
        Where partitions are written temporarily; default: the folder of temporary files.
    part_rows
        Rows of a partition.

    Returns
    -------
    ReplayResult
        Plain numbers; NaN where a figure of an arm or a day cannot be computed.

    Examples
    --------
    >>> columns = {"ts": np.zeros(4, int), "domain": np.ones(4, int), "user": np.array([1, 1, 2, 2])}
    >>> columns |= {"label": np.array([1, 0, 1, 0]), "p_a": np.array([0.9, 0.1, 0.2, 0.8])}
    >>> result = evaluate(columns, ["a"])
    >>> result["totals"]["ad"]["a"]["gauc"], result["days"]["ad"][0]["day"]
    (0.5, '1970-01-01')
    """
    source = days_of(rows)
    out: ReplayResult = {
        "arms": list(arms), "base": {}, "left_out": {}, "totals": {}, "differences": {}, "days": {}, "calibration": {},
        "slices": [],
    }  # fmt: skip
    with scratch(folder) as made:
        shapes = survey(source, arms)
        domains = [
            _DomainFigures(
                shape, made / str(shape.domain), base, further, samples, day_samples, seed, part_rows
            )
            for shape, further in zip(shapes, _codings(source, shapes, slices), strict=True)
        ]
        for day, columns in source.days() if domains else ():
            for domain_figures in domains:
                domain_figures.add(day, columns)
        for domain_figures in domains:
            domain_figures.finish(out)
    if {row["value"] for row in out["slices"] if row["slice"] == TPM.name} == {TPM.values[-1]}:
        # No snapshot was ever read.
        out["slices"] = [row for row in out["slices"] if row["slice"] != TPM.name]
    return out


def _codings(
    source: ScoredDays, shapes: Sequence[Shape], slices: Sequence[FeatureSlice]
) -> list[list[Coding]]:
    """The further slices of each domain; where features are requested, this takes a pass over the rows."""
    tallies = [[feature.tally(shape.rows) for feature in slices] for shape in shapes]
    columns = [feature.column for feature in slices]
    noted: list[Coding] = []
    for _, day in source.days():
        noted = [coding for coding in (USER_GAP_BOTH, TPM) if coding.column in day]
        if not slices:
            break
        for shape, of_domain in zip(shapes, tallies, strict=True):
            rows, _ = common_rows(day, shape, columns)
            for column, tally in zip(columns, of_domain, strict=True):
                tally.add(rows.notes[column])
    return [
        [*(c for c in noted if c is TPM or shape.domain == AD), *(tally.coding() for tally in of_domain)]
        for shape, of_domain in zip(shapes, tallies, strict=True)
    ]


class _DomainFigures:
    """Evaluates one domain: :meth:`add` takes its rows day by day, :meth:`finish` computes the figures."""

    def __init__(
        self,
        shape: Shape,
        folder: Path,
        base: str,
        further: Sequence[Coding],
        samples: int,
        day_samples: int,
        seed: int,
        part_rows: int,
    ) -> None:
        self.shape, self.base = shape, base if base in shape.arms else shape.arms[0]
        self._samples, self._day_samples, self._seed = samples, day_samples, seed
        self._folder, self._part_rows = folder, part_rows
        self._slicer, self._notes = Slicer(further), [coding.column for coding in further]
        self._partitions: PartitionedRows | None = None
        self._left_out = 0
        self._days: list[DayFigures] = []

    def add(self, day: int, columns: Columns) -> None:
        rows, left_out = common_rows(columns, self.shape, self._notes)
        self._left_out += left_out
        if self._partitions is None:
            self._folder.mkdir()
            dtypes = {arm: _dtype(p.dtype) for arm, p in rows.scores.items()}
            self._partitions = PartitionedRows(
                self._folder,
                dtypes,
                self.shape.rows,
                len(self._slicer.values),
                lists=self.shape.lists,
                part_rows=self._part_rows,
            )
        if not len(rows):
            return
        self._partitions.add(rows, self._slicer.codes(rows))
        arms, differences = _of_day(rows, self.base, self._day_samples, self._seed)
        date = (dt.date(1970, 1, 1) + dt.timedelta(days=day)).isoformat()
        self._days.append({"day": date, "n": len(rows), "arms": arms, "differences": differences})

    def finish(self, out: ReplayResult) -> None:
        rows = self._partitions
        assert rows is not None
        domain = DOMAIN_NAMES[self.shape.domain]
        out["base"][domain], out["left_out"][domain], out["days"][domain] = (
            self.base,
            self._left_out,
            self._days,
        )
        named = [
            (Cut(column, code), {"slice": name, "value": value, "domain": domain})
            for column, (name, values) in enumerate(self._slicer.values.items())
            for code, value in enumerate(values)
        ]
        cuts = [_ALL, *(cut for cut, _ in named)]
        ranked, lists = rows.ranked(cuts), rows.lists()
        figures: dict[str, list[dict[str, Any]]] = {}
        out["calibration"][domain] = {}
        for arm in rows.arms:
            figures[arm], out["calibration"][domain][arm] = rows.scored(arm, cuts)
        out["totals"][domain], out["differences"][domain] = {}, {}
        for arm in rows.arms:
            whole = _summary(figures[arm][0], ranked[0], arm) | lists.get(arm, {})
            interval = self._interval(ranked[0], ranked[0].auc[arm], self._samples)
            out["totals"][domain][arm] = cast(ArmFigures, whole | _bounds(interval))
        for arm in rows.arms:
            if arm in (self.base, ORACLE):
                continue
            gain = self._interval(ranked[0], ranked[0].auc[arm] - ranked[0].auc[self.base], self._samples)
            better = rela_impr(*(out["totals"][domain][a]["gauc"] for a in (arm, self.base)))
            out["differences"][domain][arm] = _difference(gain, better)
        for i, (_, names) in enumerate(named, 1):
            if ranked[i].impressions_total:
                of_cut = {arm: found[i] for arm, found in figures.items()}
                out["slices"] += [
                    cast(SliceFigures, {**names, **row}) for row in self._slice(ranked[i], of_cut)
                ]

    def _slice(self, users: Ranked, figures: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for arm, found in figures.items():
            own = self._interval(users, users.auc[arm], self._day_samples)
            row: dict[str, Any] = {"arm": arm, **_summary(found, users, arm), **_bounds(own)}
            row |= {"difference": None, "low": None, "high": None}
            if arm != self.base:
                gain = self._interval(users, users.auc[arm] - users.auc[self.base], self._day_samples)
                row |= {"difference": gain.value, "low": gain.low, "high": gain.high}
            yield {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}

    def _interval(self, users: Ranked, value: Any, samples: int) -> Interval:
        return weighted_mean(value, users.impressions, samples, 0.95, self._seed)


def _dtype(found: np.dtype[Any]) -> np.dtype[Any]:
    return found if found in (np.float32, np.float64) else np.dtype(np.float64)


def _bounds(interval: Interval) -> dict[str, float]:
    return {"gauc_low": interval.low, "gauc_high": interval.high}


def _difference(gain: Interval, better: float) -> Difference:
    return {"value": gain.value, "low": gain.low, "high": gain.high, "rela_impr": better}


def _summary(figures: dict[str, Any], users: Ranked, arm: str) -> dict[str, Any]:
    """The figures of :func:`ecdctr.replay.metrics.summary`."""
    n, clicks = figures["n"], figures["clicks"]
    return {
        "n": n,
        "clicks": clicks,
        "ctr": clicks / n if n else float("nan"),
        "gauc": users.gauc(arm),
        **{key: figures[key] for key in ("auc", *(metric.name for metric in ROW_METRICS))},
        **users.coverage(),
    }


def _of_day(
    rows: ScoredRows, reference: str, samples: int, seed: int
) -> tuple[dict[str, ArmFigures], dict[str, Difference]]:
    """Figures of each arm, and its GAUC difference to the reference, of rows in memory."""
    totals: dict[str, ArmFigures] = {}
    differences: dict[str, Difference] = {}
    for arm, p in rows.scores.items():
        interval = gauc_interval(rows.label, p, rows.user, samples=samples, seed=seed)
        totals[arm] = cast(ArmFigures, summary(rows.label, p, rows.user, rows.list_id) | _bounds(interval))
    for arm, p in rows.scores.items():
        if arm in (reference, ORACLE):
            continue
        gain = gauc_difference(rows.label, p, rows.scores[reference], rows.user, samples=samples, seed=seed)
        differences[arm] = _difference(gain, rela_impr(totals[arm]["gauc"], totals[reference]["gauc"]))
    return totals, differences
