"""What a CTR model is judged by: ranking (GAUC, AUC), probability (log loss, NE), calibration (PCOC, field-ECE).

Every function takes labels ``y`` (0 or 1) and predicted probabilities ``p``, vectors of one length, in any row
order; what cannot be computed (no rows, no clicks) is NaN, never an exception.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecdctr.models.probability import log_losses
from ecdctr.replay.metrics.ranking import GaucResult, auc, check_rows, gauc, group_auc

__all__ = [
    "GaucResult",
    "auc",
    "calibration_curve",
    "entropy",
    "entropy_of",
    "field_ece",
    "gauc",
    "list_auc",
    "log_loss",
    "losses",
    "normalized_entropy",
    "pcoc",
    "rela_impr",
    "summary",
]

NAN = float("nan")


def list_auc(y: ArrayLike, p: ArrayLike, list_id: ArrayLike) -> GaucResult:
    """AUC within each impression list, averaged by impressions: :func:`gauc` with lists for users.

    The metric to read where list length gives the click away: lists of different lengths never meet.
    """
    return gauc(y, p, list_id)


def log_loss(y: ArrayLike, p: ArrayLike) -> float:
    """Mean of ``-y ln p - (1 - y) ln(1 - p)`` in nats, with ``p`` clipped by :data:`ecdctr.models.probability.LOSS_CLIP`.

    >>> round(log_loss([1, 0], [0.5, 0.5]), 6)
    0.693147
    """
    found = losses(y, p)
    return float(found.mean()) if len(found) else NAN


def losses(y: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Log loss of each row, ``(n,)``; see :func:`log_loss`."""
    labels, q = _probabilities(y, p)
    return log_losses(labels, q)


def entropy(y: ArrayLike) -> float:
    """Log loss of the rows' own mean CTR, in nats; 0 when all labels are equal or there are none.

    >>> round(entropy([1, 0]), 6)
    0.693147
    """
    labels = np.asarray(y)
    return entropy_of(int(np.count_nonzero(labels)), len(labels))


def entropy_of(clicks: int, n: int) -> float:
    """:func:`entropy` of ``n`` rows with so many clicks."""
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
    loss, scale = log_loss(y, p), entropy(y)
    return loss / scale if scale else NAN


def pcoc(y: ArrayLike, p: ArrayLike) -> float:
    """Predicted over observed clicks, ``sum(p) / sum(y)``; ideal 1, above 1 is too high. NaN without clicks.

    >>> pcoc([1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5])
    2.0
    """
    labels, q = _probabilities(y, p)
    clicks = int(labels.sum())
    return float(q.sum()) / clicks if clicks else NAN


def field_ece(y: ArrayLike, p: ArrayLike, field: ArrayLike) -> float:
    """``(1 / n) sum_z |sum_{i in z} (y_i - p_i)|`` over the values z of a field (Pan et al., WWW 2020).

    >>> field_ece([1, 0, 1, 0], [0.5, 0.5, 1.0, 0.4], ["a", "a", "b", "b"])
    0.1
    """
    labels, q = _probabilities(y, p)
    values = np.asarray(field)
    if values.shape != labels.shape:
        raise ValueError(
            f"{len(labels)} labels, but field values of shape {values.shape}: one a row is needed"
        )
    if not len(labels):
        return NAN
    _, code = np.unique(values, return_inverse=True)
    return float(np.abs(np.bincount(code, weights=labels - q)).sum()) / len(labels)


def rela_impr(value: float, base: float) -> float:
    """``(value - 0.5) / (base - 0.5) - 1`` for an AUC or GAUC: the gain over what chance does not give.

    >>> round(rela_impr(0.78, 0.7), 6)
    0.4
    """
    return (value - 0.5) / (base - 0.5) - 1.0 if base != 0.5 else NAN


def calibration_curve(
    y: ArrayLike, p: ArrayLike, bins: int = 20
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean prediction, CTR and rows of ``bins`` groups of equally many rows, in order of ``p``.

    Fewer groups come back when there are fewer rows than ``bins``.
    """
    labels, q = _probabilities(y, p)
    order = np.argsort(q, kind="stable")
    edge = np.unique(np.linspace(0, len(q), bins + 1).astype(np.intp))
    rows = np.diff(edge)
    if not len(rows):
        return np.empty(0), np.empty(0), np.empty(0, np.int64)
    predicted = np.add.reduceat(q[order], edge[:-1]) / rows
    observed = np.add.reduceat(labels[order].astype(np.float64), edge[:-1]) / rows
    return predicted, observed, rows


def summary(
    y: ArrayLike,
    p: ArrayLike,
    user: ArrayLike,
    list_id: ArrayLike | None = None,
    field: ArrayLike | None = None,
) -> dict[str, Any]:
    """Every metric of one arm on one set of rows, as plain numbers.

    Parameters
    ----------
    y, p, user
        As :func:`gauc`; ``p`` probabilities.
    list_id
        Impression list of each row: adds ``list_auc`` and how many lists it covers.
    field
        Values of the field that ``field_ece`` goes over: adds it.

    Returns
    -------
    dict
        ``n, clicks, ctr, gauc, auc, log_loss, normalized_entropy, pcoc``, the coverage of GAUC as ``users, users_total,
        impressions, impressions_total, user_coverage, impression_coverage``, and what was asked for.
    """
    labels, scores = check_rows(y, p)
    n, clicks = len(labels), int(labels.sum())
    ranked = gauc(labels, scores, user)
    out: dict[str, Any] = {
        "n": n,
        "clicks": clicks,
        "ctr": clicks / n if n else NAN,
        "gauc": ranked.value,
        "auc": auc(labels, scores),
        "log_loss": log_loss(labels, scores),
        "normalized_entropy": normalized_entropy(labels, scores),
        "pcoc": pcoc(labels, scores),
        "users": ranked.users,
        "users_total": ranked.users_total,
        "impressions": ranked.impressions,
        "impressions_total": ranked.impressions_total,
        "user_coverage": ranked.user_coverage,
        "impression_coverage": ranked.impression_coverage,
    }
    if list_id is not None:
        lists = group_auc(labels, scores, list_id).gauc()
        out |= {"list_auc": lists.value, "lists": lists.users, "lists_total": lists.users_total}
    if field is not None:
        out["field_ece"] = field_ece(labels, scores, field)
    return out


def _probabilities(y: ArrayLike, p: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    labels, scores = check_rows(y, p)
    q = scores.astype(np.float64, copy=False)
    wrong = (q < 0) | (q > 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"prediction {q[row]} in row {row} is no probability")
    return labels, q
