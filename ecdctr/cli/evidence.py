"""``ecdctr evidence``: the studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecdctr.cli.options import SetOption, err, out

__all__ = ["evidence"]


def evidence(
    study: Annotated[
        str | None,
        typer.Argument(
            help="The study to run. `forgetting` evaluates returning users and items, and predicts rows of earlier periods "
            "again later, with and without TPM. By default all arms are compared on the same rows."
        ),
    ] = None,
    overrides: SetOption = None,
    short: Annotated[
        bool,
        typer.Option(
            "--short",
            help="Use one small simulator, and exit with code 1 if the arms do not rank in the expected order.",
        ),
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option(help="Seeds of the simulator, as 31-35 or 31,32 (default 31-35; with --short 101)."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The folder that contains ebnerd/. The default is $ECDCTR_DATA.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Save the scored rows of each run in this folder, and reuse the runs that it already holds."
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(help="How many runs to execute in parallel, one core each.", min=1)
    ] = 1,
    model_seeds: Annotated[
        int,
        typer.Option(help="How many models (seeds 0, 1, ...) to train for each mapping of EB-NeRD.", min=1),
    ] = 3,
    page: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Write the page to this file (default docs/evidence.md or docs/forgetting.md)."
        ),
    ] = None,
) -> None:
    """Compare all arms on the same rows, with intervals: on simulator seeds, and on EB-NeRD if its data is available."""
    from ecdctr.state.errors import ConfigError
    from ecdctr.studies.evidence import run_evidence

    if study == "forgetting":
        from ecdctr.studies.forgetting_page import run_forgetting

        page = page or Path("docs/forgetting.md")
        run_forgetting(err, page, short=short, seeds=seeds, jobs=jobs, keep=keep, overrides=overrides or ())
        out.print(str(page))
        return
    if study is not None:
        raise ConfigError(f"there is no study {study!r}: use `forgetting`, or no name to compare all arms")
    page = page or Path("docs/evidence.md")
    broken, found = run_evidence(
        err,
        page,
        short=short,
        seeds=seeds,
        jobs=jobs,
        model_seeds=model_seeds,
        data=data,
        keep=keep,
        overrides=overrides or (),
    )
    for line in broken:
        err.print(f"out of order: {line}", soft_wrap=True)
    out.print(f"{page}: {', '.join(f'{name} {value}' for name, value in found.items())}", soft_wrap=True)
    raise typer.Exit(1 if broken else 0)
