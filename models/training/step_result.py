"""``StepResult``: the predictions and losses of a training step."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.step import StepKind

__all__ = ["LearnedRows", "StepResult"]


class LearnedRows(NamedTuple):
    """The rows of a step that were learned, and their predictions.

    Attributes
    ----------
    batch
        The rows.
    scored, scores
        As those of :class:`StepResult`, for these rows.
    """

    batch: Batch
    scored: NDArray[np.intp]
    scores: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """The result of a step.

    Attributes
    ----------
    kind
        Domain of the rows.
    n
        Number of rows that were learned.
    loss
        Mean binary cross-entropy of each network arm that learned, before its update. Empty if no row was learned.
    scored
        Positions of the rows that were predicted before learning.
    scores
        Their click probabilities by arm, float32, aligned with ``scored``.
    skipped
        Why rows were not learned by any arm; None if all were learned.
    lost
        Positions of the rows that were not learned, ascending.
    """

    kind: StepKind
    n: int
    loss: dict[str, float]
    scored: NDArray[np.intp]
    scores: dict[str, NDArray[np.float32]]
    skipped: str | None = None
    lost: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))

    def learned(self, batch: Batch) -> LearnedRows:
        """The rows of the step's ``batch`` that were learned, with their predictions."""
        if not len(self.lost):
            return LearnedRows(batch, self.scored, self.scores)
        kept = np.ones(len(batch), np.bool_)
        kept[self.lost] = False
        of_scored = kept[self.scored]
        position = np.cumsum(kept) - 1
        return LearnedRows(
            batch.take(kept),
            position[self.scored[of_scored]],
            {arm: p[of_scored] for arm, p in self.scores.items()},
        )

    def digest(self) -> str:
        """Eight hex digits of the predictions and losses, to the last bit, and of which rows were lost."""
        crc = 0
        for name in sorted(self.loss):
            crc = crc32c(struct.pack("<d", self.loss[name]), crc)
        for name in sorted(self.scores):
            crc = crc32c(np.ascontiguousarray(self.scores[name]).tobytes(), crc)
        if self.n and len(self.lost):
            crc = crc32c(self.lost.astype("<u4").tobytes(), crc)
        return f"{crc:08x}"
