"""Commands that only look: ``doctor``, ``config show``, ``inspect checkpoint`` and ``inspect snapshot``."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ecdctr.cli.options import ConfigOption, SetOption, load, out

__all__ = ["config_show", "doctor", "inspect_checkpoint", "inspect_snapshot"]


def doctor(
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    messages: Annotated[
        int, typer.Option(help="Decode this many of the last messages of each topic. 0 decodes none.", min=0)
    ] = 1000,
    topic: Annotated[str | None, typer.Option(help="Decode messages of this click topic only.")] = None,
) -> None:
    """Check what a worker will need: configuration, brokers, rights, topics, messages and the state folder.

    Nothing is changed, and no group is joined. The exit code is 0 if a worker would run, and 7 if it would not.
    """
    from ecdctr.commands.doctor import examine

    raise typer.Exit(examine(out, config, overrides or [], as_json=as_json, messages=messages, topic=topic))


def inspect_checkpoint(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="The folder of one checkpoint. The default is all checkpoints of the state folder."
        ),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Verify checkpoints, and show their step, event clock, rows, releases and TPM months."""
    from ecdctr.commands.inspect import show_checkpoints

    raise typer.Exit(show_checkpoints(out, load(config, overrides), path))


def inspect_snapshot(
    month: Annotated[str | None, typer.Argument(help="One month. The default is all months.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Verify the checksums of TPM snapshots, and show their months, rows and latest training rows."""
    from ecdctr.commands.inspect import show_snapshots

    raise typer.Exit(show_snapshots(out, load(config, overrides), month))


def config_show(
    config: ConfigOption = None,
    overrides: SetOption = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print a TOML file that loads as the same configuration.")
    ] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Show only the keys that differ from their defaults.")
    ] = False,
) -> None:
    """Show every key of the configuration: its value, the origin of the value, and its description."""
    from ecdctr.settings import dump_toml, settings_table

    loaded = load(config, overrides)
    if toml:
        out.print(dump_toml(loaded.settings), markup=False, highlight=False, soft_wrap=True)
        return
    for key, value, origin, text in settings_table(loaded):
        if not changed or origin != "default":
            # One line per key: a table would truncate long keys, and `grep` finds the value with the key.
            line = Text.assemble(
                (key, "bold"), f" = {value} ", (f"({origin})", "dim" if origin == "default" else "bold")
            )
            out.print(line, soft_wrap=True, highlight=False)
            out.print(
                textwrap.indent(textwrap.fill(text, max(out.width - 4, 40)), "    "),
                soft_wrap=True,
                highlight=False,
            )
