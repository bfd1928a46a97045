"""Model quality over event time: windows, series, forgetting and negative transfer."""

from ecdctr.monitor.quality.figures import QualityFigures
from ecdctr.monitor.quality.forgetting import ARMS_OF, Forgetting, Predict
from ecdctr.monitor.quality.negative_transfer import TransferWatch
from ecdctr.monitor.quality.results import (
    ArmFigures,
    ForgettingFigures,
    Interval,
    ProbeCurve,
    SeriesFigures,
    TransferFigures,
    WindowFigures,
)
from ecdctr.monitor.quality.transfer_figure import TransferFigure
from ecdctr.monitor.quality.windows import DomainWindow, Scored

__all__ = [
    "ARMS_OF",
    "ArmFigures",
    "DomainWindow",
    "Forgetting",
    "ForgettingFigures",
    "Interval",
    "Predict",
    "ProbeCurve",
    "QualityFigures",
    "Scored",
    "SeriesFigures",
    "TransferFigure",
    "TransferFigures",
    "TransferWatch",
    "WindowFigures",
]
