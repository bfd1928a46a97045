"""Sliding event-time windows in bounded memory: counts, loss, calibration, AUC with an error bound, GAUC of a sample of users.

A window of 5 minutes, 1 hour or 1 day consists of 5, 12 or 24 slots; the oldest slot is dropped when event time enters a new one.

- **Sums** (rows, clicks, predicted clicks, loss) are exact.
- **AUC** is computed from histograms of the predicted log-odds. Rows in the same bin count as ties, so the error is at most
  ``sum_k P_k N_k / (2 P N)`` (``P_k, N_k``: clicks and non-clicks in bin k).
- **GAUC** is computed from a sample of users, selected by hash, with all of their rows in the window. While the window's rows fit
  into ``gauc_rows``, the sample contains all users and the value is exact. Otherwise the share ``f`` of users is halved until their
  rows fit, and the error is that of a ratio estimated from a sample of users:
  ``1.96 sqrt(1 - f) sqrt(sum n_u^2 (A_u - GAUC)^2) / sum n_u`` (Cochran, "Sampling Techniques", 1977, section 6.5). If the rows
  become few, the share is doubled; the added users are used when the window has no rows from before that time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.models.probability import fast_log_losses, fast_logit
from ecdctr.monitor.quality.results import ArmFigures, WindowFigures
from ecdctr.replay.metrics import auc_of_codes
from ecdctr.state.hashing import mix64

__all__ = [
    "COUNTS",
    "SUMS",
    "WINDOWS",
    "DomainWindow",
    "Scored",
    "Tally",
    "UserRows",
    "auc_of_counts",
    "rows_of_clickers",
]

WINDOWS: dict[str, tuple[int, int]] = {"5m": (60_000, 5), "1h": (300_000, 12), "1d": (3_600_000, 24)}
"""Name -> length of a slot (ms), number of slots."""

AUC_BINS = 512
"""Histogram bins of the predicted log-odds, between ``_LOW`` and ``_HIGH``."""

_LOW, _HIGH = -12.0, 8.0
_SALT = np.uint64(0x6C1D5A97E2B804F3)
_NEVER = -(2**62)
COUNTS = ("rows", "clicks", "late", "unseen_users", "unseen_items", "with_history", "history_known")
"""Counts of a slot; the last two: rows whose user had TPM vectors, and rows for which this was looked up."""

SUMS = ("rows", "clicks", "predicted", "loss")

Floats = NDArray[np.float64]


def auc_of_counts(clicks: Floats, others: Floats) -> tuple[float, float]:
    """AUC from a histogram of scores (ascending bins) and its largest error; NaN without clicks or without non-clicks.

    >>> auc_of_counts(np.array([0.0, 2.0]), np.array([2.0, 0.0]))
    (1.0, 0.0)
    """
    p, n = float(clicks.sum()), float(others.sum())
    if not p or not n:
        return math.nan, math.nan
    below = np.cumsum(others) - others
    tied = float(clicks @ others)
    return (float(clicks @ below) + tied / 2) / (p * n), tied / (2 * p * n)


def rows_of_clickers(
    user: NDArray[np.uint64], click: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.uint64], NDArray[np.uint64]]:
    """Row numbers of users with a click, index of each row's user in the third array, and the ids of these users, ascending.

    Users without clicks do not contribute to GAUC. As most users of a window have none, sorting only the others is much cheaper.

    >>> [a.tolist() for a in rows_of_clickers(np.array([7, 9, 7, 8], np.uint64), np.array([1, 0, 0, 0], bool))]
    [[0, 2], [0, 0], [7]]
    """
    clickers = np.unique(user[click])
    if not len(clickers):
        return np.empty(0, np.intp), np.empty(0, np.uint64), clickers
    code = np.searchsorted(clickers, user)
    code[code == len(clickers)] = 0
    rows = np.flatnonzero(clickers[code] == user)
    return rows, code[rows].astype(np.uint64), clickers


class UserRows:
    """Scored rows of a sample of users.

    Up to ``2 * capacity`` rows are buffered. When the buffer is full, rows older than the window are removed, and then users until at
    most ``capacity`` rows remain.

    Parameters
    ----------
    arms
        Names of the arms whose predictions are stored.
    capacity
        Rows that remain at most when the buffer is reduced.
    span_ms
        Length of the window.

    Attributes
    ----------
    share
        Fraction of the users that is sampled.
    """

    def __init__(self, arms: Sequence[str], capacity: int, span_ms: int) -> None:
        self.capacity, self.span_ms = capacity, span_ms
        self.share = 1.0
        self._doubled_at = (
            _NEVER  # event time up to which rows of the users that were added last may be missing
        )
        self.arms = tuple(arms)
        size = 2 * capacity
        self._ts = np.empty(size, np.int64)
        self._user = np.empty(size, np.uint64)
        self._label = np.empty(size, np.bool_)
        self._p = np.empty((len(self.arms), size), np.float32)
        self._n = 0

    def add(
        self,
        ts: NDArray[np.int64],
        user: NDArray[np.uint64],
        label: NDArray[np.float32],
        scores: NDArray[np.float32],
        clock_ms: int,
    ) -> None:
        """Add rows with their scores ``(arms, n)``."""
        for first in range(0, len(ts), self.capacity):
            part = slice(first, first + self.capacity)
            self._add(ts[part], user[part], label[part], scores[:, part], clock_ms)

    def _add(
        self,
        ts: NDArray[np.int64],
        user: NDArray[np.uint64],
        label: NDArray[np.float32],
        scores: NDArray[np.float32],
        clock_ms: int,
    ) -> None:
        keep = ts > clock_ms - self.span_ms
        if self.share < 1.0:
            keep &= _in_sample(user, self.share)
        if not keep.all():
            ts, user, label, scores = ts[keep], user[keep], label[keep], scores[:, keep]
        n = len(ts)
        if self._n + n > len(self._ts):
            self._drop(clock_ms)
            if self.share < 1.0:  # the share may have been halved
                keep = _in_sample(user, self.share)
                ts, user, label, scores = ts[keep], user[keep], label[keep], scores[:, keep]
                n = len(ts)
        part = slice(self._n, self._n + n)
        self._ts[part], self._user[part], self._label[part] = ts, user, label > 0
        self._p[:, part] = scores
        self._n += n

    def _drop(self, clock_ms: int) -> None:
        """Remove rows older than the window, then halve the share of users until the rest fits into ``capacity``."""
        begin = clock_ms - self.span_ms
        keep = self._ts[: self._n] > begin
        while int(keep.sum()) > self.capacity:
            self.share /= 2
            self._doubled_at = _NEVER  # the users that were added last are removed again
            keep &= _in_sample(self._user[: self._n], self.share)
        n = int(keep.sum())
        # Fewer rows than an eighth of the capacity: add users, of whom only later rows will be complete.
        if self.share < 1.0 and n < self.capacity // 8 and self._doubled_at <= begin:
            self.share *= 2
            self._doubled_at = clock_ms
        for column in (self._ts, self._user, self._label):
            column[:n] = column[: self._n][keep]
        self._p[:, :n] = self._p[:, : self._n][:, keep]
        self._n = n

    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.bool_], NDArray[np.float32]]:
        """The buffered rows: ts, user, label, scores ``(arms, n)``. These are views; some rows may be older than the window."""
        n = self._n
        return self._ts[:n], self._user[:n], self._label[:n], self._p[:, :n]

    def complete_rows(self, after_ms: int) -> tuple[NDArray[np.intp], float]:
        """Numbers of the rows with ``ts > after_ms`` of sampled users of whom no such row is missing, and the share of these users.

        After the share was doubled, earlier rows of the added users are missing: these users are excluded from a span of time that
        begins before that.
        """
        rows = np.flatnonzero(self._ts[: self._n] > after_ms)
        if after_ms >= self._doubled_at:
            return rows, self.share
        return rows[_in_sample(self._user[rows], self.share / 2)], self.share / 2

    def gauc(self, clock_ms: int) -> dict[str, tuple[float, float, int]]:
        """For each arm: GAUC, half width of its 95 % interval (0 if exact), number of users with clicks and non-clicks."""
        at, share = self.complete_rows(clock_ms - self.span_ms)
        inside, codes, _ = rows_of_clickers(self._user[at], self._label[at])
        rows = at[inside]
        label = self._label[rows]
        out = {}
        for i, arm in enumerate(self.arms):
            if np.isnan(self._p[i, at]).all():
                continue
            p = self._p[i, rows]
            known = ~np.isnan(p)
            if not known.any():
                out[arm] = (math.nan, math.nan, 0)
                continue
            ranked = auc_of_codes(codes[known], label[known], p[known])
            keep = ranked.both_classes
            n, a = ranked.impressions[keep], ranked.auc[keep]
            if not len(n):
                out[arm] = (math.nan, math.nan, 0)
                continue
            value = float(n @ a) / int(n.sum())
            spread = math.sqrt(float((n * (a - value)) @ (n * (a - value)))) / int(n.sum())
            error = 0.0 if share >= 1.0 else 1.96 * math.sqrt(1 - share) * spread
            out[arm] = (value, error, len(n))
        return out


def _in_sample(user: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """Whether users belong to the sample of a share of all users; a smaller share is a subset of a larger one."""
    return np.asarray(mix64(user ^ _SALT) <= np.uint64(int(share * 2.0**64) - 1))


class DomainWindow:
    """One window of one domain.

    Parameters
    ----------
    name
        A key of :data:`WINDOWS`.
    arms
        Names of the arms whose predictions are summed.
    gauc_rows
        ``capacity`` of :class:`UserRows`.
    """

    def __init__(self, name: str, arms: Sequence[str], gauc_rows: int) -> None:
        self.slot_ms, self.slots = WINDOWS[name]
        self.arms = tuple(arms)
        self._slot = np.full(self.slots, -1, np.int64)
        self._counts = np.zeros((self.slots, len(COUNTS)))
        self._sums = np.zeros((len(self.arms), self.slots, len(SUMS)))
        self._bins = np.zeros((len(self.arms), self.slots, 2 * AUC_BINS))
        self.users = UserRows(self.arms, gauc_rows, self.slot_ms * self.slots)
        self._now = -1

    @property
    def span_ms(self) -> int:
        """Length of the window."""
        return self.slot_ms * self.slots

    def advance(self, clock_ms: int) -> None:
        """Advance event time to ``clock_ms`` and clear the slots that are no longer in the window."""
        now = clock_ms // self.slot_ms
        if now <= self._now:
            return
        for s in range(max(self._now + 1, now - self.slots + 1), now + 1):
            i = s % self.slots
            self._slot[i] = s
            self._counts[i] = 0
            self._sums[:, i] = 0
            self._bins[:, i] = 0
        self._now = now

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the counts for :meth:`restore`; the sums are rebuilt from the score log."""
        return {"slot": self._slot, "counts": self._counts}

    def restore(self, arrays: Mapping[str, NDArray[Any]], clock_ms: int) -> None:
        """Restore the counts of slots that are still in the window."""
        self.advance(clock_ms)
        for s, c in zip(arrays["slot"].tolist(), arrays["counts"], strict=True):
            if self._slot[s % self.slots] == s:
                self._counts[s % self.slots] = c

    def add(self, tally: Tally, scored: Scored, clock_ms: int) -> None:
        """Add the sums of a block of rows, and the predictions for those of them that were scored."""
        self.advance(clock_ms)
        slot = tally.at_ms // self.slot_ms
        inside = slot > self._now - self.slots
        if not inside.any():
            return
        place = slot[inside] % self.slots
        np.add.at(self._counts, place, tally.counts[inside])
        np.add.at(self._sums.transpose(1, 0, 2), place, tally.sums[inside])
        if len(scored.ts):
            self._add_scored(scored, clock_ms)

    def _add_scored(self, s: Scored, clock_ms: int) -> None:
        slot = s.ts // self.slot_ms
        inside = slot > self._now - self.slots
        if not inside.any():
            return
        for i, known in enumerate(s.known):
            if known is None:
                continue
            rows = inside & known
            flat = slot[rows] % self.slots * (2 * AUC_BINS) + s.bins[i][rows]
            counts = np.bincount(flat, minlength=self.slots * 2 * AUC_BINS)
            self._bins[i] += counts.reshape(self.slots, -1)
        self.users.add(s.ts, s.user, s.label, s.p, clock_ms)

    def figures(self, clock_ms: int, *, auc: bool = True, gauc: bool = True) -> WindowFigures:
        """Return the metrics of the window. AUC and GAUC are expensive: they are None unless ``auc`` and ``gauc`` are set."""
        self.advance(clock_ms)
        c = dict(zip(COUNTS, self._counts.sum(0).tolist(), strict=True))
        rows = c["rows"]
        gauc_of = self.users.gauc(clock_ms) if gauc else {}
        arms = {}
        for i, arm in enumerate(self.arms):
            if self._sums[i, :, 0].any():
                arms[arm] = self._arm(i, gauc_of.get(arm), auc=auc)
        known = c["history_known"]
        return {
            "rows": int(rows),
            "rows_per_s": rows / (self.span_ms / 1000),
            "clicks": int(c["clicks"]),
            "ctr": c["clicks"] / rows if rows else None,
            "late": int(c["late"]),
            "unseen_users": c["unseen_users"] / rows if rows else None,
            "unseen_items": c["unseen_items"] / rows if rows else None,
            "tpm_share": c["with_history"] / known if known else None,
            "arms": arms,
        }

    def _arm(self, i: int, gauc: tuple[float, float, int] | None, *, auc: bool) -> ArmFigures:
        rows, clicks, predicted, loss = (float(v) for v in self._sums[i].sum(0))
        ctr = clicks / rows
        entropy = -(ctr * math.log(ctr) + (1 - ctr) * math.log1p(-ctr)) if 0 < ctr < 1 else 0.0
        area = area_error = math.nan
        if auc:
            bins = self._bins[i].sum(0)
            area, area_error = auc_of_counts(bins[1::2], bins[::2])
        value, error, users = gauc or (math.nan, math.nan, 0)
        return {
            "rows": int(rows),
            "clicks": int(clicks),
            "ctr": ctr,
            "log_loss": loss / rows,
            "ne": loss / rows / entropy if entropy else None,
            "pcoc": predicted / clicks if clicks else None,
            "auc": _finite(area),
            "auc_error": _finite(area_error),
            "gauc": _finite(value),
            "gauc_error": _finite(error),
            "gauc_users": users,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Scored:
    """Predicted rows. Losses and histogram bins are computed once and shared by all windows.

    Parameters
    ----------
    ts, user, label
        Columns of the rows, each ``(n,)``.
    scores
        Probabilities by arm, each ``(n,)``; NaN where an arm did not predict a row.
    arms
        The order of the arms in the attributes.

    Attributes
    ----------
    p
        Probabilities, ``(arms, n)``; NaN where there is none.
    known
        For each arm the mask of the rows that it predicted, ``(n,)``; None if it predicted none.
    loss
        For each arm the log loss of each row, ``(n,)``; meaningless where ``known`` is None.
    bins
        For each arm and row twice the bin of the score, plus 1 if the row was clicked, ``(n,)``; empty where ``known`` is None.
    """

    def __init__(
        self,
        ts: NDArray[np.int64],
        user: NDArray[np.uint64],
        label: NDArray[np.float32],
        scores: Mapping[str, NDArray[np.float32]],
        arms: Sequence[str],
    ) -> None:
        self.ts, self.user, self.label = ts, user, label
        n = len(ts)
        self.p = np.full((len(arms), n), np.nan, np.float32)
        self.known: list[NDArray[np.bool_] | None] = []
        self.loss: list[NDArray[np.float32]] = []
        self.bins: list[NDArray[np.int32]] = []
        click = label > 0
        for i, arm in enumerate(arms):
            p = scores.get(arm)
            if p is None or not n:
                self.known.append(None)
                self.loss.append(label)
                self.bins.append(np.empty(0, np.int32))
                continue
            self.p[i] = p
            known = ~np.isnan(p)
            self.known.append(known)
            self.loss.append(fast_log_losses(click, p))
            z = fast_logit(p)
            with np.errstate(invalid="ignore"):
                k = ((z - _LOW) * (AUC_BINS / (_HIGH - _LOW))).clip(0, AUC_BINS - 1).astype(np.int32)
            self.bins.append(2 * k + click)


class Tally:
    """Counts and sums of rows by slots of ``slot_ms``.

    They are computed once and added to all windows and series, whose slots are multiples of ``slot_ms``.

    Parameters
    ----------
    slot_ms
        Length of a slot.
    ts
        Event times of all rows, ms, ``(n,)``.
    columns
        Masks of the rows to count, in the order of ``COUNTS[1:]``, each ``(n,)``; None: none.
    scored
        Those of the rows that were predicted.

    Attributes
    ----------
    at_ms
        Start of each slot, shape ``(S,)``, ascending.
    counts
        :data:`COUNTS` of each slot, ``(S, 7)``.
    sums
        :data:`SUMS` of each slot and arm, ``(S, arms, 4)``.
    """

    def __init__(
        self,
        slot_ms: int,
        ts: NDArray[np.int64],
        columns: Sequence[NDArray[Any] | None],
        scored: Scored,
    ) -> None:
        slot = ts // slot_ms
        first, last = int(slot.min()), int(slot.max())
        if last - first < 4 * len(ts) + 4096:
            slots = np.arange(first, last + 1)
            code, of_scored = slot - first, scored.ts // slot_ms - first
        else:  # sparse slots: a single outlier in time must not allocate all slots in between
            slots, code = np.unique(slot, return_inverse=True)
            of_scored = np.searchsorted(slots, scored.ts // slot_ms)
        n = len(slots)
        self.at_ms = slots * slot_ms
        self.counts = np.zeros((n, len(COUNTS)))
        self.counts[:, 0] = np.bincount(code, minlength=n)
        for j, column in enumerate(columns, 1):
            if column is not None:
                self.counts[:, j] = np.bincount(code[column], minlength=n)
        self.sums = np.zeros((n, len(scored.known), len(SUMS)))
        for i, known in enumerate(scored.known):
            if known is None:
                continue
            at = of_scored[known]
            for j, w in enumerate((None, scored.label, scored.p[i], scored.loss[i])):
                weights = None if w is None else w[known]
                self.sums[:, i, j] = np.bincount(at, weights=weights, minlength=n)
