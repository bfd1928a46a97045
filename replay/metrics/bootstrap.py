"""Is the difference between two arms real? Paired bootstrap over users.

Users, not rows, are resampled: the rows of one user depend on each other, so resampling rows would make the interval
too narrow. Both arms are scored on identical rows, so a drawn user counts for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecdctr.replay.metrics.probability import entropy, losses
from ecdctr.replay.metrics.ranking import group_auc

__all__ = [
    "Interval",
    "gauc_contrast",
    "gauc_difference",
    "gauc_interval",
    "ne_difference",
    "weighted_mean",
]

_DRAWS_AT_ONCE = 1 << 22
"""User draws held in memory at a time (32 MB)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its percentile bootstrap interval; NaN throughout when no user has both classes."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval; False for NaN."""
        return self.low > 0 or self.high < 0


def gauc_difference(
    y: ArrayLike,
    p: ArrayLike,
    base: ArrayLike,
    user: ArrayLike,
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    drawn_by: NDArray[np.int64] | None = None,
) -> Interval:
    """GAUC of scores ``p`` minus GAUC of scores ``base``, on the same rows.

    Parameters
    ----------
    y, user
        Labels and user ids, shape ``(n,)``.
    p, base
        Scores of the two arms, shape ``(n,)``.
    samples
        Draws of as many users as there are, with replacement.
    level
        Mass of the interval, 0 < level < 1.
    seed
        The same seed gives the same interval.
    drawn_by
        ``(n,)``: the unit that is resampled instead of ``user``; each user belongs to one unit. Where models of several
        seeds scored the same people, a user is a person under one seed, and people are resampled.

    Examples
    --------
    >>> y, user = [1, 0] * 50, [u for u in range(50) for _ in range(2)]
    >>> gauc_difference(y, [0.9, 0.1] * 50, [0.1, 0.9] * 50, user)
    Interval(value=1.0, low=1.0, high=1.0)
    """
    terms = [(1.0, p), (-1.0, base)]
    return gauc_contrast(y, terms, user, samples=samples, level=level, seed=seed, drawn_by=drawn_by)


def gauc_contrast(
    y: ArrayLike,
    terms: Sequence[tuple[float, ArrayLike]],
    user: ArrayLike,
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    drawn_by: NDArray[np.int64] | None = None,
) -> Interval:
    """``sum_k c_k GAUC(p_k)`` of scores on the same rows, for example a difference of differences; paired over users.

    Parameters
    ----------
    y, user, samples, level, seed, drawn_by
        See :func:`gauc_difference`.
    terms
        Pairs ``(c_k, p_k)``.

    Examples
    --------
    >>> y, user = [1, 0] * 50, [u for u in range(50) for _ in range(2)]
    >>> right, wrong = [0.9, 0.1] * 50, [0.1, 0.9] * 50
    >>> gauc_contrast(y, [(1, right), (-1, wrong), (-1, right), (1, wrong)], user)
    Interval(value=0.0, low=0.0, high=0.0)
    """
    parts = [(c, group_auc(y, p, user)) for c, p in terms]
    first = parts[0][1]
    keep = first.both_classes  # the same users in the same order for all terms: this depends on labels only
    value = np.sum([c * part.auc[keep] for c, part in parts], axis=0)
    weight = first.impressions[keep]
    if drawn_by is not None:
        value, weight = _gather(value, weight, first.group[keep], np.asarray(user), drawn_by)
    return weighted_mean(value, weight, samples, level, seed)


def _gather(
    value: NDArray[np.float64],
    weight: NDArray[np.int64],
    group: NDArray[np.int64],
    user: NDArray[np.int64],
    drawn_by: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Weighted means over the users of each resampled unit, and their weights."""
    users, at = np.unique(user, return_index=True)
    unit = np.unique(drawn_by[at], return_inverse=True)[1][np.searchsorted(users, group)]
    total = np.bincount(unit, weight)
    keep = total > 0
    return np.bincount(unit, weight * value)[keep] / total[keep], total[keep].astype(np.int64)


def ne_difference(
    y: ArrayLike,
    p: ArrayLike,
    base: ArrayLike,
    user: ArrayLike,
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """NE of probabilities ``p`` minus NE of ``base``, on the same rows; parameters as in :func:`gauc_difference`.

    All users are resampled, also those with one class only. The denominator of NE is that of the actual rows: it is the same
    for both arms, so the sign of the difference and whether the interval contains 0 are those of the log loss. NaN where all
    rows have one label.

    Examples
    --------
    >>> y, user = [1, 0] * 50, [u for u in range(50) for _ in range(2)]
    >>> found = ne_difference(y, [0.8, 0.2] * 50, [0.5, 0.5] * 50, user)
    >>> round(found.value, 4), found.high < 0
    (-0.6781, True)
    """
    loss = losses(y, p) - losses(y, base)
    _, code = np.unique(np.asarray(user), return_inverse=True)
    weight = np.bincount(code)
    mean = np.bincount(code, weights=loss) / weight
    found, scale = weighted_mean(mean, weight, samples, level, seed), entropy(y)
    return Interval(*(x / scale if scale else float("nan") for x in (found.value, found.low, found.high)))


def gauc_interval(
    y: ArrayLike,
    p: ArrayLike,
    user: ArrayLike,
    *,
    samples: int = 200,
    level: float = 0.95,
    seed: int = 0,
    drawn_by: NDArray[np.int64] | None = None,
) -> Interval:
    """GAUC of one arm with its interval; parameters as in :func:`gauc_difference`."""
    ranked = group_auc(y, p, user)
    keep = ranked.both_classes
    value, weight = ranked.auc[keep], ranked.impressions[keep]
    if drawn_by is not None:
        value, weight = _gather(value, weight, ranked.group[keep], np.asarray(user), drawn_by)
    return weighted_mean(value, weight, samples, level, seed)


def weighted_mean(
    value: NDArray[np.float64], weight: NDArray[np.int64], samples: int, level: float, seed: int
) -> Interval:
    """``sum w v / sum w`` over users, and its percentiles over draws of the users."""
    if samples < 1 or not 0 < level < 1:
        raise ValueError(
            f"samples={samples} and level={level}: at least one sample and 0 < level < 1 are needed"
        )
    users = len(value)
    if not users:
        return Interval(float("nan"), float("nan"), float("nan"))
    rng = np.random.Generator(np.random.Philox(seed))
    part = weight * value
    drawn = np.empty(samples)
    step = max(1, _DRAWS_AT_ONCE // users)
    for i in range(0, samples, step):
        who = rng.integers(0, users, size=(min(step, samples - i), users), dtype=np.int32)
        drawn[i : i + step] = part[who].sum(axis=1) / weight[who].sum(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(part.sum()) / float(weight.sum()), float(low), float(high))
