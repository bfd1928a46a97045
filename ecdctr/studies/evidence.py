"""``ecdctr evidence``: every arm on the same rows, with intervals, and the page that shows the result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ecdctr.state.errors import ConfigError
from ecdctr.studies.cache import check_page
from ecdctr.studies.evidence_figures import bars, figures
from ecdctr.studies.evidence_page import broken_order, write_page
from ecdctr.studies.evidence_runs import STEPS, Scored, run_all, seeds_of, studies, with_stack_all

__all__ = ["run_evidence"]


def run_evidence(
    out: Console,
    page: Path,
    *,
    short: bool = False,
    seeds: str | None = None,
    jobs: int = 1,
    model_seeds: int = 3,
    data: Path | None = None,
    keep: Path | None = None,
    overrides: Sequence[str] = (),
) -> tuple[list[str], dict[str, float | None]]:
    """Run the study and write its page.

    Parameters
    ----------
    out
        Console for a line about each run.
    page
        Path of the page.
    short
        Use one small simulator, and check the order of the arms.
    seeds
        Seeds of the simulator; default 31-35, short 101.
    jobs
        Runs in parallel.
    model_seeds
        Number of models for each mapping of EB-NeRD.
    data
        Folder that contains ``ebnerd/``; default ``$ECDCTR_DATA``.
    keep
        Folder in which results are saved, see :func:`run_all`.
    overrides
        ``key=value`` settings for every run.

    Returns
    -------
    tuple
        The violations of the expected order (short form only), and :func:`bars`.
    """
    check_page(page)
    text = seeds or ("101" if short else "31-35")
    root = data or (Path(os.environ["ECDCTR_DATA"]) if os.environ.get("ECDCTR_DATA") else None)
    folder = None if root is None or not (root / "ebnerd").is_dir() else root / "ebnerd"
    if data is not None and folder is None:
        raise ConfigError(
            f"--data {data}: it contains no folder ebnerd; name the folder that does, or omit the option"
        )
    runs = studies(seeds_of(text), folder, short=short, more=overrides, model_seeds=model_seeds)

    def report(scored: Scored) -> None:
        out.print(f"{scored.run.source}: {scored.rows:,} rows in {scored.seconds:,.0f} s", soft_wrap=True)

    scored = run_all(runs, jobs=jobs, on_done=report, keep=keep)
    by_study: dict[str, list[Scored]] = {}
    for part in scored:
        by_study.setdefault(part.run.study, []).append(part)
    found: dict[str, dict[str, Any]] = {}
    for study, parts in by_study.items():
        same_people = study != "simulator"
        every = "6h" if "model.stack_every=6h" in parts[0].run.settings else "1d"
        columns = [with_stack_all(part.columns, every) for part in parts]
        found[study] = figures(columns, steps=STEPS, same_people=same_people)
        found[study] |= {"learned": sum(p.rows for p in parts), "seconds": sum(p.seconds for p in parts)}
    given = "".join(f" --set {text!r}" for text in overrides)
    given = ("" if model_seeds == 3 else f" --model-seeds {model_seeds}") + given
    command = f"ecdctr evidence{' --short' if short else ''} --seeds {text}{given}"
    write_page(page, found, runs, command)
    return (broken_order(found["simulator"]) if short else []), bars(found)
