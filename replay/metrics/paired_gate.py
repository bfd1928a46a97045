"""``PairedGate``: decides whether a release is accepted, by paired intervals on rows that all models predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.models.training import GateRows, Verdict
from ecdctr.replay.metrics.bootstrap import Interval, gauc_difference, ne_difference

__all__ = ["PairedGate"]


class PairedGate:
    """Rejects a release that is significantly worse than the current A-CTR or than the ads-only control.

    A release is worse if a paired bootstrap interval over users (95 %) lies completely on the wrong side of 0: the upper end
    of the GAUC difference below 0, or the lower end of the NE difference above 0. Four such tests (two metrics, two
    baselines) reject a release that is in fact equally good in at most one of ten cases, and in fewer because the differences
    to the two baselines are correlated. A release is accepted without a test, with this as the reason, if there are fewer
    than ``min_rows`` rows or fewer than ``min_users`` users that count.

    The seed is fixed: the same rows give the same verdict.

    Parameters
    ----------
    min_rows
        Fewer rows are not tested.
    min_users
        With fewer users (for GAUC: users with a click and a non-click) a metric is not tested: the bootstrap intervals of a
        handful of users are too narrow.
    max_rows
        Only this many of the newest rows are used, which bounds the duration of a release.
    samples, level, seed
        Parameters of the bootstrap.

    Examples
    --------
    >>> rows = np.arange(2000)
    >>> user, label = (rows // 20).astype(np.uint64), (rows % 4 == 0).astype(np.float32)
    >>> good, bad = np.where(label, 0.3, 0.2).astype(np.float32), np.where(label, 0.2, 0.3).astype(np.float32)
    >>> PairedGate()(GateRows(user, label, good, bad, bad)).accepted
    True
    >>> PairedGate()(GateRows(user, label, bad, good, bad)).reason
    'worse than the current A-CTR on GAUC, worse than the current A-CTR on NE'
    """

    def __init__(
        self,
        *,
        min_rows: int = 500,
        min_users: int = 30,
        max_rows: int = 200_000,
        samples: int = 500,
        level: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.min_rows, self.min_users, self.max_rows = min_rows, min_users, max_rows
        self._draws: dict[str, Any] = {"samples": samples, "level": level, "seed": seed}

    def __call__(self, rows: GateRows) -> Verdict:
        """Decide on a release.

        1. Too few rows: accept.
        2. A prediction is not finite: reject.
        3. Significantly worse than the current A-CTR or the control: reject, else accept.

        The figures are differences, candidate minus baseline: ``gauc_serving``, ``gauc_serving_low``, ``..._high``, and
        likewise for ``ne`` and ``control``; also ``rows``, ``users`` (all) and ``users_ranked`` (those that GAUC counts).
        """
        if len(rows) < self.min_rows:
            why = f"not tested, {len(rows):,} rows that all predicted are too few ({self.min_rows:,})"
            return Verdict(True, why, {"rows": float(len(rows))})
        newest = slice(-self.max_rows, None)
        user, y = rows.user[newest], rows.label[newest]
        p = rows.candidate[newest]
        wrong = int((~np.isfinite(p)).sum())
        if wrong:
            figures = {"rows": float(len(p)), "not_finite": float(wrong)}
            return Verdict(False, f"{wrong:,} of its predictions are not finite", figures)
        users, ranked = _users(user, y)
        figures = {"rows": float(len(p)), "users": float(users), "users_ranked": float(ranked)}
        worse = []
        for baseline, name in (("serving", "the current A-CTR"), ("control", "the control")):
            base = getattr(rows, baseline)[newest]
            if ranked >= self.min_users:
                gain = gauc_difference(y, p, base, user, **self._draws)
                _note(figures, f"gauc_{baseline}", gain)
                if gain.high < 0:
                    worse.append(f"worse than {name} on GAUC")
            if users >= self.min_users:
                loss = ne_difference(y, p, base, user, **self._draws)
                _note(figures, f"ne_{baseline}", loss)
                if loss.low > 0:
                    worse.append(f"worse than {name} on NE")
        if worse:
            return Verdict(False, ", ".join(worse), figures)
        if users < self.min_users:
            return Verdict(True, f"not tested, {users} users are too few ({self.min_users})", figures)
        return Verdict(True, "not worse than the current A-CTR and the control", figures)


def _users(user: NDArray[Any], y: NDArray[Any]) -> tuple[int, int]:
    """Users, and those with both a click and a non-click."""
    _, code = np.unique(user, return_inverse=True)
    n, clicks = np.bincount(code), np.bincount(code, weights=y)
    return len(n), int(((clicks > 0) & (clicks < n)).sum())


def _note(figures: dict[str, float], name: str, found: Interval) -> None:
    figures[name], figures[f"{name}_low"], figures[f"{name}_high"] = found.value, found.low, found.high
