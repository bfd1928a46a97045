"""Metrics over time for charts: one value per slot of event time, in ring buffers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.time import DAY_MS
from ecdctr.monitor.quality.results import ArmSeries, DomainSeriesFigures
from ecdctr.monitor.quality.windows import SUMS, Floats, Tally, UserRows, rows_of_clickers
from ecdctr.replay.metrics import auc_of_codes

__all__ = ["SERIES", "DomainSeries", "rank_by_slot"]

SERIES: dict[str, tuple[int, int]] = {
    "5m": (300_000, 288),
    "1h": (3_600_000, 168),
    "1d": (86_400_000, 90),
}
"""Name -> length of a slot (ms), number of slots."""

FEWEST_ROWS = 300
"""Scored rows per slot, on average, below which GAUC and AUC by slot would be noise and are not computed."""

_COUNTS = ("rows", "clicks", "late")


class DomainSeries:
    """One series of one domain.

    Parameters
    ----------
    name
        A key of :data:`SERIES`.
    arms
        Names of the arms whose predictions are summed.
    """

    def __init__(self, name: str, arms: Sequence[str]) -> None:
        self.slot_ms, self.length = SERIES[name]
        self.arms = tuple(arms)
        self.slot = np.full(self.length, -1, np.int64)
        self._counts = np.zeros((self.length, len(_COUNTS)))
        self._sums = np.zeros((len(self.arms), self.length, len(SUMS)))
        self._ranks = np.full((len(self.arms), self.length, 2), np.nan)

    def add(self, tally: Tally) -> None:
        """Add the sums of a block of rows."""
        slot = tally.at_ms // self.slot_ms
        newest = int(slot[-1])
        if newest > int(self.slot.max()):
            for s in np.unique(slot[slot > newest - self.length]).tolist():
                self._open(s)
        place = slot % self.length
        present = self.slot[place] == slot
        np.add.at(self._counts, place[present], tally.counts[present][:, : len(_COUNTS)])
        np.add.at(self._sums.transpose(1, 0, 2), place[present], tally.sums[present])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state, for :meth:`restore`."""
        return {"slot": self.slot, "counts": self._counts, "sums": self._sums, "ranks": self._ranks}

    def restore(self, arrays: Mapping[str, NDArray[Any]], clock_ms: int) -> None:  # noqa: ARG002
        """Replace the state by that of :meth:`to_arrays`."""
        for name, own in self.to_arrays().items():
            own[:] = arrays[name]

    def _open(self, s: int) -> None:
        i = s % self.length
        if self.slot[i] >= s:
            return
        self.slot[i] = s
        self._counts[i] = 0
        self._sums[:, i] = 0
        self._ranks[:, i] = np.nan

    def rank(self, users: UserRows, since_ms: int, until_ms: int) -> None:
        """Compute GAUC and AUC of the slots with ``since_ms <= ts < until_ms`` from the buffered rows, unless these are too few."""
        rows = len(_rows_between(users, since_ms, until_ms))
        if rows * self.slot_ms < FEWEST_ROWS * min(until_ms - since_ms, DAY_MS):
            return
        for arm, by_slot in rank_by_slot(users, self.slot_ms, since_ms, until_ms).items():
            i = self.arms.index(arm)
            for s, pair in by_slot.items():
                place = s % self.length
                if self.slot[place] == s:
                    self._ranks[i, place] = pair

    def to_json(self) -> tuple[list[int], DomainSeriesFigures]:
        """Slot numbers, oldest first, and the columns."""
        order = np.argsort(self.slot)
        order = order[self.slot[order] >= 0]
        rows, clicks, late = self._counts[order].T.tolist() if len(order) else ([], [], [])
        by_arm: dict[str, ArmSeries] = {}
        for i, arm in enumerate(self.arms):
            sums = self._sums[i, order]
            if not sums.any():
                continue
            figures = _figures(sums)
            by_arm[arm] = {
                "rows": [int(n) or None for n in sums[:, 0]],
                "log_loss": _listed(figures["log_loss"]),
                "ne": _listed(figures["ne"]),
                "pcoc": _listed(figures["pcoc"]),
                "gauc": _listed(self._ranks[i, order, 0]),
                "auc": _listed(self._ranks[i, order, 1]),
            }
        return self.slot[order].tolist(), {
            "rows": [int(v) for v in rows],
            "ctr": [c / n if n else None for c, n in zip(clicks, rows, strict=True)],
            "late": [int(v) for v in late],
            "arms": by_arm,
        }


def _figures(sums: Floats) -> dict[str, Floats]:
    """``log_loss, ne, pcoc`` from sums ``(S, 4)``, each ``(S,)``; NaN where a metric is undefined."""
    rows, clicks, predicted, loss = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ctr, log_loss = clicks / rows, loss / rows
        entropy = -(ctr * np.log(ctr) + (1 - ctr) * np.log1p(-ctr))
        return {"log_loss": log_loss, "ne": log_loss / entropy, "pcoc": predicted / clicks}


def _listed(values: Floats) -> list[float | None]:
    """A list with None in place of NaN."""
    return [v if math.isfinite(v) else None for v in values.tolist()]


def rank_by_slot(
    users: UserRows, slot_ms: int, since_ms: int, until_ms: int
) -> dict[str, dict[int, tuple[float, float]]]:
    """By arm and slot: GAUC and AUC of the buffered rows with ``since_ms <= ts < until_ms``."""
    ts, user, label, p = users.rows()
    at = _rows_between(users, since_ms, until_ms)
    if not len(at):
        return {}
    slot, label, p = ts[at] // slot_ms, label[at], p[:, at]
    first = int(slot.min())
    code = (slot - first).astype(np.uint64)
    inside, person, clickers = rows_of_clickers(user[at], label)
    pair = code[inside] * np.uint64(len(clickers)) + person
    length = int(code.max()) + 1
    out: dict[str, dict[int, tuple[float, float]]] = {}
    for i, arm in enumerate(users.arms):
        known = ~np.isnan(p[i])
        if not known.any():
            continue
        won: Floats = np.zeros(length)
        total: Floats = np.zeros(length)
        rows = known[inside]
        if rows.any():
            ranked = auc_of_codes(pair[rows], label[inside[rows]], p[i, inside[rows]])
            keep = ranked.both_classes
            of, n = (ranked.group[keep] // np.uint64(len(clickers))).astype(np.intp), ranked.impressions[keep]
            total = np.bincount(of, weights=n, minlength=length).astype(np.float64)
            won = np.bincount(of, weights=n * ranked.auc[keep], minlength=length).astype(np.float64)
        whole = auc_of_codes(code[known], label[known], p[i, known])
        with np.errstate(invalid="ignore"):
            value = won / total
        out[arm] = {
            first + k: (float(value[k]), area)
            for k, area in zip(whole.group.astype(np.intp).tolist(), whole.auc.tolist(), strict=True)
        }
    return out


def _rows_between(users: UserRows, since_ms: int, until_ms: int) -> NDArray[np.intp]:
    """Numbers of the complete rows with ``since_ms <= ts < until_ms``."""
    at, _ = users.complete_rows(since_ms - 1)
    return at[users.rows()[0][at] < until_ms]
