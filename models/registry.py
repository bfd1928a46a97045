"""The table of arms: the models that can run side by side, and the milestones from which they predict and learn.

Everything that lists arms is derived from :data:`ARMS`: the values that the settings accept, the columns of the score
log, the arms that a trainer builds, and the tests that every arm has to pass. A new arm is one module in
``models/arms`` and one line here.

The table is outside ``models/arms`` because the settings are validated against it, and the arms import the settings.
For the same reason an arm's factory is given by name and imported only when the arm is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = [
    "ARMS",
    "SERVING",
    "ArmEntry",
    "Milestone",
    "entry_of",
    "extra_arms",
    "serving_arms",
    "stack_members",
]

SERVING = "actr"
"""Name of the serving arm's predictions in the score log and in reports."""


class Milestone(Enum):
    """Points of a stream from which an arm predicts or learns."""

    START = "start"
    """From the first row."""
    WARM_UP_END = "end of warm-up"
    """Natural rows span ``schedule.first_release_after`` of event time."""
    FIRST_RELEASE = "first release"
    """A first CPM release was accepted."""


@dataclass(frozen=True, slots=True)
class ArmEntry:
    """One arm of the table.

    Attributes
    ----------
    name
        Name in settings, scores and reports.
    factory
        ``module:function`` in ``models/arms``; called with an ``ArmContext``, it returns the arm.
    saved_as
        Name of the arm object and prefix of its tensors in checkpoints; if empty, ``name``.
    always
        Whether the arm runs in every configuration; other arms run if a setting names them or another arm needs them.
    can_serve
        Whether ``model.transfer`` accepts the name.
    can_be_stacked
        Whether ``model.stack_of`` accepts the name.
    needs
        Key of the model settings that names the arms without which this one cannot run; empty if it needs none.
    predicts_from
        Until then the predictions of ``ads_only`` are used in place of the arm's own.
    learns_from
        Until then the arm does not learn.
    """

    name: str
    factory: str
    saved_as: str = ""
    always: bool = False
    can_serve: bool = False
    can_be_stacked: bool = True
    needs: str = ""
    predicts_from: Milestone = Milestone.START
    learns_from: Milestone = Milestone.START

    @property
    def arm_name(self) -> str:
        """Name of the arm object, of its loss and of its tensors in checkpoints."""
        return self.saved_as or self.name


_WARM, _RELEASED = Milestone.WARM_UP_END, Milestone.FIRST_RELEASE

ARMS: tuple[ArmEntry, ...] = (
    ArmEntry("cpm", "networks:cpm", always=True),
    ArmEntry("ads_only", "networks:ads_only", always=True),
    ArmEntry(
        "reload", "networks:reload", "actr", can_serve=True, predicts_from=_RELEASED, learns_from=_RELEASED
    ),
    ArmEntry("linked", "linked:linked", can_serve=True, needs="backbone", predicts_from=_WARM),
    ArmEntry(
        "stack",
        "stack:stack",
        can_serve=True,
        can_be_stacked=False,
        needs="stack_of",
        predicts_from=_WARM,
        learns_from=_WARM,
    ),
    ArmEntry("bayes_fm", "bayes_fm:bayes_fm", can_serve=True),
    ArmEntry("ads_bayes_fm", "bayes_fm:ads_bayes_fm"),
    ArmEntry("ads_tpm", "networks:ads_tpm"),
    ArmEntry("mixed", "networks:mixed"),
    ArmEntry("mixed_tpm", "networks:mixed_tpm"),
    ArmEntry("cpm_only", "prior_shift:cpm_only", can_be_stacked=False),
    ArmEntry("item_ctr", "item_ctr:item_ctr", can_be_stacked=False),
)
"""All arms. The order is that of columns and reports and enters the cache keys of studies: append, do not reorder."""


def entry_of(name: str) -> ArmEntry:
    """The table's entry of a name.

    Raises
    ------
    KeyError
        No arm has this name.
    """
    for entry in ARMS:
        if entry.name == name:
            return entry
    raise KeyError(f"there is no arm {name!r}: choose one of {', '.join(entry.name for entry in ARMS)}")


def extra_arms() -> tuple[str, ...]:
    """Names that ``model.arms`` accepts."""
    return tuple(entry.name for entry in ARMS if not entry.always)


def stack_members() -> tuple[str, ...]:
    """Names that ``model.stack_of`` accepts; arms that always run are last."""
    members = sorted((entry for entry in ARMS if entry.can_be_stacked), key=lambda entry: entry.always)
    return tuple(entry.name for entry in members)


def serving_arms() -> tuple[str, ...]:
    """Names that ``model.transfer`` accepts."""
    return tuple(entry.name for entry in ARMS if entry.can_serve)
