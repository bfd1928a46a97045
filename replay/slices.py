"""Figures of parts of the scored rows: by how much is known of a user or an item, and how old that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.batch import DOMAIN_NAMES
from replay.bootstrap import gauc_difference
from replay.metrics import summary

__all__ = ["SLICES", "earlier_rows", "slice_figures"]

HOUR_MS = 3_600_000

SLICES = ("user_rows", "item_rows", "user_gap", "item_gap")
"""Earlier scored rows of the row's user (item), and the time since the last of them, within the domain."""

_COUNTS = (("0", 1), ("1 to 9", 10), ("10 to 99", 100), ("100 to 999", 1_000), ("1,000 and more", None))
_GAPS = (
    ("under 1 h", HOUR_MS),
    ("1 to 24 h", 24 * HOUR_MS),
    ("1 to 7 days", 7 * 24 * HOUR_MS),
    ("over 7 days", None),
)
_FIRST = "first seen"


def earlier_rows(key: NDArray[Any], ts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many rows of the same key are older, and how far back the youngest of them lies.

    Rows of one moment do not count for each other: their labels became known together.

    Parameters
    ----------
    key, ts
        Shape ``(n,)``, any order; ``ts`` in ms.

    Returns
    -------
    tuple of ndarray
        Older rows of the key, and ms since the youngest of them (-1: there is none), shape ``(n,)`` each.

    Examples
    --------
    >>> earlier_rows(np.array([7, 7, 8, 7]), np.array([10, 10, 11, 15]))
    (array([0, 0, 0, 2]), array([-1, -1, -1,  5]))
    """
    n = len(ts)
    if not n:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.lexsort((ts, key))
    k, t = key[order], ts[order]
    at = np.arange(n)
    new_key = np.concatenate([[True], k[1:] != k[:-1]])
    new_moment = new_key | np.concatenate([[True], t[1:] != t[:-1]])
    first_of_key = np.maximum.accumulate(np.where(new_key, at, 0))
    first_of_moment = np.maximum.accumulate(np.where(new_moment, at, 0))
    older = first_of_moment - first_of_key
    gap = np.where(older > 0, t - t[np.maximum(first_of_moment - 1, 0)], -1)
    counts, gaps = np.empty(n, np.int64), np.empty(n, np.int64)
    counts[order], gaps[order] = older, gap
    return counts, gaps


def slice_figures(
    columns: Mapping[str, NDArray[Any]],
    arms: Sequence[str],
    base: Mapping[str, str],
    *,
    samples: int = 200,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Metrics of every arm in every slice; all arms of a domain on the identical rows.

    Parameters
    ----------
    columns, arms
        As :func:`replay.evaluate.evaluate`; natural rows are scored for a sample of users only, and only scored
        rows count as earlier ones.
    base
        The arm of each domain that the others are compared with.
    samples, seed
        Of the bootstrap of the differences.

    Returns
    -------
    list of dict
        ``slice, value, domain, arm``, the figures of :func:`replay.metrics.summary`, and ``difference, low, high`` to
        the base (NaN for the base itself).
    """
    out: list[dict[str, Any]] = []
    for number, domain in enumerate(DOMAIN_NAMES):
        here = columns["domain"] == number
        scores = {arm: columns[f"p_{arm}"][here] for arm in arms if f"p_{arm}" in columns}
        scores = {arm: p for arm, p in scores.items() if not np.isnan(p).all()} if here.any() else {}
        if not scores:
            continue
        common = ~np.logical_or.reduce([np.isnan(p) for p in scores.values()])
        rows = {name: columns[name][here][common] for name in ("ts", "user", "item", "label")}
        scores = {arm: p[common] for arm, p in scores.items()}
        for name, values in _slices(rows):
            for value, chosen in values:
                part = {k: v[chosen] for k, v in rows.items()}
                chosen_scores = {arm: p[chosen] for arm, p in scores.items()}
                for figures in _figures(part, chosen_scores, base.get(domain, ""), samples, seed):
                    out.append({"slice": name, "value": value, "domain": domain, **figures})
    return out


def _slices(
    rows: Mapping[str, NDArray[Any]],
) -> Iterator[tuple[str, list[tuple[str, NDArray[np.bool_]]]]]:
    for key in ("user", "item"):
        counts, gaps = earlier_rows(rows[key], rows["ts"])
        yield f"{key}_rows", _bins(counts, _COUNTS)
        seen = gaps >= 0
        yield f"{key}_gap", [(_FIRST, ~seen), *((name, found & seen) for name, found in _bins(gaps, _GAPS))]


def _bins(
    values: NDArray[np.int64], edges: Sequence[tuple[str, int | None]]
) -> list[tuple[str, NDArray[np.bool_]]]:
    out, low = [], None
    for name, high in edges:
        found = np.ones(len(values), bool) if low is None else values >= low
        out.append((name, found if high is None else found & (values < high)))
        low = high
    return out


def _figures(
    rows: Mapping[str, NDArray[Any]], scores: Mapping[str, NDArray[Any]], base: str, samples: int, seed: int
) -> Iterator[dict[str, Any]]:
    label, user = rows["label"], rows["user"]
    if not len(label):
        return
    for arm, p in scores.items():
        figures = {"arm": arm, **summary(label, p, user)}
        nan = float("nan")
        gain: dict[str, Any] = {"value": nan, "low": nan, "high": nan}
        if base in scores and arm != base:
            gain = asdict(gauc_difference(label, p, scores[base], user, samples=samples, seed=seed))
        figures |= {"difference": gain["value"], "low": gain["low"], "high": gain["high"]}
        yield figures
