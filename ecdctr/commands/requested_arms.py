"""The arms that a replay trains side by side: ``--arms``, ``--arm``, ``--frozen``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ecdctr import factory
from ecdctr.models.registry import ARMS, SERVING
from ecdctr.overrides import key_of
from ecdctr.settings import Loaded, Settings, change
from ecdctr.state.errors import ConfigError

__all__ = ["COLUMNS", "KNOWN", "RequestedArms", "parse_arms"]

COLUMNS = {"full": SERVING, "ads-only": "ads_only"} | {
    entry.name.replace("_", "-"): entry.name for entry in ARMS
}
"""Names of the arms that one engine scores, and their columns in the score log."""

KNOWN: dict[str, tuple[str, ...]] = {
    "no-tpm": ("model.history=none",),
    "tpm-mean": ("model.history=mean",),
    "tpm-latest": ("model.history=latest",),
    "bn-kept": ("schedule.reset_batch_norm=false",),
    "no-fine-tune": ("schedule.fine_tune=false",),
    "init-once": ("schedule.releases=once",),
    "no-gate": ("schedule.gate=false",),
}
"""Arms that change one setting of the configuration; each runs in a separate engine."""

_ALWAYS = frozenset({SERVING, *(entry.name for entry in ARMS if entry.always)})
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_SAME_ROWS = (
    "features",
    "events",
    "model.natural_batch",
    "model.ad_batch",
    "model.natural_score_share",
    "state",
)


@dataclass(frozen=True)
class RequestedArms:
    """The arms that the command line requests.

    Attributes
    ----------
    chosen
        Columns that the report shows, in this order; None: all.
    extra
        Arms to add to ``model.arms``.
    variants
        By name, the ``key=value`` settings of each further engine.
    frozen
        By name, the checkpoint of each arm that does not learn.
    """

    chosen: tuple[str, ...] | None = None
    extra: tuple[str, ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    frozen: Mapping[str, Path] = field(default_factory=dict)

    def main(self, settings: Settings) -> Settings:
        """Settings of the main engine: the configuration with the extra arms."""
        arms = settings.model.arms + tuple(a for a in self.extra if a not in settings.model.arms)
        return settings.model_copy(update={"model": settings.model.model_copy(update={"arms": arms})})

    def beside(self, loaded: Loaded, settings: Settings) -> dict[str, Settings]:
        """Settings of the further engines, by name; ``settings`` are those of :meth:`main`.

        Raises
        ------
        ConfigError
            An engine would not read or score the same rows; the message names the key.
        """
        out = {}
        for name, overrides in self.variants.items():
            for text in overrides:
                key = text.partition("=")[0].strip()
                if any(key == k or key.startswith(f"{k}.") for k in _SAME_ROWS):
                    raise ConfigError(
                        f"arm {name} changes {key}: all arms of a replay read and score the same batches; run a separate replay, "
                        f"with --set {key}=..."
                    )
            found = change(loaded, overrides, f"--arm {name}").settings
            if not any(text.startswith("model.arms") for text in overrides):
                found = found.model_copy(update={"model": found.model.model_copy(update={"arms": ()})})
            out[name] = found.model_copy(update={"features": settings.features, "events": settings.events})
        return out

    def scored(self, settings: Settings) -> tuple[str, ...]:
        """Columns that the report shows."""
        own = tuple(factory.arms(settings))
        chosen = own if self.chosen is None else tuple(c for c in self.chosen if c in own)
        named = [*self.variants, *self.frozen]
        if self.chosen is None:
            return (*own, *named)
        return (*chosen, *(n for n in named if n not in chosen))

    def base(self, name: str | None, settings: Settings) -> str:
        """The column with which the others are compared: that of the requested arm, by default the ads-only control.

        Raises
        ------
        ConfigError
            There is no such arm in the report; the message lists the arms.
        """
        if name is None:
            return "ads_only"
        names = {column: name for name, column in COLUMNS.items()}
        there = {names.get(column, column): column for column in self.scored(settings)}
        if name not in there and name not in there.values():
            raise ConfigError(
                f"--base {name!r}: there is no such arm in this replay; there are {', '.join(there)}"
            )
        return there.get(name, name)

    def as_options(self) -> dict[str, str]:
        """The request as plain text, to compare it with that of an interrupted replay."""
        options = {name: ",".join(overrides) for name, overrides in self.variants.items()}
        options |= {name: str(path) for name, path in self.frozen.items()}
        return options | ({} if self.chosen is None else {"--arms": ",".join(self.chosen)})


def parse_arms(arms: str | None, variants: Sequence[str] = (), frozen: Sequence[str] = ()) -> RequestedArms:
    """Parse the options of the command line.

    Parameters
    ----------
    arms
        Names from :data:`COLUMNS` and :data:`KNOWN`, separated by commas.
    variants
        Each ``name:key=value,key=value``.
    frozen
        Each ``name:CHECKPOINT``.

    Examples
    --------
    >>> requested = parse_arms("full,ads-only,no-tpm", ["small:model.dim=8,model.hidden=[16, 8]"])
    >>> requested.chosen, requested.variants["no-tpm"], requested.variants["small"]
    (('actr', 'ads_only'), ('model.history=none',), ('model.dim=8', 'model.hidden=[16, 8]'))
    """
    names = [] if arms is None else [name.strip() for name in arms.split(",") if name.strip()]
    for name in names:
        if name not in COLUMNS and name not in KNOWN:
            known = ", ".join([*COLUMNS, *KNOWN])
            raise ConfigError(
                f"--arms {name!r} is unknown; the known arms are {known}; define others with --arm name:key=value"
            )
    columns = tuple(COLUMNS[name] for name in names if name in COLUMNS)
    found = {name: KNOWN[name] for name in names if name in KNOWN}
    for text in variants:
        name, rest = _named("--arm", text, "small:model.dim=8,model.lr=0.002", taken=found)
        found[name] = tuple(_settings_in(rest))
    paths: dict[str, Path] = {}
    for text in frozen:
        name, rest = _named(
            "--frozen", text, "tuesday:state/checkpoints/00000003-step-500", taken=[*found, *paths]
        )
        paths[name] = Path(rest).expanduser()
    chosen = None if arms is None else columns or ("ads_only",)
    extra = tuple(c for c in columns if c not in _ALWAYS)
    return RequestedArms(chosen, extra, found, paths)


def _named(
    option: str, text: str, example: str, taken: Sequence[str] | Mapping[str, object]
) -> tuple[str, str]:
    name, colon, rest = text.partition(":")
    if not colon or not rest or not _NAME.fullmatch(name):
        raise ConfigError(f"{option} {key_of(text)}...: write it as {option} {example}")
    if name in taken or name in COLUMNS or name in COLUMNS.values():
        raise ConfigError(f"{option} {name}:...: there is already an arm {name!r}; choose another name")
    return name, rest


def _settings_in(text: str) -> list[str]:
    """Split ``key=value`` pairs at commas; a comma within brackets belongs to the value."""
    return [part.strip() for part in re.split(r",(?=\s*[a-z_]+\.[a-z_.]+\s*=)", text) if part.strip()]
