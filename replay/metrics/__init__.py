"""Metrics and their intervals: GAUC, AUC, log loss, NE, PCOC, bootstrap over users."""

from ecdctr.replay.metrics.bootstrap import (
    Interval,
    gauc_contrast,
    gauc_difference,
    gauc_interval,
    ne_difference,
    weighted_mean,
)
from ecdctr.replay.metrics.paired_gate import PairedGate
from ecdctr.replay.metrics.probability import entropy_of, log_loss, losses, normalized_entropy, pcoc
from ecdctr.replay.metrics.ranking import auc, auc_of_codes, gauc, group_auc, rela_impr
from ecdctr.replay.metrics.registry import ROW_METRICS
from ecdctr.replay.metrics.summaries import summary

__all__ = [
    "ROW_METRICS",
    "Interval",
    "PairedGate",
    "auc",
    "auc_of_codes",
    "entropy_of",
    "gauc",
    "gauc_contrast",
    "gauc_difference",
    "gauc_interval",
    "group_auc",
    "log_loss",
    "losses",
    "ne_difference",
    "normalized_entropy",
    "pcoc",
    "rela_impr",
    "summary",
    "weighted_mean",
]
