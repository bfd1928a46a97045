"""Columns that are known only after the impression: the model would not have them when it predicts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecdctr.replay.guesses.findings import Confidence
from ecdctr.replay.guesses.names import hint, says, tokens
from ecdctr.replay.guesses.profiles import Profile

__all__ = ["leak", "only_with_clicks", "separation"]

_ENOUGH = 20


def leak(
    profile: Profile, clicked: NDArray[np.float64] | None, item: Profile | None
) -> tuple[Confidence, str] | None:
    """Whether a column is a leak: how sure, and why; None if nothing says so.

    By its values: it is filled, or not 0, only in clicked rows; or it alone separates clicks from the rest. By its name: what
    happens after a click. A count of clicks that never changes for an item was taken over a period that contains the row.

    Parameters
    ----------
    clicked
        0 and 1 of each row, NaN where unknown; None if a row is several impressions.
    """
    named = says("after", profile.name)
    if clicked is not None:
        only = only_with_clicks(profile, clicked)
        if only is not None:
            return "sure", only
        auc = separation(profile, clicked)
        if auc is not None and auc >= 0.95:
            return "sure", f"it alone separates clicks from the rest (AUC {auc:.3f})"
        if named is not None:
            return (
                ("sure", f"{named}, by its name, and it goes with clicks (AUC {auc:.2f})")
                if auc is not None and auc > 0.6
                else ("likely", f"{named}, by its name")
            )
    if named is not None:
        return "likely", f"{named}, by its name"
    parts = set(tokens(profile.name))
    counts = bool({"ctr", "popularity", "pageviews"} & parts) or (
        (hint("click", profile.name) == 1 or hint("views", profile.name) == 1)
        and bool({"total", "count", "num", "n", "sum", "rate", "all"} & parts)
    )
    if counts and profile.is_number:
        fixed = item is not None and item.kind in ("integer", "text") and item.determines(profile)
        why = (
            "it never changes for an item, so it was counted over a period that contains the row"
            if fixed
            else "it may be counted over a period that contains the row"
        )
        return ("sure" if fixed else "likely"), f"a count or rate of clicks by its name: {why}"
    return None


def only_with_clicks(profile: Profile, clicked: NDArray[np.float64]) -> str | None:
    """What a column is only in clicked rows, in words: filled, or not 0; None if it is also in others."""
    known = np.isfinite(clicked)
    rate = float(clicked[known].mean()) if known.any() else 1.0
    filled = profile.column.is_not_null().to_numpy()
    for rows, what in (
        (filled, "filled"),
        (
            filled & (np.nan_to_num(profile.numbers) != 0)
            if profile.is_number or profile.kind == "boolean"
            else filled,
            "not 0",
        ),
    ):
        rows = rows & known
        if _ENOUGH <= rows.sum() < 0.98 * known.sum() and rate < 0.8 and clicked[rows].mean() >= 0.98:
            return f"it is {what} in {int(rows.sum()):,} sampled rows, and {clicked[rows].mean():.0%} of these are clicks ({rate:.1%} of all are)"
    return None


def separation(profile: Profile, clicked: NDArray[np.float64]) -> float | None:
    """AUC with which a column alone, or whether it is filled, tells clicks from the rest; at least 0.5. None: too few rows."""
    known = np.isfinite(clicked)
    label = clicked[known] > 0
    if label.sum() < _ENOUGH or (~label).sum() < _ENOUGH:
        return None
    filled = profile.column.is_not_null().to_numpy().astype(np.float64)[known]
    best = _auc(filled, label)
    if profile.is_number or profile.kind == "boolean":
        best = max(best, _auc(np.nan_to_num(profile.numbers[known], nan=-1.0), label))
    return best


def _auc(values: NDArray[np.float64], label: NDArray[np.bool_]) -> float:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = int(label.sum())
    auc = (ranks[label].sum() - positives * (positives + 1) / 2) / (positives * (len(label) - positives))
    return float(max(auc, 1 - auc))
