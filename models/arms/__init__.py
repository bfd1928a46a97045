"""Arms: the models that run side by side on the same rows, and the registry that names them."""

from ecdctr.models.arms.baselines import ItemCtr, OnlineShift
from ecdctr.models.arms.bayes_fm import BayesFm
from ecdctr.models.arms.linked import LinkedArm
from ecdctr.models.arms.network_arm import PREDICT_ROWS, Arm, ArmSpec, History, Prepared
from ecdctr.models.arms.registry import lineup
from ecdctr.models.arms.stack import Stack

__all__ = [
    "PREDICT_ROWS",
    "Arm",
    "ArmSpec",
    "BayesFm",
    "History",
    "ItemCtr",
    "LinkedArm",
    "OnlineShift",
    "Prepared",
    "Stack",
    "lineup",
]
