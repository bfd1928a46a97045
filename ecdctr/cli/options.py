"""What all commands share: the consoles, the options for the configuration, and the argument for a source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from ecdctr.settings import Loaded

__all__ = ["ConfigOption", "SetOption", "SourceArgument", "err", "load", "out"]

# Without markup: keys such as ``features[user]``, paths and messages are printed as they are.
out = Console(markup=False)
err = Console(stderr=True, markup=False)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Read the configuration from this TOML file. The default is $ECDCTR_CONFIG, then ./ecdctr.toml.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="Override one key of the configuration, for example `--set model.lr=0.0005`. May be repeated.",
    ),
]
SourceArgument = Annotated[
    str,
    typer.Argument(
        help="Where the events come from: the simulator (`sim`, `sim:days=40,users=2000`), a data set "
        "(`ebnerd:FOLDER?mapping=A`), or a JSONL, Parquet or CSV file or glob of events. The error for an unknown source "
        "lists every form."
    ),
]


def load(config: Path | None, overrides: list[str] | None) -> Loaded:
    """The configuration that a command line selects."""
    from ecdctr.settings import load_settings

    return load_settings(config, overrides or ())
