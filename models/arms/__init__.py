"""Arms: the models that run side by side on the same rows, the interface they share, and how they are selected."""

from ecdctr.models.arms.bayes_fm import BayesFm
from ecdctr.models.arms.interface import Arm, ArmInput, ArmState, StagedArm
from ecdctr.models.arms.item_ctr import ItemCtr
from ecdctr.models.arms.linked import LinkedArm
from ecdctr.models.arms.network_arm import PREDICT_ROWS, ArmSpec, History, NetworkArm, Prepared
from ecdctr.models.arms.prior_shift import PriorShift
from ecdctr.models.arms.registry import ArmContext, ArmSelection, arms_fingerprint, build_arms, select_arms
from ecdctr.models.arms.stack import Stack, StackArm

__all__ = [
    "PREDICT_ROWS",
    "Arm",
    "ArmContext",
    "ArmInput",
    "ArmSelection",
    "ArmSpec",
    "ArmState",
    "BayesFm",
    "History",
    "ItemCtr",
    "LinkedArm",
    "NetworkArm",
    "Prepared",
    "PriorShift",
    "Stack",
    "StackArm",
    "StagedArm",
    "arms_fingerprint",
    "build_arms",
    "select_arms",
]
