"""``PriorShift``: a baseline, CPM with its output bias calibrated continuously to the click rate of ads."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD
from ecdctr.models.arms.interface import ArmInput, ArmState
from ecdctr.models.arms.registry import ArmContext
from ecdctr.models.probability import logit, sigmoid

__all__ = ["PriorShift", "cpm_only"]


class PriorShift:
    """``sigmoid(z + b)`` with ``z`` the logit of another arm; one Newton step per batch updates ``b``.

    The curvature of the Newton step decays. The arm measures the effect of calibration alone, for a model whose training
    rows have another click rate than the rows that it predicts. Implements :class:`Arm`.

    Parameters
    ----------
    name
        Name of the arm.
    of
        The arm whose predictions are shifted.
    fade
        Factor by which the curvature is multiplied per batch; about ``1 / (1 - fade)`` batches contribute.

    Attributes
    ----------
    shift
        ``b``, in log-odds.
    """

    domains: tuple[int, ...] = (AD,)

    def __init__(self, name: str = "cpm_only", of: str = "cpm", fade: float = 0.999) -> None:
        self.name, self._of, self._fade = name, of, fade
        self.reads: tuple[str, ...] = (of,)
        self.reset()

    def reset(self) -> None:
        self.shift, self._curvature = 0.0, 1.0

    def predict(self, rows: ArmInput) -> NDArray[np.float32]:
        return self._predict(rows.scores(self._of))

    def _predict(self, p: NDArray[np.float32]) -> NDArray[np.float32]:
        return sigmoid(logit(p) + self.shift).astype(np.float32)

    def learn(self, rows: ArmInput) -> None:
        shifted = self._predict(rows.scores(self._of)).astype(np.float64)
        self._curvature = self._curvature * self._fade + float((shifted * (1.0 - shifted)).sum())
        self.shift += float((rows.batch.label - shifted).sum()) / self._curvature

    def capture(self) -> ArmState:
        return ArmState(meta={"shift": [self.shift, self._curvature]})

    def load(self, state: ArmState) -> None:
        if "shift" in state.meta:  # absent if the checkpoint was written before this arm existed
            self.shift, self._curvature = (float(x) for x in state.meta["shift"])

    def digest(self, into: hashlib.blake2b) -> None:
        into.update(repr([self.shift, self._curvature]).encode())


def cpm_only(context: ArmContext) -> PriorShift:  # noqa: ARG001
    """The arm ``cpm_only``: CPM with a shifted output bias and no further transfer."""
    return PriorShift()
