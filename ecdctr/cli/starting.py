"""The command for a first contact with one's own data: ``init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecdctr.cli.options import ConfigOption, SetOption, load, out
from ecdctr.state.errors import ConfigError

__all__ = ["init"]


def init(
    sample: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files or folders of your log: JSON lines, CSV, Parquet or Arrow. A log of ads and one of natural content may be two "
            "files (`ads.csv content.csv`) or one with a column that tells them apart.",
            show_default=False,
        ),
    ] = None,
    brokers: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT,...",
            help="Look at the last messages of topics instead: the brokers; others settings of the connection by `--set kafka.KEY=VALUE`.",
        ),
    ] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="With --brokers: a click topic. Twice for the two streams.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Write the files to this folder.")] = Path(),
    use: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=COLUMN",
            help="Name a column instead of letting it be guessed: `--use label=is_click`, `--use 'label=dwell > 10'`, `--use user=cookie`; the "
            "roles are time, label, user and item. May be repeated.",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(help="Read about this many rows of each table.", min=20)] = 20_000,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Look at a sample of your log, and write what a first replay needs: `ecdctr.toml` and `log.toml`.

    Nothing is asked and nothing is sent. Printed are the guesses, how sure each one is and why, and what you should check. Names of
    columns are known in several languages, but the values decide: which column advances with the rows, which is 0 and 1 with few ones,
    which values repeat. Columns that are known only after a click (dwell time, purchases) are left out, with the reason.

    Then:

        ecdctr init clicks.parquet

        ecdctr replay map:log.toml --out first

    and open first/report.html. Topics of a Kafka: `ecdctr init --brokers kafka-1:9092 --topic clicks --topic ad-clicks`. The exit code is 6 if no column says which rows were clicked.
    """
    from ecdctr.commands.init import init_files, parse_roles

    roles = parse_roles(use or ())
    if (brokers is None) == (not sample) or (brokers is None) != (not topic):
        raise ConfigError("init needs files or folders, or --brokers with --topic; see `ecdctr init --help`")
    if sample:
        init_files(out, sample, out_dir, rows=rows, roles=roles, force=force)
        return
    from ecdctr.commands.init_topics import init_topics

    kafka = load(config, [*(overrides or ()), f"kafka.brokers={brokers}"]).settings.kafka
    init_topics(out, kafka, topic or (), out_dir, messages=rows, roles=roles, force=force)
