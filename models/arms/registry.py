"""Selects the arms that a configuration runs, and builds them from the table of arms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch

from ecdctr.events.schema import FeatureSchema
from ecdctr.models.arms.interface import Arm
from ecdctr.models.nets import InputEncoder
from ecdctr.models.registry import ARMS, SERVING, entry_of
from ecdctr.models.settings import ModelSettings

__all__ = ["ArmContext", "ArmSelection", "arms_fingerprint", "build_arms", "select_arms"]


@dataclass(frozen=True)
class ArmSelection:
    """The arms of a configuration.

    Attributes
    ----------
    running
        All arms that run, whether a setting names them or another arm needs them, in the table's order.
    extra
        Arms that are scored in addition to the serving arm, ``ads_only`` and ``cpm``.
    stack
        Members of the stack; empty if no stack runs.
    """

    running: tuple[str, ...]
    extra: tuple[str, ...]
    stack: tuple[str, ...]

    @property
    def scored(self) -> tuple[str, ...]:
        """Columns ``p_<arm>`` of the score log."""
        return (SERVING, "ads_only", "cpm", *self.extra)


def select_arms(model: ModelSettings) -> ArmSelection:
    """The arms of a configuration: what it names, what those need, and what always runs.

    Examples
    --------
    >>> select_arms(ModelSettings()).scored
    ('actr', 'ads_only', 'cpm', 'reload', 'bayes_fm')
    >>> select_arms(ModelSettings(transfer="reload")).scored
    ('actr', 'ads_only', 'cpm')
    >>> select_arms(ModelSettings(transfer="linked")).scored
    ('actr', 'ads_only', 'cpm', 'mixed_tpm')
    >>> select_arms(ModelSettings(transfer="linked", backbone="cpm")).running
    ('cpm', 'ads_only', 'linked')
    """
    named = {model.transfer, *model.arms}
    wanted = named | _needed(named, model)
    stack = model.stack_of if "stack" in wanted else ()
    running = tuple(entry.name for entry in ARMS if entry.always or entry.name in wanted)
    # The serving arm is scored as ``actr``, and under its own name only if a setting names it.
    requested = (wanted - {model.transfer}) | set(model.arms) | set(stack)
    extra = tuple(entry.name for entry in ARMS if not entry.always and entry.name in requested)
    return ArmSelection(running, extra, stack)


def _needed(names: Iterable[str], model: ModelSettings) -> set[str]:
    """All arms that some arms need, directly or through others."""
    found: set[str] = set()
    for name in names:
        setting = entry_of(name).needs
        if setting:
            value = getattr(model, setting)
            needed = {value} if isinstance(value, str) else set(value)
            found |= needed | _needed(needed, model)
    return found


# Checkpoints contain a fingerprint of the arms. Its form is still that of the time when these were the only arms.
_NETWORKS = frozenset({"reload", "linked", "ads_tpm", "mixed", "mixed_tpm"})
_BAYES = frozenset({"bayes_fm", "ads_bayes_fm"})
_OTHERS = frozenset({"cpm", "ads_only", "stack", "cpm_only", "item_ctr"})


def arms_fingerprint(model: ModelSettings) -> dict[str, Any]:
    """Properties of the arms that must be equal for one configuration to load the checkpoints of another, as JSON values."""
    selection = select_arms(model)
    out: dict[str, Any] = {}
    if selection != select_arms(ModelSettings(transfer="reload")):
        networks = sorted(_NETWORKS & set(selection.running))
        out["arms"] = [networks, selection.scored, selection.stack, model.backbone]
    if _BAYES & set(selection.running):
        out["bayes_fm"] = model.bayes_fm.dim
    further = sorted(set(selection.running) - _NETWORKS - _BAYES - _OTHERS)
    return out | ({"further_arms": further} if further else {})


@dataclass
class ArmContext:
    """Arguments of the factories of arms.

    Attributes
    ----------
    schema
        The features.
    model
        Sizes, learning rates, initial values.
    tpm_dim
        Length of a TPM vector.
    encoder
        Encoder of the features.
    device
        Device of the tensors.
    built
        Arms built so far, by their name in the table.
    """

    schema: FeatureSchema
    model: ModelSettings
    tpm_dim: int
    encoder: InputEncoder
    device: torch.device
    built: dict[str, Arm] = field(default_factory=dict)

    def arm(self, name: str) -> Arm:
        """An arm by its name in the table; built when it is first required."""
        if name not in self.built:
            module, function = entry_of(name).factory.split(":")
            make: Callable[[ArmContext], Arm] = getattr(
                import_module(f"ecdctr.models.arms.{module}"), function
            )
            self.built[name] = make(self)
        return self.built[name]


def build_arms(selection: ArmSelection, context: ArmContext) -> dict[str, Arm]:
    """The arms that run, by their name in the table, in the table's order."""
    return {name: context.arm(name) for name in selection.running}
