"""Sampled non-clicks for a log that contains clicks only, by the popularity of the items at the time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from ecdctr.events.batch import NATURAL

__all__ = ["NEGATIVES", "with_negatives"]

NEGATIVES = 4
"""Number of sampled non-clicks for each click."""

WINDOW_MS = 24 * 3_600_000
"""Length of the time before a click from which its non-clicks are drawn."""

_CLICKS_A_FRAME = 16_384
_TRIES = 4


def with_negatives(clicks: pl.DataFrame, *, seed: int, ratio: int = NEGATIVES) -> Iterator[pl.DataFrame]:
    """Event frames of the clicks, each followed by its sampled non-clicks with the same time.

    A non-click is the item of a click drawn at random from the 24 hours *before* (any user's), hence
    by the popularity of that time and never from the future. Popular items are therefore as
    frequent among non-clicks as among clicks, and a model can only learn which user likes which item. If the draw gives the
    clicked item itself, it is repeated up to four times, and then the non-click is left out; so are the non-clicks of the
    very first click.

    Parameters
    ----------
    clicks
        Columns ``ts`` (ms, rising), ``user_id``, ``item_id``.
    seed
        The same seed gives the same rows.
    ratio
        Non-clicks a click.

    Yields
    ------
    Frames with ``domain, event_id, ts, user_id, item_id, label``.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    ts, item = clicks["ts"].to_numpy(), clicks["item_id"].to_numpy()
    # Clicks of the same millisecond are not "before" each other.
    end = np.searchsorted(ts, ts, side="left")
    first = np.searchsorted(ts, ts - WINDOW_MS, side="left")
    for begin in range(0, len(ts), _CLICKS_A_FRAME):
        rows = slice(begin, begin + _CLICKS_A_FRAME)
        low, high, own = first[rows, None], end[rows, None], item[rows, None]
        drawn = np.repeat(own, ratio, axis=1)
        for _ in range(_TRIES):
            again = (drawn == own) & (high > low)
            pick = low + (rng.random(drawn.shape) * (high - low)).astype(np.int64)
            drawn = np.where(again, item[np.minimum(pick, len(item) - 1)], drawn)
        yield _frame(clicks[rows], begin, np.concatenate([own, drawn], axis=1))


def _frame(clicks: pl.DataFrame, begin: int, items: np.ndarray) -> pl.DataFrame:
    """One row an item: column 0 of ``items`` holds the clicks, the others their non-clicks."""
    n, width = items.shape
    label = np.zeros((n, width), np.uint8)
    label[:, 0] = 1
    keep = (items != items[:, :1]) | (label == 1)
    click, place = np.nonzero(keep)
    frame = clicks[click].select("ts", "user_id")
    return frame.select(
        pl.lit(NATURAL, pl.UInt8).alias("domain"),
        pl.format("h{}-{}", pl.Series(begin + click), pl.Series(place)).alias("event_id"),
        "ts",
        "user_id",
        pl.Series("item_id", items[keep]),
        pl.Series("label", label[keep]),
    )
