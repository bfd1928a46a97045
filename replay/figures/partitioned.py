"""Exact figures of more rows than memory holds: parted by user for GAUC, by score for what ranks all rows at once.

Nothing is approximated. A user's rows lie in one part, so each user's AUC is that of :func:`ecdctr.replay.metrics.group_auc`; the
parts follow the ids, so users stand in one order however many parts there are, and so do the bootstrap's draws. For AUC
and the calibration curve the rows are parted anew by ranges of the score: the non-clicks of lower ranges are counted, the
pairs within a range are compared. What stays in memory is one part, and two numbers a user that counts.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.replay.figures.result import Calibration
from ecdctr.replay.figures.scored_days import ScoredRows
from ecdctr.replay.figures.spill import Spill
from ecdctr.replay.metrics import ROW_METRICS, group_auc

__all__ = ["PART_ROWS", "Cut", "PartedRows", "Ranked", "scratch"]

PART_ROWS = 1 << 16
"""Rows of a part, about: some 10 MB with what is computed on them."""

_FINE = 1 << 16
"""Ranges of the score that are counted; each holds the rows of neighbouring ones up to a part."""


@dataclass(frozen=True)
class Cut:
    """A set of rows: all (``column`` None), or those with one code in one column of codes."""

    column: int | None = None
    code: int = 0

    def of(self, codes: NDArray[np.uint8]) -> NDArray[np.bool_] | slice:
        return slice(None) if self.column is None else codes[:, self.column] == self.code


@dataclass(eq=False)
class Ranked:
    """Users of one cut: those with both classes, by id, with the AUC of each arm; and how many there are of all."""

    users_total: int = 0
    impressions_total: int = 0
    impressions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    auc: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def coverage(self) -> dict[str, Any]:
        """As :func:`ecdctr.replay.metrics.summary` names it."""
        users, rows = len(self.impressions), int(self.impressions.sum())
        nan = float("nan")
        return {
            "users": users,
            "users_total": self.users_total,
            "impressions": rows,
            "impressions_total": self.impressions_total,
            "user_coverage": users / self.users_total if self.users_total else nan,
            "impression_coverage": rows / self.impressions_total if self.impressions_total else nan,
        }

    def gauc(self, arm: str) -> float:
        rows = int(self.impressions.sum())
        return float(self.impressions @ self.auc[arm]) / rows if rows else float("nan")


@dataclass
class _Sums:
    """What one arm's scores of one cut come to, from the lowest score up."""

    n: int = 0
    clicks: int = 0
    won: int = 0
    # By the metric's function of rows: log loss and NE have one sum.
    totals: dict[Any, list[float]] = field(default_factory=dict)

    def add(self, y: NDArray[np.bool_], p: NDArray[Any]) -> None:
        """Rows by ascending score, none of them below any that was added before."""
        if not len(y):
            return
        start = np.flatnonzero(np.concatenate([[True], p[1:] != p[:-1]]))
        clicks = np.add.reduceat(y, start, dtype=np.int64)
        others = np.diff(np.append(start, len(y))) - clicks
        below = self.n - self.clicks + np.cumsum(others) - others
        self.won += int((clicks * (2 * below + others)).sum())
        self.n += len(y)
        self.clicks += int(clicks.sum())
        for rows in {metric.rows: None for metric in ROW_METRICS}:
            self.totals.setdefault(rows, []).append(float(rows(y, p).sum(dtype=np.float64)))

    def figures(self) -> dict[str, float]:
        nan = float("nan")
        pairs = 2 * self.clicks * (self.n - self.clicks)
        found = {
            metric.name: metric.value(math.fsum(self.totals.get(metric.rows, ())), self.n, self.clicks)
            for metric in ROW_METRICS
        }
        return {"auc": self.won / pairs if pairs else nan} | found


class PartedRows:
    """Rows of one domain that all arms scored, with their slice codes, in parts.

    Parameters
    ----------
    folder
        For the parts' files.
    dtypes
        Arms, and of which type their scores are: float32 or float64.
    rows
        How many will come, about.
    code_columns
        Columns of codes.
    lists
        Whether the rows name their impression lists.
    part_rows
        Rows of a part.
    """

    def __init__(
        self,
        folder: Path,
        dtypes: Mapping[str, np.dtype[Any]],
        rows: int,
        code_columns: int,
        *,
        lists: bool = False,
        part_rows: int = PART_ROWS,
    ) -> None:
        self.arms, self.rows = tuple(dtypes), 0
        self._part_rows, self._folder = part_rows, folder
        self._bits = max(0, math.ceil(math.log2(max(1, rows) / part_rows)))
        fields = [("at", "<i8"), ("user", "<u8"), ("label", "?"), ("codes", "u1", (code_columns,))]
        scores = [(f"p_{arm}", dtype.str) for arm, dtype in dtypes.items()]
        self._by_user = Spill(folder / "users", np.dtype([*fields, *scores]), 1 << self._bits)
        listed = np.dtype([("list", "<u8"), ("label", "?"), *scores])
        self._by_list = Spill(folder / "lists", listed, 1 << self._bits) if lists else None
        self._counts = {arm: np.zeros(_FINE, np.int64) for arm in dtypes}

    def add(self, rows: ScoredRows, codes: NDArray[np.uint8]) -> None:
        """Rows of a later stretch of time, with their codes ``(n, code_columns)``."""
        part = np.empty(len(rows), self._by_user.dtype)
        part["at"] = np.arange(self.rows, self.rows + len(rows))
        part["user"] = _as_unsigned(rows.user)
        part["label"], part["codes"] = rows.label != 0, codes
        for arm, p in rows.scores.items():
            part[f"p_{arm}"] = p
            self._counts[arm] += np.bincount(_range_of(p), minlength=_FINE)
        self._by_user.add(part, self._part_of(part["user"]))
        self.rows += len(rows)
        if self._by_list is not None and rows.list_id is not None:
            listed = np.empty(len(rows), self._by_list.dtype)
            listed["list"], listed["label"] = rows.list_id, part["label"]
            for arm in self.arms:
                listed[f"p_{arm}"] = part[f"p_{arm}"]
            self._by_list.add(listed, self._part_of(listed["list"]))

    def _part_of(self, ids: NDArray[np.uint64]) -> NDArray[np.intp]:
        # Ids are hashes: their highest bits part them evenly, and keep their order.
        return (ids >> np.uint64(64 - self._bits) if self._bits else np.zeros_like(ids)).astype(np.intp)

    # -- by user

    def ranked(self, cuts: Sequence[Cut]) -> list[Ranked]:
        """The users of each cut."""
        out = [Ranked() for _ in cuts]
        weight: list[list[NDArray[np.int64]]] = [[] for _ in cuts]
        auc: list[dict[str, list[NDArray[np.float64]]]] = [{a: [] for a in self.arms} for _ in cuts]
        for k in range(self._by_user.parts):
            rows = self._by_user.read(k)
            for i, cut in enumerate(cuts):
                chosen = rows[cut.of(rows["codes"])]
                for arm in self.arms if len(chosen) else ():
                    found = group_auc(
                        chosen["label"], np.ascontiguousarray(chosen[f"p_{arm}"]), chosen["user"]
                    )
                    keep = found.both_classes
                    auc[i][arm].append(found.auc[keep])
                    if arm == self.arms[0]:
                        weight[i].append(found.impressions[keep])
                        out[i].users_total += len(found.group)
                        out[i].impressions_total += len(chosen)
        for i, ranked in enumerate(out):
            ranked.impressions = np.concatenate([ranked.impressions, *weight[i]])
            ranked.auc = {arm: np.concatenate([np.empty(0), *found]) for arm, found in auc[i].items()}
        return out

    def lists(self) -> dict[str, dict[str, Any]]:
        """AUC within the impression lists, by arm; empty where no lists are known."""
        if self._by_list is None:
            return {}
        won, weight = dict.fromkeys(self.arms, 0.0), 0
        lists = total = 0
        for k in range(self._by_list.parts):
            rows = self._by_list.read(k)
            for arm in self.arms if len(rows) else ():
                found = group_auc(rows["label"], np.ascontiguousarray(rows[f"p_{arm}"]), rows["list"])
                keep = found.both_classes
                won[arm] += float(found.impressions[keep] @ found.auc[keep])
                if arm == self.arms[0]:
                    weight += int(found.impressions[keep].sum())
                    lists, total = lists + int(keep.sum()), total + len(keep)
        nan = float("nan")
        return {
            arm: {"list_auc": won[arm] / weight if weight else nan, "lists": lists, "lists_total": total}
            for arm in self.arms
        }

    # -- by score

    def scored(
        self, arm: str, cuts: Sequence[Cut], bins: int = 20
    ) -> tuple[list[dict[str, float]], Calibration]:
        """Figures of an arm that need no users, for each cut; and its calibration curve over all rows."""
        sums = [_Sums() for _ in cuts]
        curve = _Curve(self.rows, bins)
        for rows in self._ascending(arm):
            p = rows["p"]
            for total, cut in zip(sums, cuts, strict=True):
                chosen = cut.of(rows["codes"])
                total.add(rows["label"][chosen], p[chosen])
            curve.add(rows["label"], p)
        return [s.figures() | {"n": s.n, "clicks": s.clicks} for s in sums], curve.points()

    def _ascending(self, arm: str) -> Iterator[NDArray[Any]]:
        """``p, label, codes`` of all rows by score, equal ones as added, in pieces that part no equal ones."""
        span_of, spans = _spans(self._counts[arm], self._part_rows)
        source = self._by_user.dtype
        dtype = np.dtype(
            [("at", "<i8"), ("p", source[f"p_{arm}"]), ("label", "?"), ("codes", source["codes"])]
        )
        spill = Spill(self._folder / f"scores-{arm}", dtype, spans)
        for k in range(self._by_user.parts):
            rows = self._by_user.read(k)
            slim = np.empty(len(rows), dtype)
            for name in ("at", "label", "codes"):
                slim[name] = rows[name]
            slim["p"] = rows[f"p_{arm}"]
            spill.add(slim, span_of[_range_of(slim["p"])])
        for k in range(spans):
            rows = spill.read(k)
            yield rows[np.lexsort((rows["at"], rows["p"]))]
        spill.remove()


class _Curve:
    """Mean prediction and CTR of groups of equally many rows: :func:`ecdctr.replay.metrics.probability.calibration_curve` in pieces."""

    def __init__(self, rows: int, bins: int) -> None:
        self._edge = np.unique(np.linspace(0, rows, bins + 1).astype(np.int64))
        self._p, self._y = (np.zeros(len(self._edge) - 1) for _ in range(2))
        self._at = 0

    def add(self, y: NDArray[np.bool_], p: NDArray[Any]) -> None:
        group = np.searchsorted(self._edge, np.arange(self._at, self._at + len(y)), side="right") - 1
        self._p += np.bincount(group, weights=p, minlength=len(self._p))
        self._y += np.bincount(group, weights=y, minlength=len(self._y))
        self._at += len(y)

    def points(self) -> Calibration:
        rows = np.diff(self._edge)
        return {
            "predicted": (self._p / rows).tolist(),
            "observed": (self._y / rows).tolist(),
            "rows": rows.tolist(),
        }


def _range_of(p: NDArray[Any]) -> NDArray[np.intp]:
    """A range of the score for each row, rising with it: the upper half of a float32's bits."""
    bits = (p.astype(np.float32) + np.float32(0)).view(np.uint32)
    return (bits >> np.uint32(16)).astype(np.intp)


def _spans(counts: NDArray[np.int64], part_rows: int) -> tuple[NDArray[np.intp], int]:
    """Which span of about ``part_rows`` rows each range lies in, and how many there are."""
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    span = np.unique(before // part_rows, return_inverse=True)[1].astype(np.intp)
    return span, int(span[-1]) + 1


def _as_unsigned(ids: NDArray[Any]) -> NDArray[np.uint64]:
    if ids.dtype.kind not in "iu":
        raise ValueError(f"ids of type {ids.dtype}: whole numbers are needed")
    return ids.astype(np.uint64)


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """A folder for parts, in ``folder`` or where temporary files go; removed at the end."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="figures-", dir=folder) as made:
        yield Path(made)
