"""``DayCheck``: verifies that rows are scored before they are learned, by scoring some of them again."""

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
"""How many rows of each domain and event day are scored again: few, since each costs a forward pass."""

_LEARNING = {NATURAL: "cpm", AD: "ads_only"}
"""The arm of each domain that learns from the first row on."""

_ROUNDING = 1e-5
"""Smaller relative differences are rounding: a row's prediction depends slightly on the other rows of its batch."""


@dataclass(frozen=True)
class DayFinding:
    """Scores of one day's sample before and after training.

    Attributes
    ----------
    day
        UTC day, ``ts // DAY_MS``.
    domain, arm, rows
        The domain, arm and number of rows that were scored.
    before, after
        Log loss of the scores in the report, and of the scores at the end of the day.
    moved, moved_by_day
        Share of the predictions that changed by the rows' own step, and by the end of the day.
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
        """No prediction changed: the rows were scored after they were learned, or nothing is learned."""
        return self.moved == 0.0 or self.moved_by_day == 0.0


@dataclass(frozen=True, eq=False)
class _Sample:
    rows: Batch
    before: NDArray[np.float32]
    then: NDArray[np.float32]


class DayCheck:
    """Runs the steps of an engine, and scores a sample of each event day's rows again.

    After a model has learned from rows, it predicts them differently. If it does not, the first scores were not made before
    learning, and figures based on them are invalid.

    Parameters
    ----------
    engine
        Its ads-only control is checked on ad rows, its CPM on natural rows.

    Attributes
    ----------
    findings
        One for each day and domain.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.findings: list[DayFinding] = []
        self._day = -1
        self._samples: dict[int, list[_Sample]] = {NATURAL: [], AD: []}

    @property
    def positions(self) -> Positions:
        """The positions of the engine."""
        return self.engine.positions

    def run(self, step: Step) -> None:
        """Do a step, and keep some of its rows."""
        day = step.clock // DAY_MS
        if day > self._day:
            self.close_day()
            self._day = day
        result = self.engine.run(step)
        domain = step.kind.domain
        arm, samples = _LEARNING[domain], self._samples[domain]
        if result.skipped is None and len(result.scored) and len(samples) < STEPS_A_DAY:
            some = slice(0, ROWS_A_STEP)
            rows = step.batch.take(result.scored[some])
            samples.append(_Sample(rows, result.scores[arm][some], self.engine.trainer.predict(rows, arm)))

    def close_day(self) -> None:
        """Score the day's sample again."""
        for domain, samples in self._samples.items():
            if not samples:
                continue
            arm, rows = _LEARNING[domain], Batch.concat([sample.rows for sample in samples])
            before, then = (
                np.concatenate([getattr(sample, name) for sample in samples]) for name in ("before", "then")
            )
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
            samples.clear()


def _moved(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    return float((np.abs(after - before) > _ROUNDING * before).mean())
