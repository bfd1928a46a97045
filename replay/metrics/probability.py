"""Metrics of predicted probabilities: log loss, NE, and calibration (PCOC, field-ECE, calibration curve).

Every function takes labels ``y`` (0 or 1) and predicted probabilities ``p``, vectors of one length, in any row order.
The result is NaN where a metric is undefined (no rows, no clicks); that is never an exception.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecdctr.models.probability import log_losses
from ecdctr.replay.metrics.row_metric import RowMetric, probabilities

__all__ = [
    "LOG_LOSS",
    "NORMALIZED_ENTROPY",
    "PCOC",
    "calibration_curve",
    "entropy",
    "entropy_of",
    "field_ece",
    "log_loss",
    "losses",
    "normalized_entropy",
    "pcoc",
]

NAN = float("nan")


def log_loss(y: ArrayLike, p: ArrayLike) -> float:
    """Mean of ``-y ln p - (1 - y) ln(1 - p)`` in nats, with ``p`` clipped by :data:`ecdctr.models.probability.LOSS_CLIP`.

    >>> round(log_loss([1, 0], [0.5, 0.5]), 6)
    0.693147
    """
    return LOG_LOSS(y, p)


def losses(y: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Log loss of each row, ``(n,)``; see :func:`log_loss`."""
    labels, q = probabilities(y, p)
    return log_losses(labels, q)


def entropy(y: ArrayLike) -> float:
    """Log loss of the rows' own mean CTR, in nats; 0 when all labels are equal or there are none.

    >>> round(entropy([1, 0]), 6)
    0.693147
    """
    labels = np.asarray(y)
    return entropy_of(int(np.count_nonzero(labels)), len(labels))


def entropy_of(clicks: int, n: int) -> float:
    """:func:`entropy` of ``n`` rows with ``clicks`` clicks."""
    ctr = clicks / n if n else 0.0
    if ctr in (0.0, 1.0):
        return 0.0
    return -(ctr * math.log(ctr) + (1.0 - ctr) * math.log1p(-ctr))


def normalized_entropy(y: ArrayLike, p: ArrayLike) -> float:
    """Log loss over the entropy of the rows' own mean CTR (He et al., ADKDD 2014); 1: no better than the mean.

    NaN when all labels are equal: that entropy is 0.

    >>> round(normalized_entropy([1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]), 12)
    1.0
    """
    return NORMALIZED_ENTROPY(y, p)


def pcoc(y: ArrayLike, p: ArrayLike) -> float:
    """Predicted over observed clicks, ``sum(p) / sum(y)``; ideal 1, above 1 is too high. NaN without clicks.

    >>> pcoc([1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5])
    2.0
    """
    return PCOC(y, p)


def field_ece(y: ArrayLike, p: ArrayLike, field: ArrayLike) -> float:
    """``(1 / n) sum_z |sum_{i in z} (y_i - p_i)|`` over the values z of a field (Pan et al., WWW 2020).

    >>> field_ece([1, 0, 1, 0], [0.5, 0.5, 1.0, 0.4], ["a", "a", "b", "b"])
    0.1
    """
    labels, q = probabilities(y, p)
    values = np.asarray(field)
    if values.shape != labels.shape:
        raise ValueError(
            f"{len(labels)} labels, but field values of shape {values.shape}: one a row is needed"
        )
    if not len(labels):
        return NAN
    _, code = np.unique(values, return_inverse=True)
    return float(np.abs(np.bincount(code, weights=labels - q)).sum()) / len(labels)


def calibration_curve(
    y: ArrayLike, p: ArrayLike, bins: int = 20
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean prediction, CTR and rows of ``bins`` groups of equally many rows, in order of ``p``.

    There are fewer groups if there are fewer rows than ``bins``.
    """
    labels, q = probabilities(y, p)
    order = np.argsort(q, kind="stable")
    edge = np.unique(np.linspace(0, len(q), bins + 1).astype(np.intp))
    rows = np.diff(edge)
    if not len(rows):
        return np.empty(0), np.empty(0), np.empty(0, np.int64)
    predicted = np.add.reduceat(q[order], edge[:-1]) / rows
    observed = np.add.reduceat(labels[order].astype(np.float64), edge[:-1]) / rows
    return predicted, observed, rows


def _over_entropy(total: float, n: int, clicks: int) -> float:
    scale = entropy_of(clicks, n)
    return total / n / scale if scale else NAN


LOG_LOSS = RowMetric("log_loss", "log loss", losses, lambda total, n, _: total / n if n else NAN)
NORMALIZED_ENTROPY = RowMetric("normalized_entropy", "NE", losses, _over_entropy)
PCOC = RowMetric(
    "pcoc", "PCOC", lambda _, p: p, lambda total, _, clicks: total / clicks if clicks else NAN, decimals=3
)
