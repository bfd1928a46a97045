"""Which arms a replay trains side by side: ``--arms``, ``--arm``, ``--frozen``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ecdctr import factory
from ecdctr.models.registry import ARMS, SERVING
from ecdctr.settings import Loaded, Settings, change
from ecdctr.state.errors import ConfigError

__all__ = ["COLUMNS", "KNOWN", "ArmsAsked", "asked_arms"]

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
"""Arms that are the configuration with one thing changed: engines of their own."""

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
class ArmsAsked:
    """What is to run.

    Attributes
    ----------
    chosen
        Columns that the report shows, in this order; None: all.
    extra
        For ``model.arms``.
    variants
        Further ``key=value`` settings of each engine beside that of the configuration, by name.
    frozen
        Checkpoints, by name.
    """

    chosen: tuple[str, ...] | None = None
    extra: tuple[str, ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    frozen: Mapping[str, Path] = field(default_factory=dict)

    def main(self, settings: Settings) -> Settings:
        """Settings of the engine of the configuration."""
        arms = settings.model.arms + tuple(a for a in self.extra if a not in settings.model.arms)
        return settings.model_copy(update={"model": settings.model.model_copy(update={"arms": arms})})

    def beside(self, loaded: Loaded, settings: Settings) -> dict[str, Settings]:
        """Settings of the engines beside it, by name; ``settings`` are those of :meth:`main`.

        Raises
        ------
        ConfigError
            One would not read or score the same rows; names the key.
        """
        out = {}
        for name, overrides in self.variants.items():
            for text in overrides:
                key = text.partition("=")[0].strip()
                if any(key == k or key.startswith(f"{k}.") for k in _SAME_ROWS):
                    raise ConfigError(
                        f"arm {name} changes {key}: all arms of a replay read and score the same batches; replay it apart, "
                        f"with --set {text}"
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

    def base(self, asked: str | None, settings: Settings) -> str:
        """The column that differences are to; the control, unless another arm was asked for.

        Raises
        ------
        ConfigError
            There is no such arm in the report; lists those there are.
        """
        if asked is None:
            return "ads_only"
        words = {column: name for name, column in COLUMNS.items()}
        there = {words.get(column, column): column for column in self.scored(settings)}
        if asked not in there and asked not in there.values():
            raise ConfigError(
                f"--base {asked!r}: there is no such arm in this replay; there are {', '.join(there)}"
            )
        return there.get(asked, asked)

    def as_told(self) -> dict[str, str]:
        """For comparing what two replays were asked for."""
        told = {name: ",".join(overrides) for name, overrides in self.variants.items()}
        told |= {name: str(path) for name, path in self.frozen.items()}
        return told | ({} if self.chosen is None else {"--arms": ",".join(self.chosen)})


def asked_arms(arms: str | None, variants: Sequence[str] = (), frozen: Sequence[str] = ()) -> ArmsAsked:
    """From the words of the command line.

    Parameters
    ----------
    arms
        Names out of :data:`COLUMNS` and :data:`KNOWN`, with commas between them.
    variants
        ``name:key=value,key=value`` each.
    frozen
        ``name:CHECKPOINT`` each.

    Examples
    --------
    >>> asked = asked_arms("full,ads-only,no-tpm", ["small:model.dim=8,model.hidden=[16, 8]"])
    >>> asked.chosen, asked.variants["no-tpm"], asked.variants["small"]
    (('actr', 'ads_only'), ('model.history=none',), ('model.dim=8', 'model.hidden=[16, 8]'))
    """
    names = [] if arms is None else [name.strip() for name in arms.split(",") if name.strip()]
    for name in names:
        if name not in COLUMNS and name not in KNOWN:
            known = ", ".join([*COLUMNS, *KNOWN])
            raise ConfigError(
                f"--arms {name!r} is not known; there are {known}; others: --arm name:key=value"
            )
    columns = tuple(COLUMNS[name] for name in names if name in COLUMNS)
    found = {name: KNOWN[name] for name in names if name in KNOWN}
    for text in variants:
        name, rest = _named("--arm", text, "small:model.dim=8,model.lr=0.002", taken=found)
        found[name] = tuple(_settings_in(rest))
    paths: dict[str, Path] = {}
    for text in frozen:
        name, rest = _named(
            "--frozen", text, "tuesday:state/checkpoints/000003-step-500", taken=[*found, *paths]
        )
        paths[name] = Path(rest).expanduser()
    chosen = None if arms is None else columns or ("ads_only",)
    extra = tuple(c for c in columns if c not in _ALWAYS)
    return ArmsAsked(chosen, extra, found, paths)


def _named(
    option: str, text: str, example: str, taken: Sequence[str] | Mapping[str, object]
) -> tuple[str, str]:
    name, colon, rest = text.partition(":")
    if not colon or not rest or not _NAME.fullmatch(name):
        raise ConfigError(f"{option} {text!r}: write it as {option} {example}")
    if name in taken or name in COLUMNS or name in COLUMNS.values():
        raise ConfigError(f"{option} {text!r}: there is an arm {name!r} already; call it otherwise")
    return name, rest


def _settings_in(text: str) -> list[str]:
    """``key=value`` pairs; a comma within brackets belongs to the value."""
    return [part.strip() for part in re.split(r",(?=\s*[a-z_]+\.[a-z_.]+\s*=)", text) if part.strip()]
