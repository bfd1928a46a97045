"""Exact figures of more rows than fit into memory: partitioned by user for GAUC, by score for metrics that rank all rows.

Nothing is approximated. The rows of a user are in one partition, so each user's AUC is that of :func:`ecdctr.replay.metrics.group_auc`; the
partitions are ordered by id, so the order of the users, and thus the draws of the bootstrap, do not depend on the number of
partitions. For AUC and the calibration curve the rows are partitioned again, by ranges of the score: the non-clicks of lower
ranges are counted, and pairs within a range are compared. Memory: one partition, and for each cut, per user with
both classes, the number of rows and one AUC per arm.
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

__all__ = ["PART_ROWS", "Cut", "PartitionedRows", "Ranked", "scratch"]

PART_ROWS = 1 << 16
"""Approximate rows of a partition: about 10 MB with temporary arrays."""

_FINE = 1 << 16
"""Number of ranges of the score in which rows are counted; neighbouring ranges are combined into partitions."""


@dataclass(frozen=True)
class Cut:
    """A set of rows: all (``column`` None), or those whose slice code in ``column`` is ``code``."""

    column: int | None = None
    code: int = 0

    def of(self, codes: NDArray[np.uint8]) -> NDArray[np.bool_] | slice:
        return slice(None) if self.column is None else codes[:, self.column] == self.code


@dataclass(eq=False)
class Ranked:
    """Per-user results of one cut.

    ``impressions`` and ``auc`` have one element per user with both classes, ordered by id; the totals count all users and rows.
    """

    users_total: int = 0
    impressions_total: int = 0
    impressions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    auc: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def coverage(self) -> dict[str, Any]:
        """Coverage of GAUC, with the keys of :func:`ecdctr.replay.metrics.summary`."""
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
    """Sums over one arm's scores of one cut, by ascending score."""

    n: int = 0
    clicks: int = 0
    # Twice the number of pairs of a click and a non-click in the right order; a tie counts one.
    won: int = 0
    # Key: the metric's function ``rows``. Log loss and NE use the same function, so its sum is computed once.
    totals: dict[Any, list[float]] = field(default_factory=dict)

    def add(self, y: NDArray[np.bool_], p: NDArray[Any]) -> None:
        """Add rows by ascending score, none of them below rows that were added before."""
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


class PartitionedRows:
    """Rows of one domain that all arms scored, with their slice codes, in partitions.

    Parameters
    ----------
    folder
        Folder for the partitions.
    dtypes
        By arm, the type of its scores: float32 or float64.
    rows
        Approximate number of rows to expect.
    code_columns
        Number of columns of codes.
    lists
        Whether the rows have impression lists.
    part_rows
        Rows of a partition.
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
        """Add the next rows of the log, with their slice codes ``(n, code_columns)``."""
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
        # Ids are hashes: their highest bits partition them evenly and in order.
        return (ids >> np.uint64(64 - self._bits) if self._bits else np.zeros_like(ids)).astype(np.intp)

    # -- by user

    def ranked(self, cuts: Sequence[Cut]) -> list[Ranked]:
        """Per-user AUC of every arm, for each cut."""
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
        """AUC within the impression lists, by arm; empty without lists."""
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
        """Figures of an arm that do not depend on users, for each cut; and its calibration curve over all rows."""
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
        """``p, label, codes`` of all rows by score, equal scores in the order added, in pieces that never separate equal scores."""
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
    """Mean prediction and CTR of groups of equally many rows: :func:`ecdctr.replay.metrics.probability.calibration_curve` computed piece by piece."""

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
    """The range of each row's score, monotone in the score: the upper half of the bits of a float32."""
    bits = (p.astype(np.float32) + np.float32(0)).view(np.uint32)
    return (bits >> np.uint32(16)).astype(np.intp)


def _spans(counts: NDArray[np.int64], part_rows: int) -> tuple[NDArray[np.intp], int]:
    """The span of about ``part_rows`` rows to which each range belongs, and the number of spans."""
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    span = np.unique(before // part_rows, return_inverse=True)[1].astype(np.intp)
    return span, int(span[-1]) + 1


def _as_unsigned(ids: NDArray[Any]) -> NDArray[np.uint64]:
    if ids.dtype.kind not in "iu":
        raise ValueError(f"ids of type {ids.dtype}: whole numbers are needed")
    return ids.astype(np.uint64)


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """A folder for partitions, in ``folder`` or the default folder of temporary files; removed at the end."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="figures-", dir=folder) as made:
        yield Path(made)
