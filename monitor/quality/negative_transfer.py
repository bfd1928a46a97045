"""Negative transfer: A-CTR against the ads-only control on identical rows, with an interval, in bounded memory.

Each row enters replicate ``b`` of an online bootstrap with a Poisson(1) weight (Oza and Russell, "Online bagging and
boosting", AISTATS 2001); the weight is drawn by a hash of the *user*, so that all rows of a user have the same weight
(Chamandy et al., "Estimating uncertainty for massive data streams", Google, 2012).

The loss difference is an exact mean over rows. GAUC is compared on all rows of a sample of users (:class:`UserRows`).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.time import DAY_MS
from ecdctr.models.probability import fast_log_losses
from ecdctr.monitor.quality.results import Interval, TransferFigures
from ecdctr.monitor.quality.windows import UserRows, rows_of_clickers
from ecdctr.replay.metrics import auc_of_codes
from ecdctr.state.hashing import mix64

__all__ = ["REPLICATES", "TransferWatch", "poisson_weights"]

REPLICATES = 64
ARMS = ("actr", "ads_only")
# Cumulative Poisson(1), in 256ths: 94, 188, 235, 251, 255
_TABLE = np.searchsorted(np.array([94, 188, 235, 251, 255]), np.arange(256), side="right").astype(np.float32)
_SALT = np.uint64(0x1E37C9A5D40B862F)

Floats = NDArray[np.float64]


def poisson_weights(user: NDArray[np.uint64], replicates: int = REPLICATES) -> NDArray[np.float32]:
    """Weights ``(n, replicates)``, the same for all rows of a user (mean 0.99, variance 0.98: eight bits each)."""
    words = -(-replicates // 8)
    salts = mix64(np.arange(1, words + 1, dtype=np.uint64) ^ _SALT)
    bits = mix64(user[:, None] ^ salts[None, :])
    octets = np.ascontiguousarray(bits).astype("<u8").view(np.uint8)
    return _TABLE[octets[:, :replicates]]


class TransferWatch:
    """Loss and GAUC of A-CTR minus those of the control over the last ``days`` event days.

    Parameters
    ----------
    days
        Length of the window.
    rows
        ``capacity`` of :class:`UserRows`, for GAUC.
    """

    def __init__(self, days: int = 7, rows: int = 65_536) -> None:
        self.days = days
        self._users = UserRows(ARMS, rows, days * DAY_MS)
        # By day: rows, and for each replicate the sum of weights and of weighted loss differences.
        self._day = np.full(days, -1, np.int64)
        self._rows = np.zeros(days, np.int64)
        self._diff = np.zeros(days)
        self._weights = np.zeros((days, REPLICATES))
        self._diffs = np.zeros((days, REPLICATES))
        self._clock = 0

    def add(
        self,
        ts: NDArray[np.int64],
        user: NDArray[np.uint64],
        label: NDArray[np.float32],
        actr: NDArray[np.float32],
        control: NDArray[np.float32],
    ) -> None:
        """Add ad rows that both arms predicted."""
        if not len(ts):
            return
        self._clock = max(self._clock, int(ts.max()))
        click = label > 0
        diff = fast_log_losses(click, actr) - fast_log_losses(click, control)  # above 0: A-CTR is worse
        weights = poisson_weights(user)
        day = ts // DAY_MS
        for d in range(int(day.min()), int(day.max()) + 1):
            rows = day == d
            i = d % self.days
            if self._day[i] > d or not rows.any():
                continue
            if self._day[i] < d:
                self._day[i] = d
                self._rows[i], self._diff[i], self._weights[i], self._diffs[i] = 0, 0.0, 0.0, 0.0
            self._rows[i] += int(rows.sum())
            self._diff[i] += float(diff[rows].sum())
            self._weights[i] += weights[rows].sum(0)
            self._diffs[i] += diff[rows] @ weights[rows]
        self._users.add(ts, user, label, np.stack([actr, control]), self._clock)

    def log_loss(self) -> Interval | None:
        """Loss of A-CTR minus that of the control; below 0, A-CTR is better. None without rows."""
        recent = self._day > self._clock // DAY_MS - self.days
        rows = int(self._rows[recent].sum())
        if not rows:
            return None
        drawn = self._diffs[recent].sum(0) / np.maximum(self._weights[recent].sum(0), 1e-9)
        value = float(self._diff[recent].sum()) / rows
        half = 1.96 * float(drawn.std(ddof=1))
        return {"value": value, "low": value - half, "high": value + half}

    def gauc(self) -> tuple[Interval | None, int]:
        """GAUC of A-CTR minus that of the control (None: too few users), and the number of users with clicks and non-clicks."""
        _, user, label, p = self._users.rows()
        at, _ = self._users.complete_rows(self._clock - self.days * DAY_MS)
        inside, codes, clickers = rows_of_clickers(user[at], label[at])
        if not len(inside):
            return None, 0
        rows = at[inside]
        first, second = (auc_of_codes(codes, label[rows], p[i, rows]) for i in (0, 1))
        keep = first.both_classes
        if keep.sum() < 2:
            return None, int(keep.sum())
        n = first.impressions[keep].astype(np.float64)
        gain = n * (first.auc[keep] - second.auc[keep])
        w = poisson_weights(clickers[first.group[keep]]).astype(np.float64)
        drawn = (gain @ w) / np.maximum(n @ w, 1e-9)
        value = float(gain.sum() / n.sum())
        half = 1.96 * float(drawn.std(ddof=1))
        return {"value": value, "low": value - half, "high": value + half}, int(keep.sum())

    def to_json(self) -> TransferFigures:
        """The section ``transfer`` of ``Monitor.snapshot``. GAUC decides the verdict unless its interval contains 0; then the loss does."""
        recent = self._day > self._clock // DAY_MS - self.days
        gain, users = self.gauc()
        loss = self.log_loss()
        verdict: Literal["better", "worse", "undecided"] = "undecided"
        if gain is not None and (gain["low"] > 0 or gain["high"] < 0):
            verdict = "better" if gain["low"] > 0 else "worse"
        elif loss is not None and (loss["low"] > 0 or loss["high"] < 0):
            verdict = "worse" if loss["low"] > 0 else "better"
        return {
            "rows": int(self._rows[recent].sum()),
            "users": users,
            "days": self.days,
            "gauc": _finite(gain),
            "log_loss": _finite(loss),
            "verdict": verdict,
        }


def _finite(interval: Interval | None) -> Interval | None:
    if interval is None or not all(math.isfinite(interval[k]) for k in ("value", "low", "high")):
        return None
    return interval
