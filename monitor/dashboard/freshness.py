"""Age of events when the models learn from them, counted in logarithmic classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

__all__ = ["Freshness", "LogCounts"]

SHOWN_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400, 604_800, 2_592_000)
"""Upper bounds of the histogram for Prometheus, seconds."""

_LOWEST_S, _HIGHEST_S, _PER_DECADE = 0.001, 1e9, 40


def _edges() -> NDArray[np.float64]:
    decades = math.log10(_HIGHEST_S / _LOWEST_S)
    regular = np.geomspace(_LOWEST_S, _HIGHEST_S, round(decades * _PER_DECADE) + 1)
    shown = np.asarray(SHOWN_S)
    apart = np.abs(regular[:, None] / shown[None, :] - 1).min(1) > 1e-6
    return np.union1d(regular[apart], shown)  # so that the histogram for Prometheus is exact


_EDGES = _edges()


class LogCounts:
    """Counts of positive numbers in classes of equal ratio.

    The error of a quantile is at most half a class: 2.9 % of its value, between one millisecond and thirty years.

    Examples
    --------
    >>> counts = LogCounts(); counts.add([0.5] * 98 + [20.0] * 2)
    >>> abs(counts.quantile(0.5) / 0.5 - 1) < 0.03, abs(counts.quantile(0.99) / 20 - 1) < 0.03
    (True, True)
    """

    def __init__(self) -> None:
        self.edges = _EDGES
        self.counts: NDArray[np.int64] = np.zeros(len(self.edges) + 1, np.int64)
        self.sum = 0.0

    def add(self, values: ArrayLike) -> None:
        """Count numbers; numbers below the lowest class count in it."""
        v = np.maximum(np.asarray(values, np.float64), 0.0)
        self.counts += np.bincount(np.searchsorted(self.edges, v), minlength=len(self.counts))
        self.sum += float(v.sum())

    @property
    def total(self) -> int:
        """How many numbers were counted."""
        return int(self.counts.sum())

    def quantile(self, q: float) -> float:
        """The ``q`` quantile; NaN when nothing was counted."""
        return float(self.quantiles((q,))[0])

    def quantiles(self, qs: Sequence[float]) -> NDArray[np.float64]:
        """Several quantiles, shape ``(len(qs),)``: the geometric middle of the class that contains each of them."""
        return _quantiles(self.edges, self.counts, qs)

    def cumulative(self, bounds: Sequence[float]) -> list[int]:
        """How many numbers are at most each bound (a member of :data:`SHOWN_S`), then how many there are in all."""
        sums = np.cumsum(self.counts)  # one copy: another thread may be counting
        return [*(int(sums[np.searchsorted(self.edges, bound)]) for bound in bounds), int(sums[-1])]


class Freshness(Collector):
    """Age of events (wall clock minus event time) at the moment they were learned, by domain.

    While an old log is replayed, this is the age of the log.

    Parameters
    ----------
    domains
        Names, in the order of their numbers.
    span_s
        Length of the period that quantiles cover.
    now
        Monotonic seconds.
    """

    def __init__(self, domains: Sequence[str], *, span_s: float, now: Callable[[], float]) -> None:
        self._domains = tuple(domains)
        self._total = {name: LogCounts() for name in domains}
        # Two halves, the current one and the one before it: old ages are dropped without a list of them.
        self._current = {name: LogCounts() for name in domains}
        self._previous = {name: LogCounts() for name in domains}
        self._span_s, self._now = span_s / 2, now
        self._turned = now()

    def add(self, domain: str, age_s: ArrayLike) -> None:
        """Ages of the rows of a step, seconds."""
        self._turn()
        self._total[domain].add(age_s)
        self._current[domain].add(age_s)

    def quantiles(self, domain: str, qs: Sequence[float]) -> list[float]:
        """Quantiles of the ages in the last ``span_s`` seconds (at least half of them); NaN without rows."""
        self._turn()
        current, previous = self._current[domain], self._previous[domain]
        return [float(v) for v in _quantiles(current.edges, current.counts + previous.counts, qs)]

    def _turn(self) -> None:
        elapsed_s = self._now() - self._turned
        if elapsed_s < self._span_s:
            return
        empty = {name: LogCounts() for name in self._domains}
        self._previous = self._current if elapsed_s < 2 * self._span_s else empty
        self._current = {name: LogCounts() for name in self._domains}
        self._turned = self._now()

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The histogram for Prometheus."""
        family = HistogramMetricFamily(
            "ecdctr_freshness_seconds",
            "Age of an event (wall clock minus event time) when it was learned.",
            labels=["domain"],
        )
        for name, counts in self._total.items():
            bounds = [*(repr(float(bound)) for bound in SHOWN_S), "+Inf"]
            buckets = list(zip(bounds, map(float, counts.cumulative(SHOWN_S)), strict=True))
            family.add_metric([name], buckets, sum_value=counts.sum)
        yield family


def _quantiles(
    edges: NDArray[np.float64], counts: NDArray[np.int64], qs: Sequence[float]
) -> NDArray[np.float64]:
    total = int(counts.sum())
    if not total:
        return np.full(len(qs), np.nan)
    at = np.searchsorted(np.cumsum(counts), np.ceil(np.asarray(qs) * total).clip(1, total))
    low = edges[np.maximum(at - 1, 0)]
    high = edges[np.minimum(at, len(edges) - 1)]
    return np.asarray(np.sqrt(low * high))
