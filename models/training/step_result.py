"""``StepResult``: the predictions and losses of a training step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.step import StepKind

__all__ = ["StepResult"]


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """The result of a step.

    Attributes
    ----------
    kind
        Domain of the rows.
    n
        Number of rows.
    loss
        Mean binary cross-entropy of each network arm that learned, before its update. Empty when skipped.
    scored
        Positions of the rows that were predicted before learning.
    scores
        Their click probabilities by arm, float32, aligned with ``scored``.
    skipped
        Why the step was rolled back in all arms; None if it is final.
    """

    kind: StepKind
    n: int
    loss: dict[str, float]
    scored: NDArray[np.intp]
    scores: dict[str, NDArray[np.float32]]
    skipped: str | None = None
