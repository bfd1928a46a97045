"""Learns a step in all arms or in none."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ecdctr.models.arms import Arm, ArmInput, StagedArm
from ecdctr.models.nets import MAX_LOSS

__all__ = ["learn_in_all"]


def learn_in_all(arms: Iterable[Arm], rows: ArmInput) -> tuple[dict[str, float], str | None]:
    """Learn rows in every arm, or leave every arm as it is, bit for bit.

    1. The arms whose learning can fail stage the step. Those based on another arm come before it, because their step has to be
       computed with the parameters that predicted the rows.
    2. If one of them fails, all that have staged are rolled back and nothing is learned.
    3. Otherwise all of them commit.
    4. The other arms, which cannot fail, learn the rows.

    Parameters
    ----------
    arms
        Arms that learn these rows.
    rows
        Rows of one domain, scored before.

    Returns
    -------
    tuple
        Mean loss by arm, before its update; and why the step was rolled back (None if it is final).
    """
    staged: list[StagedArm] = []
    others: list[Arm] = []
    for arm in arms:
        if isinstance(arm, StagedArm):
            staged.append(arm)
        else:
            others.append(arm)
    staged.sort(key=lambda arm: not arm.based_on)
    losses: dict[str, float] = {}
    for i, arm in enumerate(staged):
        losses[arm.name] = arm.stage(rows)
        if math.isnan(losses[arm.name]):
            for begun in staged[: i + 1]:
                begun.rollback()
            return {}, f"loss or gradient of {arm.name} is not finite, or its loss is above {MAX_LOSS:g}"
    for arm in staged:
        arm.commit()
    for other in others:
        other.learn(rows)
    return losses, None
