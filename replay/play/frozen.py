"""``FrozenArm``: a model as it was at an earlier checkpoint, as an arm that does not learn."""

from __future__ import annotations

import numpy as np

from ecdctr.events.step import Step
from ecdctr.models.training import Trainer
from ecdctr.state.positions import Positions
from ecdctr.state.row_logs import ROW_COLUMNS, ScoreLog

__all__ = ["FrozenArm"]


class FrozenArm:
    """A trainer restored from a checkpoint: predicts the rows that the other arms predict, and does not learn.

    The model may have learned from any row that is not younger than the checkpoint's event clock. Such a row gets no
    prediction: it stands in the score log without scores (NaN), and no arm is evaluated on it.

    Parameters
    ----------
    trainer
        Restored from the checkpoint.
    scores
        Score log for its predictions: ``actr`` is the served score, ``cpm`` that of CPM.
    positions
        Positions of the arms beside it in the log.

    Attributes
    ----------
    clock
        The checkpoint's event clock, ms.
    not_predicted
        Rows not younger than it, among those that the other arms scored.
    """

    def __init__(self, trainer: Trainer, scores: ScoreLog, positions: Positions | None = None) -> None:
        self._trainer = trainer
        self.scores = scores
        self.positions = Positions(positions or {})
        self.clock = trainer.clock
        self.not_predicted = 0

    def run(self, step: Step) -> None:
        """Predict the rows of a step that the other arms score, and write them to the score log."""
        scored, found = self._trainer.score(step)
        if len(scored):
            rows = step.batch.take(scored)
            learned = rows.ts <= self.clock
            self.not_predicted += int(learned.sum())
            p = {
                f"p_{arm}": np.where(learned, np.float32(np.nan), found[arm])
                for arm in ("actr", "cpm")
                if arm in found
            }
            columns = rows.columns(ROW_COLUMNS)
            self.scores.append({**columns, "label": rows.label.astype(np.uint8), **p})
        self.positions.advance(step.parts)

    def close(self, *, checkpoint: bool = True) -> None:  # noqa: ARG002
        """Close the score log; there is no other state."""
        self.scores.close()
