"""Completed training steps as reported to the monitor, and the block of rows to which they are joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch

__all__ = ["ObservedStep", "RowBlock"]


@dataclass(frozen=True, slots=True, eq=False)
class ObservedStep:
    """One completed training step.

    Attributes
    ----------
    kind
        ``natural`` or ``ad``: all rows are of this domain.
    batch
        Rows that the step learned from, ``n`` of them.
    scored, scores
        Numbers of the rows that were predicted before they were learned, shape ``(m,)``, and their probabilities by arm, each ``(m,)``.
    loss
        Mean loss by arm that learned.
    seconds
        Wall time of the step.
    has_history
        Mask of the rows whose user had TPM vectors, shape ``(n,)``; None: unknown.
    """

    kind: str
    batch: Batch
    scored: NDArray[np.intp]
    scores: Mapping[str, NDArray[np.float32]]
    loss: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    has_history: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows of several steps of one domain, in the order of the steps.

    Attributes
    ----------
    batch
        All rows, ``n`` of them.
    scored, scores
        As in :class:`ObservedStep`; a probability is NaN where an arm did not predict the row.
    late
        Mask of the late rows, shape ``(n,)``.
    history
        1: the row's user had TPM vectors, 0: not, -1: unknown; shape ``(n,)``. None: unknown for all rows.
    """

    batch: Batch
    scored: NDArray[np.intp]
    scores: dict[str, NDArray[np.float32]]
    late: NDArray[np.bool_]
    history: NDArray[np.int8] | None

    @staticmethod
    def join(
        observed: Sequence[tuple[ObservedStep, NDArray[np.bool_] | None]], arms: Sequence[str]
    ) -> RowBlock:
        """Join steps of one domain, each with the mask of its late rows (None: no row is late).

        ``arms``: names of the arms whose predictions are retained.
        """
        steps = [step for step, _ in observed]
        batch = (
            steps[0].batch if len(steps) == 1 else Batch.concat([Batch(**s.batch.columns()) for s in steps])
        )
        starts = np.cumsum([0, *(len(s.batch) for s in steps[:-1])])
        return RowBlock(
            batch,
            np.concatenate([s.scored + start for s, start in zip(steps, starts, strict=True)]),
            {arm: _scores(steps, arm) for arm in arms if any(arm in s.scores for s in steps)},
            np.concatenate(
                [np.zeros(len(s.batch), np.bool_) if late is None else late for s, late in observed]
            ),
            _history(steps),
        )


def _scores(steps: Sequence[ObservedStep], arm: str) -> NDArray[np.float32]:
    return np.concatenate(
        [s.scores[arm] if arm in s.scores else np.full(len(s.scored), np.nan, np.float32) for s in steps]
    )


def _history(steps: Sequence[ObservedStep]) -> NDArray[np.int8] | None:
    if all(s.has_history is None for s in steps):
        return None
    return np.concatenate(
        [
            np.full(len(s.batch), -1, np.int8) if s.has_history is None else s.has_history.astype(np.int8)
            for s in steps
        ]
    )
