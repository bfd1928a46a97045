"""Which arms a configuration runs, and under which names their predictions are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ecdctr.models.settings import ExtraArm, ModelSettings

__all__ = ["Lineup", "lineup"]

_ALWAYS = ("actr", "ads_only", "cpm")
_NETWORKS = ("reload", "linked", "ads_tpm", "mixed", "mixed_tpm")
_BAYES = ("bayes_fm", "ads_bayes_fm")
_EXTRA: tuple[str, ...] = get_args(ExtraArm)


@dataclass(frozen=True)
class Lineup:
    """What runs.

    Attributes
    ----------
    networks
        Of ``reload, linked, ads_tpm, mixed, mixed_tpm``, those that learn, whether asked for or needed by another.
    bayes
        Of ``bayes_fm, ads_bayes_fm``, those asked for.
    extra
        Arms that are scored beside ``actr`` (what serves), ``ads_only`` and ``cpm``.
    stack
        Members of the stack; empty: there is none.
    """

    networks: frozenset[str]
    bayes: tuple[str, ...]
    extra: tuple[str, ...]
    stack: tuple[str, ...]

    @property
    def scored(self) -> tuple[str, ...]:
        """Columns ``p_<arm>`` of the score log."""
        return _ALWAYS + self.extra


def lineup(model: ModelSettings) -> Lineup:
    """Arms of a configuration.

    Examples
    --------
    >>> lineup(ModelSettings()).scored
    ('actr', 'ads_only', 'cpm', 'reload', 'bayes_fm')
    >>> lineup(ModelSettings(transfer="reload")).scored
    ('actr', 'ads_only', 'cpm')
    >>> lineup(ModelSettings(transfer="linked")).scored
    ('actr', 'ads_only', 'cpm', 'mixed_tpm')
    >>> sorted(lineup(ModelSettings(transfer="linked", backbone="cpm")).networks)
    ['linked']
    """
    wanted: set[str] = {model.transfer, *model.arms}
    stack = model.stack_of if "stack" in wanted else ()
    wanted |= set(stack)
    if "linked" in wanted:
        wanted.add(model.backbone)
    networks = frozenset(wanted & set(_NETWORKS))
    # What serves stands under ``actr``; once more under its own name only if somebody asks for it.
    beside = (wanted - {model.transfer}) | set(model.arms) | set(stack)
    return Lineup(
        networks,
        tuple(name for name in _BAYES if name in wanted),
        tuple(name for name in _EXTRA if name in beside),
        stack,
    )
