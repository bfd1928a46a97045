"""``Scorer``: computes the predictions of each arm and of the serving arm, including the fallback to the control."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.models.arms import Arm, ArmInput, ArmSelection
from ecdctr.models.nets import InputEncoder
from ecdctr.models.registry import SERVING, Milestone, entry_of
from ecdctr.models.serving.extreme_values import LimitedValues, limit_extremes
from ecdctr.state.hashing import mix64

__all__ = ["Scorer"]

_SAMPLE_SALT = np.uint64(0xA5C35C6E0F2B9D17)
"""Makes the sample of scored users independent of the hash buckets of every feature."""


class Scorer:
    """Predicts with the current parameters of the arms; does not learn.

    The rule:

    1. The name ``actr`` stands for the serving arm, which ``model.transfer`` selects (not for the network of ``reload``,
       whose arm object is also named ``actr``).
    2. Each arm has a milestone from which it predicts (see :data:`ecdctr.models.registry.ARMS`). Before it, its
       predictions are those of the control, ``ads_only``: ``reload`` waits for the first accepted release, ``linked``
       and ``stack`` for the end of the warm-up, that is until natural rows span ``schedule.first_release_after`` of event
       time. These arms can therefore not be worse than the control because natural clicks are still missing.
       (``bayes_fm`` predicts from the first row.)
    3. From then on an arm predicts by itself. An arm that uses predictions of other arms (``stack``, ``cpm_only``)
       receives them according to the same rule.

    Training, prediction on request, replays of a checkpoint and serving all call this class, so that they cannot
    disagree.

    Parameters
    ----------
    arms
        Arms by their name in the table of arms (:data:`ecdctr.models.registry.ARMS`), not by ``Arm.name``.
    selection
        Which of them are scored.
    serving
        Name of the arm that serves.
    encoder
        Encodes rows for the networks.
    reached
        Whether a milestone has been reached.
    natural_share
        Share of users whose natural rows are scored before they are learned, 0 to 1.

    Attributes
    ----------
    limited
        Extreme values among the rows that were to be learned, since the start of the process.
    """

    def __init__(
        self,
        arms: Mapping[str, Arm],
        selection: ArmSelection,
        serving: str,
        encoder: InputEncoder,
        reached: Callable[[Milestone], bool],
        natural_share: float,
    ) -> None:
        self._arms, self._serving, self._encoder = arms, serving, encoder
        self._reached, self._natural_share = reached, natural_share
        self.limited = LimitedValues(encoder.schema.n_dense)
        read = {name for arm in arms.values() for name in arm.reads}
        # CPM's predictions for ads need an extra forward pass, so they are computed only if another arm uses them.
        self._names = tuple(name for name in selection.scored if name != "cpm" or name in read)

    def rows(self, batch: Batch, *, clock_ms: int = 0, will_learn: bool = False) -> ArmInput:
        """The rows as input of the arms, with extreme numbers limited. ``will_learn``: whether they are learned after scoring."""
        batch = limit_extremes(batch, self.limited if will_learn else None)
        return ArmInput(batch, self._encoder, self._predict, clock_ms=clock_ms, will_learn=will_learn)

    def predict(self, batch: Batch, name: str) -> NDArray[np.float32]:
        """Click probabilities ``(n,)`` of any number of rows by one arm, or by the serving arm (``actr``)."""
        return self.rows(batch).scores(name)

    def score(self, rows: ArmInput) -> tuple[NDArray[np.intp], dict[str, NDArray[np.float32]]]:
        """Predict the rows of a step before they are learned.

        Returns
        -------
        tuple
            Positions of the scored rows, and their click probabilities by arm. Ad rows: all of them, by every scored arm.
            Natural rows: those of a fixed sample of users, by CPM.
        """
        if not len(rows):
            return np.empty(0, np.intp), {}
        if rows.ad:
            return np.arange(len(rows)), {name: rows.scores(name) for name in self._names}
        scored = self._sample(rows.batch.user)
        if len(scored) == len(rows):
            return scored, {"cpm": rows.scores("cpm")}
        return scored, {"cpm": self.predict(rows.batch.take(scored), "cpm")}

    def _sample(self, user: NDArray[np.uint64]) -> NDArray[np.intp]:
        if self._natural_share >= 1.0:
            return np.arange(len(user))
        bound = np.uint64(int(self._natural_share * 2.0**64))
        return np.flatnonzero(mix64(user ^ _SAMPLE_SALT) < bound)

    def _predict(self, rows: ArmInput, name: str) -> NDArray[np.float32]:
        if name == SERVING:
            return rows.scores(self._serving)
        if not self._reached(entry_of(name).predicts_from):
            return rows.scores("ads_only")
        if name not in self._arms:
            raise KeyError(
                f"arm {name!r} is not part of this configuration: name it in model.transfer or model.arms"
            )
        return self._arms[name].predict(rows)
