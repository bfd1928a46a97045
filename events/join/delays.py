"""``DelayHistogram``: how long after their impression clicks come; ``suggest_windows``: what each window would catch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DelayHistogram", "WindowChoice", "suggest_windows"]

_PER_OCTAVE = 8
_OCTAVES = 22
# Upper edges of the bins, ms: whole tenths of seconds by factors of 2 ** (1 / 8), up to about 4.8 days. Whole numbers, so that every machine bins alike.
_EDGES = np.unique(
    np.round(100 * 2 ** (np.arange(_OCTAVES * _PER_OCTAVE + 1) / _PER_OCTAVE)).astype(np.int64)
)
_CHOICES = (
    ("10s", 10_000),
    ("30s", 30_000),
    ("1m", 60_000),
    ("2m", 120_000),
    ("5m", 300_000),
    ("10m", 600_000),
)
_LONG_CHOICES = (
    ("30m", 1_800_000),
    ("1h", 3_600_000),
    ("2h", 7_200_000),
    ("6h", 21_600_000),
    ("1d", 86_400_000),
)


class DelayHistogram:
    """Counts of delays in bins whose edges grow by 9 % (100 ms to 4.8 days); delays below 0 count as 0.

    A delay is known only while its impression is remembered (``join.remember``): longer ones are not in the counts.

    >>> delays = DelayHistogram()
    >>> delays.add(np.array([-50, 1_000, 60_000, 7_200_000]))
    >>> delays.total, delays.share_within(600_000)
    (4, 0.75)
    """

    def __init__(self, counts: NDArray[np.int64] | None = None) -> None:
        self.counts = (
            np.zeros(len(_EDGES) + 1, np.int64) if counts is None else np.asarray(counts, np.int64).copy()
        )

    @property
    def total(self) -> int:
        """Number of delays."""
        return int(self.counts.sum())

    def add(self, delays: NDArray[np.int64]) -> None:
        """Count delays (ms)."""
        if len(delays):
            self.counts += np.bincount(
                np.searchsorted(_EDGES, delays, side="left"), minlength=len(self.counts)
            )

    def share_within(self, window_ms: int) -> float:
        """Share of the clicks whose delay is at most ``window_ms``, interpolated inside of a bin; NaN without clicks."""
        if not self.total:
            return float("nan")
        sums = np.concatenate([[0], np.cumsum(self.counts[:-1])])
        return float(np.interp(window_ms, np.concatenate([[0], _EDGES]), sums) / self.total)

    def quantile(self, share: float) -> int | None:
        """The least bin edge (ms) within which this share of the clicks came; None without clicks, or if it is beyond the last edge."""
        sums = np.cumsum(self.counts)
        if not self.total:
            return None
        place = int(np.searchsorted(sums, share * self.total, side="left"))
        return int(_EDGES[place]) if place < len(_EDGES) else None


@dataclass(frozen=True, slots=True)
class WindowChoice:
    """A window, as text and in ms, and the share of the known clicks that come within it."""

    text: str
    window_ms: int
    share: float


def suggest_windows(
    delays: DelayHistogram, reach: float = 0.99
) -> tuple[list[WindowChoice], WindowChoice | None]:
    """The share of clicks that each usual window would catch, and the shortest that catches ``reach`` of them.

    Returns
    -------
    tuple
        The windows from 10 s to 1 d; the suggested one, or None if no window reaches it or there are no clicks.

    >>> delays = DelayHistogram()
    >>> delays.add(np.full(1000, 90_000))
    >>> suggest_windows(delays)[1].text
    '2m'
    """
    choices = [WindowChoice(text, ms, delays.share_within(ms)) for text, ms in (*_CHOICES, *_LONG_CHOICES)]
    return choices, next((c for c in choices if c.share >= reach), None)
