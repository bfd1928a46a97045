"""Slices of the scored rows: by the number of earlier rows of a user or item, and by the time since the last of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.time import HOUR_MS
from ecdctr.models.nets import IdMap
from ecdctr.replay.figures.scored_days import ScoredRows

__all__ = ["BUILT_IN", "SLICES", "TPM", "USER_GAP_BOTH", "Coding", "Slicer", "earlier_rows", "gap_codes"]


SLICES = ("user_rows", "user_gap", "item_rows", "item_gap")
"""Earlier scored rows of the row's user (item), and the time since the last of them, within the domain."""

BUILT_IN = (*SLICES, "user_gap_both", "tpm")
"""Slices of every report; ``user_gap_both`` for ads, ``tpm`` where the models read TPM snapshots."""

_COUNTS = ("0", "1 to 9", "10 to 99", "100 to 999", "1,000 and more")
_COUNT_EDGES = np.array([1, 10, 100, 1_000])
_GAPS = ("first seen", "under 1 h", "1 to 24 h", "1 to 7 days", "over 7 days")
_GAP_EDGES = np.array([0, HOUR_MS, 24 * HOUR_MS, 7 * 24 * HOUR_MS])


@dataclass(frozen=True, eq=False)
class Coding:
    """How the rows are sliced by one column of the score log.

    Attributes
    ----------
    name
        Name of the slice.
    column
        Column of the score log.
    values
        Names of the values; a row's code is an index into them.
    codes
        Function from the column's values to their codes, uint8.
    """

    name: str
    column: str
    values: tuple[str, ...]
    codes: Callable[[NDArray[Any]], NDArray[np.uint8]]


def _as_stored(values: NDArray[Any]) -> NDArray[np.uint8]:
    return values.astype(np.uint8)


TPM = Coding(
    "tpm", "s_tpm", ("neither", "user only", "item only", "user and item", "no snapshot yet"), _as_stored
)
"""Whether the row's user and item had a TPM vector in the snapshots that CPM read (bit 0: user, bit 1: item)."""


USER_GAP_BOTH = Coding("user_gap_both", "s_user_gap_both", _GAPS, _as_stored)
"""Time since the last row of an ad's user in either stream, whether that row was scored or not."""


def gap_codes(gaps: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Codes of times since the last row, ms; -1 if there is none."""
    return np.searchsorted(_GAP_EDGES, gaps, side="right").astype(np.uint8)


def earlier_rows(key: NDArray[Any], ts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The number of older rows of the same key, and the time since the youngest of them.

    Rows with equal ``ts`` do not count for each other, since their labels became known at the same time.

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


class _EarlierRows:
    """:func:`earlier_rows` for a log in successive parts; stores two numbers a key."""

    def __init__(self) -> None:
        self._ids = IdMap()
        self._rows, self._last = np.zeros(1024, np.int64), np.zeros(1024, np.int64)

    def observe(
        self, key: NDArray[Any], ts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Counts and gaps of the rows of the next part; all of them are younger than those of earlier parts."""
        counts, gaps = earlier_rows(key, ts)
        unique, inverse = np.unique(key.astype(np.uint64), return_inverse=True)
        at = self._ids.add(unique)
        if len(self._ids) > len(self._rows):
            more = np.zeros(max(len(self._ids), 2 * len(self._rows)) - len(self._rows), np.int64)
            self._rows, self._last = (np.concatenate([x, more]) for x in (self._rows, self._last))
        before, last = self._rows[at][inverse], self._last[at][inverse]
        gaps = np.where((counts == 0) & (before > 0), ts - last, gaps)
        self._rows[at] += np.bincount(inverse, minlength=len(at))
        youngest = np.zeros(len(at), np.int64)
        np.maximum.at(youngest, inverse, ts)
        self._last[at] = youngest
        return counts + before, gaps


class Slicer:
    """Determines the value of each slice for the rows of one domain, day by day, oldest first.

    Parameters
    ----------
    further
        Slices beside those in :data:`SLICES`, by columns of the rows.

    Attributes
    ----------
    values
        Names of the values of each slice; a row's code is an index into them.

    Examples
    --------
    >>> slicer = Slicer()
    >>> rows = ScoredRows(np.array([5, 6]), np.array([7, 7]), np.array([1, 2]), np.zeros(2), None, {})
    >>> [slicer.values["user_rows"][code] for code in slicer.codes(rows)[:, 0]]
    ['0', '1 to 9']
    """

    def __init__(self, further: Sequence[Coding] = ()) -> None:
        self._earlier = {"user": _EarlierRows(), "item": _EarlierRows()}
        self._further = tuple(further)
        self.values: dict[str, Sequence[str]] = dict(zip(SLICES, (_COUNTS, _GAPS) * 2, strict=True))
        self.values |= {coding.name: coding.values for coding in further}

    def codes(self, rows: ScoredRows) -> NDArray[np.uint8]:
        """Codes ``(n, len(values))`` of the rows of a day; without items, the two slices of items equal those of users."""
        out: list[NDArray[Any]] = []
        for name, earlier in self._earlier.items():
            key = rows.user if name == "user" or rows.item is None else rows.item
            counts, gaps = earlier.observe(key, rows.ts)
            out.append(np.searchsorted(_COUNT_EDGES, counts, side="right"))
            out.append(gap_codes(gaps))
        out += [coding.codes(rows.notes[coding.column]) for coding in self._further]
        return np.stack(out, axis=1).astype(np.uint8)
