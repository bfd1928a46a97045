"""Model quality over event time: windows, series, forgetting and negative transfer."""

from ecdctr.monitor.quality.bloom import Seen
from ecdctr.monitor.quality.forgetting import ARMS_OF, Forgetting, Predict
from ecdctr.monitor.quality.negative_transfer import TransferWatch
from ecdctr.monitor.quality.series import SERIES, DomainSeries
from ecdctr.monitor.quality.windows import WINDOWS, DomainWindow, Scored, Tally

__all__ = [
    "ARMS_OF",
    "SERIES",
    "WINDOWS",
    "DomainSeries",
    "DomainWindow",
    "Forgetting",
    "Predict",
    "Scored",
    "Seen",
    "Tally",
    "TransferWatch",
]
