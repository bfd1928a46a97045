"""Learns a step in all arms or in none; if some rows cannot be learned, the step without them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecdctr.models.arms import Arm, ArmInput, StagedArm
from ecdctr.models.nets import MAX_LOSS
from ecdctr.models.training.good_rows import good_rows

__all__ = ["Learned", "learn_in_all"]


@dataclass(frozen=True, slots=True)
class Learned:
    """What became of the rows of a step.

    Attributes
    ----------
    rows
        The rows that were learned, the given object if all were; None: no row was.
    loss
        Their mean loss by arm, before its update.
    lost
        Positions of the rows that were not learned, ascending.
    reason
        Why they were not; None if all were.
    """

    rows: ArmInput | None
    loss: dict[str, float]
    lost: NDArray[np.intp]
    reason: str | None = None


def learn_in_all(arms: Iterable[Arm], rows: ArmInput) -> Learned:
    """Learn rows in every arm, or leave every arm as it is, bit for bit.

    1. The arms whose learning can fail stage the step. Those based on another arm come before it, because their step has to be
       computed with the parameters that predicted the rows.
    2. If one of them fails, all that have staged are rolled back. The rows that cause it are searched (:func:`good_rows`), and the
       step is staged without them. If it still fails, nothing is learned.
    3. Otherwise all of them commit.
    4. The other arms, which cannot fail, learn the rows.

    The rows that are lost depend only on the rows and the state of the arms.

    Parameters
    ----------
    arms
        Arms that learn these rows.
    rows
        Rows of one domain, scored before.
    """
    staged: list[StagedArm] = []
    others: list[Arm] = []
    for arm in arms:
        if isinstance(arm, StagedArm):
            staged.append(arm)
        else:
            others.append(arm)
    staged.sort(key=lambda arm: not arm.based_on)
    lost = np.empty(0, np.intp)
    loss, reason = _stage(staged, rows)
    if reason is not None:

        def works(index: NDArray[np.intp]) -> bool:
            found, failure = _stage(staged, rows.take(index))
            if failure is None:
                _rollback(staged)
            return bool(found)

        good = good_rows(len(rows), works)
        lost = np.setdiff1d(np.arange(len(rows)), good)
        if not len(good):
            return Learned(None, {}, lost, reason)
        rows = rows.take(good)
        loss, _ = _stage(staged, rows)
    for arm in staged:
        arm.commit()
    for other in others:
        other.learn(rows)
    return Learned(rows, loss, lost, reason)


def _stage(arms: Sequence[StagedArm], rows: ArmInput) -> tuple[dict[str, float], str | None]:
    """Stage rows in all arms; if one fails, none is staged, and the reason is returned."""
    losses: dict[str, float] = {}
    for i, arm in enumerate(arms):
        losses[arm.name] = arm.stage(rows)
        if math.isnan(losses[arm.name]):
            _rollback(arms[: i + 1])
            return {}, f"loss or gradient of {arm.name} is not finite, or its loss is above {MAX_LOSS:g}"
    return losses, None


def _rollback(arms: Iterable[StagedArm]) -> None:
    for arm in arms:
        arm.rollback()
