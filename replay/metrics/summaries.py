"""Every metric of one arm on one set of rows."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from ecdctr.replay.metrics.probability import field_ece
from ecdctr.replay.metrics.ranking import auc, check_rows, gauc, group_auc
from ecdctr.replay.metrics.registry import ROW_METRICS

__all__ = ["summary"]

NAN = float("nan")


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
        ``n, clicks, ctr, gauc, auc``, the metrics of :data:`ROW_METRICS` (``log_loss, normalized_entropy, pcoc``), the
        coverage of GAUC as ``users, users_total, impressions, impressions_total, user_coverage, impression_coverage``,
        and the optional metrics.
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
        **{metric.name: metric(labels, scores) for metric in ROW_METRICS},
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
