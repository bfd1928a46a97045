"""The command for a first contact with one's own data: ``init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecdctr.cli.options import out

__all__ = ["init"]


def init(
    sample: Annotated[
        list[str],
        typer.Argument(
            help="Files or folders of your log: JSON lines, CSV, Parquet or Arrow. A log of ads and one of natural content may be two "
            "files (`ads.csv content.csv`) or one with a column that tells them apart.",
            show_default=False,
        ),
    ],
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

    and open first/report.html. The exit code is 6 if no column says which rows were clicked.
    """
    from ecdctr.commands.init import init_files, parse_roles

    init_files(out, sample, out_dir, rows=rows, roles=parse_roles(use or ()), force=force)
