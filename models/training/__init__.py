"""The training loop: trainer, engine, CPM releases and the gate that judges them."""

from ecdctr.models.training.engine import Engine
from ecdctr.models.training.gate import Gate, GateRows, Verdict
from ecdctr.models.training.offset_audit import audit
from ecdctr.models.training.recorded_inputs import input_differences
from ecdctr.models.training.release import ReleaseReport
from ecdctr.models.training.release_schedule import ReleaseSchedule
from ecdctr.models.training.trainer import StepResult, Trainer

__all__ = [
    "Engine",
    "Gate",
    "GateRows",
    "ReleaseReport",
    "ReleaseSchedule",
    "StepResult",
    "Trainer",
    "Verdict",
    "audit",
    "input_differences",
]
