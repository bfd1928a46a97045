"""The metrics of probabilities that every replay reports."""

from __future__ import annotations

from ecdctr.replay.metrics.probability import LOG_LOSS, NORMALIZED_ENTROPY, PCOC
from ecdctr.replay.metrics.row_metric import RowMetric

__all__ = ["ROW_METRICS"]

ROW_METRICS: list[RowMetric] = [LOG_LOSS, NORMALIZED_ENTROPY, PCOC]
"""In the order of the columns of reports."""
