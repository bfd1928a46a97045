"""The past for charts: one figure a slot of event time, in rings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from monitor.windows import SUMS, Tally, UserRows, arm_figures
from replay.gauc import group_auc

__all__ = ["SERIES", "DomainSeries", "rank_by_slot"]

SERIES: dict[str, tuple[int, int]] = {
    "5m": (300_000, 288),
    "1h": (3_600_000, 168),
    "1d": (86_400_000, 90),
}
"""Name -> length of a slot (ms), slots kept."""

FEWEST_ROWS = 300
"""Scored rows a slot, on average, for GAUC and AUC by slot."""

DAY_MS = 86_400_000
_COUNTS = ("rows", "clicks", "late")
_FIGURES = ("rows", "log_loss", "ne", "pcoc")


class DomainSeries:
    """One series of one domain; columns of equal length, whatever arms have scored."""

    def __init__(self, name: str, arms: Sequence[str]) -> None:
        self.slot_ms, self.length = SERIES[name]
        self.arms = tuple(arms)
        self.slot = np.full(self.length, -1, np.int64)
        self._counts = np.zeros((self.length, len(_COUNTS)))
        self._sums = np.zeros((len(self.arms), self.length, len(SUMS)))
        self._ranks = np.full((len(self.arms), self.length, 2), np.nan)

    def add(self, tally: Tally) -> None:
        """Rows, summed up beforehand."""
        slot = tally.at_ms // self.slot_ms
        newest = int(slot[-1])
        if newest > int(self.slot.max()):
            for s in np.unique(slot[slot > newest - self.length]).tolist():
                self._open(s)
        place = slot % self.length
        kept = self.slot[place] == slot
        np.add.at(self._counts, place[kept], tally.counts[kept][:, : len(_COUNTS)])
        np.add.at(self._sums.transpose(1, 0, 2), place[kept], tally.sums[kept])

    def _open(self, s: int) -> None:
        i = s % self.length
        if self.slot[i] >= s:
            return
        self.slot[i] = s
        self._counts[i] = 0
        self._sums[:, i] = 0
        self._ranks[:, i] = np.nan

    def rank(self, users: UserRows, since_ms: int, until_ms: int) -> None:
        """GAUC and AUC of the slots that begin in a span of time, from kept rows; of slots with few rows they would be noise."""
        ts = users.rows()[0]
        rows = int(((ts >= since_ms) & (ts < until_ms)).sum())
        if rows * self.slot_ms < FEWEST_ROWS * min(until_ms - since_ms, DAY_MS):
            return
        for arm, by_slot in rank_by_slot(users, self.slot_ms, since_ms, until_ms).items():
            i = self.arms.index(arm)
            for s, pair in by_slot.items():
                place = s % self.length
                if self.slot[place] == s:
                    self._ranks[i, place] = pair

    def to_json(self) -> tuple[list[int], dict[str, Any]]:
        """Slot numbers, oldest first, and the columns."""
        order = np.argsort(self.slot)
        order = order[self.slot[order] >= 0]
        rows, clicks, late = self._counts[order].T.tolist() if len(order) else ([], [], [])
        out: dict[str, Any] = {
            "rows": [int(v) for v in rows],
            "ctr": [c / n if n else None for c, n in zip(clicks, rows, strict=True)],
            "late": [int(v) for v in late],
            "arms": {},
        }
        for i, arm in enumerate(self.arms):
            sums = self._sums[i, order]
            if not sums.any():
                continue
            found = [arm_figures(s) if s[0] else dict.fromkeys(_FIGURES) for s in sums]
            out["arms"][arm] = {name: [f[name] for f in found] for name in _FIGURES}
            for j, name in enumerate(("gauc", "auc")):
                values = self._ranks[i, order, j].tolist()
                out["arms"][arm][name] = [v if math.isfinite(v) else None for v in values]
        return self.slot[order].tolist(), out


def rank_by_slot(
    users: UserRows, slot_ms: int, since_ms: int, until_ms: int
) -> dict[str, dict[int, tuple[float, float]]]:
    """By arm and slot: GAUC and AUC of the kept rows with ``since_ms <= ts < until_ms``."""
    ts, user, label, p = users.rows()
    inside = (ts >= since_ms) & (ts < until_ms)
    out: dict[str, dict[int, tuple[float, float]]] = {}
    for i, arm in enumerate(users.arms):
        rows = np.flatnonzero(inside & ~np.isnan(p[i]))
        if not len(rows):
            continue
        slots, code = np.unique(ts[rows] // slot_ms, return_inverse=True)
        who, person = np.unique(user[rows], return_inverse=True)
        ranked = group_auc(label[rows], p[i, rows], code * len(who) + person)
        keep = ranked.both_classes
        of, n = ranked.group[keep] // len(who), ranked.impressions[keep]
        total = np.bincount(of, weights=n, minlength=len(slots))
        won = np.bincount(of, weights=n * ranked.auc[keep], minlength=len(slots))
        whole = group_auc(label[rows], p[i, rows], code)
        area = dict(zip(whole.group.tolist(), whole.auc.tolist(), strict=True))
        with np.errstate(invalid="ignore"):
            value = won / total
        out[arm] = {int(s): (float(value[k]), float(area[k])) for k, s in enumerate(slots)}
    return out
