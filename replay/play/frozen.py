"""``FrozenArm``: the model of some earlier day beside those that learn."""

from __future__ import annotations

import numpy as np

from ecdctr.events.step import Step
from ecdctr.models.training import Trainer
from ecdctr.state.positions import Positions
from ecdctr.state.row_logs import ROW_COLUMNS, ScoreLog

__all__ = ["FrozenArm"]


class FrozenArm:
    """A trainer that stands where a checkpoint left it: predicts what the others predict, learns nothing.

    A row that is not younger than the checkpoint's event clock may have been learned by it, so it is not asked of
    that row: the row stands in the score log without scores, and no arm is judged on it.

    Parameters
    ----------
    trainer
        Restored from the checkpoint.
    scores
        Where its predictions go: ``actr`` what served, ``cpm``.
    positions
        How far in the log the arms beside it are.

    Attributes
    ----------
    clock
        The checkpoint's event clock, ms.
    not_asked
        Rows not younger than it, of those that the others scored.
    """

    def __init__(self, trainer: Trainer, scores: ScoreLog, positions: Positions | None = None) -> None:
        self._trainer = trainer
        self.scores = scores
        self.positions = Positions(positions or {})
        self.clock = trainer.clock
        self.not_asked = 0

    def run(self, step: Step) -> None:
        """Predict the rows that a step scores."""
        scored, found = self._trainer.score(step)
        if len(scored):
            rows = step.batch.take(scored)
            seen = rows.ts <= self.clock
            self.not_asked += int(seen.sum())
            p = {
                f"p_{arm}": np.where(seen, np.float32(np.nan), found[arm])
                for arm in ("actr", "cpm")
                if arm in found
            }
            columns = rows.columns(ROW_COLUMNS)
            self.scores.append({**columns, "label": rows.label.astype(np.uint8), **p})
        self.positions.advance(step.parts)

    def close(self, *, checkpoint: bool = True) -> None:  # noqa: ARG002
        """There is nothing to keep but the scores."""
        self.scores.close()
