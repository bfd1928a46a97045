"""Figures of scored rows: by day and by slice, computed exactly over partitions on disk."""

from ecdctr.replay.figures.evaluation import evaluate
from ecdctr.replay.figures.result import (
    ArmFigures,
    Calibration,
    DayFigures,
    Difference,
    ReplayResult,
    SliceFigures,
)
from ecdctr.replay.figures.scored_days import ORACLE, Columns, ScoredDays
from ecdctr.replay.figures.slices import TPM, USER_GAP_BOTH, earlier_rows, gap_codes
from ecdctr.replay.figures.slices_by_feature import FeatureSlice, feature_slices

__all__ = [
    "ORACLE",
    "TPM",
    "USER_GAP_BOTH",
    "ArmFigures",
    "Calibration",
    "Columns",
    "DayFigures",
    "Difference",
    "FeatureSlice",
    "ReplayResult",
    "ScoredDays",
    "SliceFigures",
    "earlier_rows",
    "evaluate",
    "feature_slices",
    "gap_codes",
]
