"""``DayCheck``: were rows scored before they were learned? Some of each day are scored once more, and again at its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD, DOMAIN_NAMES, NATURAL, Batch
from ecdctr.events.step import Step
from ecdctr.events.time import DAY_MS
from ecdctr.models.training import Engine
from ecdctr.replay.metrics import log_loss
from ecdctr.state.positions import Positions

__all__ = ["DayCheck", "DayFinding"]

ROWS_A_STEP, STEPS_A_DAY = 128, 1
"""How much of each domain and event day is scored again: little, since it costs a forward pass."""

_LEARNING = {NATURAL: "cpm", AD: "ads_only"}
"""The arm of each domain that learns from its first row on."""

_ROUNDING = 1e-5
"""Relative difference below which a prediction has not moved: rows scored in other company round otherwise."""


@dataclass(frozen=True)
class DayFinding:
    """One day's rows before and after training.

    Attributes
    ----------
    day
        UTC day, ``ts // DAY_MS``.
    domain, arm, rows
        What was scored.
    before, after
        Log loss of the scores that count, and of those at the end of the day.
    moved, moved_by_day
        Share of the predictions that the rows' own step changed, and that the day changed.
    """

    day: int
    domain: str
    arm: str
    rows: int
    before: float
    after: float
    moved: float
    moved_by_day: float

    @property
    def suspicious(self) -> bool:
        """Nothing moved: the rows were scored after they were learned, or nothing is learned."""
        return self.moved == 0.0 or self.moved_by_day == 0.0


@dataclass(frozen=True, eq=False)
class _Kept:
    rows: Batch
    before: NDArray[np.float32]
    then: NDArray[np.float32]


class DayCheck:
    """An engine that is watched: runs its steps, and scores a sample of each event day's rows once more.

    A model that has just learned rows predicts them otherwise than before. Where it does not, the first scores were not
    made before the learning, and every figure of them is worthless.

    Parameters
    ----------
    engine
        Its control is looked at on ad rows, its CPM on natural ones.

    Attributes
    ----------
    findings
        One a day and domain.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.findings: list[DayFinding] = []
        self._day = -1
        self._kept: dict[int, list[_Kept]] = {NATURAL: [], AD: []}

    @property
    def positions(self) -> Positions:
        """The engine's."""
        return self.engine.positions

    def run(self, step: Step) -> None:
        """Do a step, and keep some of its rows."""
        day = step.clock // DAY_MS
        if day > self._day:
            self.close_day()
            self._day = day
        result = self.engine.run(step)
        domain = step.kind.domain
        arm, kept = _LEARNING[domain], self._kept[domain]
        if result.skipped is None and len(result.scored) and len(kept) < STEPS_A_DAY:
            some = slice(0, ROWS_A_STEP)
            rows = step.batch.take(result.scored[some])
            kept.append(_Kept(rows, result.scores[arm][some], self.engine.trainer.predict(rows, arm)))

    def close_day(self) -> None:
        """Score the day's rows again."""
        for domain, kept in self._kept.items():
            if not kept:
                continue
            arm, rows = _LEARNING[domain], Batch.concat([k.rows for k in kept])
            before, then = (np.concatenate([getattr(k, name) for k in kept]) for name in ("before", "then"))
            after = self.engine.trainer.predict(rows, arm)
            self.findings.append(
                DayFinding(
                    day=self._day,
                    domain=DOMAIN_NAMES[domain],
                    arm=arm,
                    rows=len(rows),
                    before=log_loss(rows.label, before),
                    after=log_loss(rows.label, after),
                    moved=_moved(before, then),
                    moved_by_day=_moved(before, after),
                )
            )
            kept.clear()


def _moved(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    return float((np.abs(after - before) > _ROUNDING * before).mean())
