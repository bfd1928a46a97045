"""GAUC and AUC: exact, ties one half, without a Python loop over users.

One sort ranks everything: a row's 64-bit key holds (group, score, label) from the highest bit down, so a
plain sort of integers puts each group's rows in score order, and runs of equal (group, score) are ties.
Groups are processed in parts, so the memory beyond the inputs stays bounded.

References
----------
Zhu et al., "Optimized Cost per Click in Taobao Display Advertising", KDD 2017 (GAUC).
Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018 (weighted by impressions).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "GaucResult",
    "GroupAuc",
    "auc",
    "auc_of_codes",
    "check_rows",
    "gauc",
    "group_auc",
    "list_auc",
    "rela_impr",
]

PART_ROWS = 500_000
"""Rows sorted at a time: about 25 MB of temporary arrays."""

AT_ONCE = 4
"""Most parts that are sorted at the same time."""

_MIX = np.uint64(0x9E3779B97F4A7C15)

_Part = tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Groups, their rows, clicks and AUC."""


@dataclass(frozen=True, slots=True)
class GaucResult:
    """GAUC and what it covers.

    Attributes
    ----------
    value
        GAUC in [0, 1]; NaN when no user has both a click and a non-click.
    users, impressions
        Users with at least one click and one non-click, and their rows: what ``value`` averages over.
    users_total, impressions_total
        All users and all rows of the input.
    """

    value: float
    users: int
    users_total: int
    impressions: int
    impressions_total: int

    @property
    def user_coverage(self) -> float:
        """Share of users that count, NaN without rows."""
        return self.users / self.users_total if self.users_total else float("nan")

    @property
    def impression_coverage(self) -> float:
        """Share of impressions that count, NaN without rows."""
        return self.impressions / self.impressions_total if self.impressions_total else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class GroupAuc:
    """AUC of each group; the order of the groups is unspecified, but the same for any scores.

    Attributes
    ----------
    group
        Group ids, shape ``(G,)``.
    impressions, clicks
        Rows and clicks of each group, int64, shape ``(G,)``.
    auc
        float64, shape ``(G,)``; NaN for a group of one class only.
    """

    group: NDArray[Any]
    impressions: NDArray[np.int64]
    clicks: NDArray[np.int64]
    auc: NDArray[np.float64]

    @property
    def both_classes(self) -> NDArray[np.bool_]:
        """Groups with at least one click and one non-click."""
        return (self.clicks > 0) & (self.clicks < self.impressions)

    def gauc(self) -> GaucResult:
        """``sum n_g AUC_g / sum n_g`` over the groups with both classes."""
        keep = self.both_classes
        n = self.impressions[keep]
        rows = int(n.sum())
        return GaucResult(
            value=float(n @ self.auc[keep]) / rows if rows else float("nan"),
            users=len(n),
            users_total=len(self.group),
            impressions=rows,
            impressions_total=int(self.impressions.sum()),
        )


def gauc(y: ArrayLike, p: ArrayLike, user: ArrayLike) -> GaucResult:
    """AUC within each user, averaged over users by impressions.

    Users without a click, or with clicks only, are excluded from numerator *and* denominator; the result counts the
    others. With list ids for ``user`` this is the per-list AUC.

    Parameters
    ----------
    y
        Labels 0 or 1, shape ``(n,)``.
    p
        Scores, shape ``(n,)``; any monotone scale.
    user
        User id of each row, any order, shape ``(n,)``.

    Raises
    ------
    ValueError
        Lengths differ, a score is NaN, a label is neither 0 nor 1.

    Examples
    --------
    User 1 is ranked correctly, user 2 has a tie, user 3 never clicked:

    >>> r = gauc([1, 0, 1, 0, 0, 0], [0.9, 0.1, 0.5, 0.5, 0.2, 0.3], [1, 1, 2, 2, 3, 3])
    >>> r.value, r.users, r.users_total, r.impressions, r.impressions_total
    (0.75, 2, 3, 4, 6)
    """
    return group_auc(y, p, user).gauc()


def list_auc(y: ArrayLike, p: ArrayLike, list_id: ArrayLike) -> GaucResult:
    """AUC within each impression list, averaged by impressions: :func:`gauc` with lists for users.

    Use it where the length of a list reveals the click: rows of different lists are never compared.
    """
    return gauc(y, p, list_id)


def auc(y: ArrayLike, p: ArrayLike) -> float:
    """Area under the ROC curve, ties one half; NaN when there is one class only.

    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    labels, scores = check_rows(y, p)
    if not len(labels):
        return float("nan")
    codes = np.zeros(len(labels), np.uint64)
    return float(auc_of_codes(codes, labels, scores).auc[0])


def rela_impr(value: float, base: float) -> float:
    """``(value - 0.5) / (base - 0.5) - 1`` for an AUC or GAUC: the relative gain over a random ranking.

    >>> round(rela_impr(0.78, 0.7), 6)
    0.4
    """
    return (value - 0.5) / (base - 0.5) - 1.0 if base != 0.5 else float("nan")


def group_auc(y: ArrayLike, p: ArrayLike, group: ArrayLike) -> GroupAuc:
    """AUC of each group; arguments and errors as :func:`gauc`."""
    labels, scores = check_rows(y, p)
    ids = np.asarray(group)
    if ids.shape != labels.shape:
        raise ValueError(f"{len(labels)} labels, but group ids of shape {ids.shape}: one a row is needed")
    if ids.dtype.kind not in "iu":
        values, inverse = np.unique(ids, return_inverse=True)
        out = group_auc(labels, scores, inverse)
        return GroupAuc(values[out.group], out.impressions, out.clicks, out.auc)
    parts = _in_parts(labels, scores, ids)
    if not parts:
        none = np.empty(0, np.int64)
        return GroupAuc(ids, none, none, np.empty(0))
    return GroupAuc(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def check_rows(y: ArrayLike, p: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Labels as bool and scores as float32 or float64; ValueError names the first invalid row."""
    labels, scores = np.asarray(y), np.asarray(p)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(
            f"labels have shape {labels.shape}, scores {scores.shape}: two vectors of one length are needed"
        )
    if labels.dtype != np.bool_:
        wrong = (labels != 0) & (labels != 1)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"label {labels[row]} in row {row} is neither 0 nor 1")
        labels = labels != 0
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    bad = np.isnan(scores)
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {len(scores)} scores are NaN, the first in row {int(bad.argmax())}"
        )
    return labels, scores


def _in_parts(y: NDArray[np.bool_], p: NDArray[Any], ids: NDArray[Any]) -> list[_Part]:
    """Process the groups in parts of the rows, several in parallel: sorting releases Python's lock."""
    parts = -(-len(ids) // PART_ROWS)
    if parts == 1:
        return [_one_part(y, p, ids)]
    # Multiplication spreads ids that differ in their high bits only; the part is taken from the high bits of the product.
    part = ((ids.astype(np.uint64) * _MIX) >> np.uint64(40)) % np.uint64(max(parts, 1))
    part = part.astype(np.uint16)

    def one(k: int) -> _Part | None:
        rows = np.flatnonzero(part == k)
        return _one_part(y[rows], p[rows], ids[rows]) if len(rows) else None

    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        return [found for found in pool.map(one, range(parts)) if found is not None]


def _one_part(y: NDArray[np.bool_], p: NDArray[Any], ids: NDArray[Any]) -> _Part:
    order = np.argsort(ids)
    ids = ids[order]
    first = np.empty(len(ids), np.bool_)
    first[0] = True
    np.not_equal(ids[1:], ids[:-1], out=first[1:])
    codes = np.cumsum(first, dtype=np.uint64) - np.uint64(1)
    found = auc_of_codes(codes, y[order], p[order])
    return ids[first], found.impressions, found.clicks, found.auc


def auc_of_codes(codes: NDArray[np.uint64], y: NDArray[np.bool_], p: NDArray[Any]) -> GroupAuc:
    """Like :func:`group_auc` for groups numbered below ``2**30``, which saves a sort. Groups ascend.

    By the Mann-Whitney count, from any row order. A pair (click, non-click) counts 2 when the click scores higher, 1
    when they tie: integers, so the result does not depend on the order of summation.
    """
    rank, bits = _ranks(p)
    key = (((codes << np.uint64(bits)) | rank) << np.uint64(1)) | y
    key.sort()
    clicks_before = np.concatenate([[0], np.cumsum(key & np.uint64(1), dtype=np.int64)])
    # Runs of equal (group, score).
    start = np.flatnonzero(np.concatenate([[True], (key[1:] ^ key[:-1]) > np.uint64(1)]))
    edge = np.append(start, len(key))
    clicks_at = clicks_before[edge]
    non_clicks_at = edge - clicks_at
    code = key[start] >> np.uint64(bits + 1)
    head = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]]))
    runs = np.diff(np.append(head, len(start)))

    clicks = np.diff(clicks_at)
    non_clicks = np.diff(non_clicks_at)
    below = non_clicks_at[:-1] - np.repeat(non_clicks_at[head], runs)
    won = np.add.reduceat(clicks * (2 * below + non_clicks), head)
    group_clicks = np.add.reduceat(clicks, head)
    group_non_clicks = np.add.reduceat(non_clicks, head)
    pairs = 2.0 * group_clicks * group_non_clicks
    area = np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return GroupAuc(code[head], group_clicks + group_non_clicks, group_clicks, area)


def _ranks(p: NDArray[Any]) -> tuple[NDArray[np.uint64], int]:
    """Integers in the order of the scores, equal for equal scores, and how many bits they take."""
    if p.dtype == np.float32:
        # + 0.0 turns -0.0 into 0.0. A negative float's bits count backwards, hence the flip.
        raw = (p + np.float32(0)).view(np.uint32)
        flip = np.where(raw >> np.uint32(31), np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
        return (raw ^ flip).astype(np.uint64), 32
    order = np.argsort(p)
    ranked = p[order]
    step = np.empty(len(p), np.uint64)
    step[0] = 0
    np.not_equal(ranked[1:], ranked[:-1], out=step[1:], casting="unsafe")
    rank = np.empty(len(p), np.uint64)
    rank[order] = np.cumsum(step, dtype=np.uint64)
    return rank, max(1, len(p).bit_length())
