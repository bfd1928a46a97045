"""``RowMetric``: a metric that is computed from the sum of one number per row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecdctr.replay.metrics.ranking import check_rows

__all__ = ["RowMetric", "probabilities"]


@dataclass(frozen=True)
class RowMetric:
    """A metric of labels and predicted probabilities that needs only the sum of one number per row.

    Sums over parts of the rows add up, so such a metric is exact for logs that do not fit into memory. An entry in
    :data:`ecdctr.replay.metrics.registry.ROW_METRICS` puts it into every report: totals, days and slices of
    ``report.json``, ``report.html`` and the tables, and the table in the terminal.

    Parameters
    ----------
    name
        Key in ``report.json`` and column in ``days.csv`` and ``slices.csv``.
    title
        Column head in reports and in the terminal.
    rows
        ``rows(y, p)``: the number of each row, ``(n,)``, for labels ``y``, bool ``(n,)``, and probabilities ``p``, float32
        or float64 ``(n,)``.
    value
        ``value(total, n, clicks)``: the metric, from the sum of these numbers, the number of rows and the number of
        clicks; NaN where it is undefined.
    decimals
        Decimals in ``report.html``.

    Examples
    --------
    >>> brier = RowMetric("brier", "Brier", lambda y, p: (p - y) ** 2, lambda total, n, clicks: total / n)
    >>> round(brier(np.array([1, 0]), np.array([0.5, 0.1])), 6)
    0.13
    """

    name: str
    title: str
    rows: Callable[[NDArray[np.bool_], NDArray[Any]], NDArray[Any]]
    value: Callable[[float, int, int], float]
    decimals: int = 4

    def __call__(self, y: ArrayLike, p: ArrayLike) -> float:
        """The metric of rows in memory."""
        labels, q = probabilities(y, p)
        total = float(self.rows(labels, q).sum(dtype=np.float64))
        return self.value(total, len(labels), int(np.count_nonzero(labels)))


def probabilities(y: ArrayLike, p: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels as bool and probabilities as float64, both ``(n,)``; ValueError if they are not labels and probabilities."""
    labels, scores = check_rows(y, p)
    q = scores.astype(np.float64, copy=False)
    wrong = (q < 0) | (q > 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"prediction {q[row]} in row {row} is no probability")
    return labels, q
