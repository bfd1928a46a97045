"""``ecdctr evidence``: every arm on the same rows, with intervals; the figures that the project stands on."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from replay.bootstrap import gauc_difference, gauc_interval
from replay.metrics import summary
from state.errors import ConfigError

__all__ = [
    "DEFAULT",
    "Run",
    "Scored",
    "bars",
    "figures",
    "play_run",
    "run_all",
    "run_evidence",
    "seeds_of",
    "studies",
]

DAY_MS = 86_400_000
RIVALS = ("reload", "linked", "stack", "mixed", "mixed_tpm", "cpm_only", "item_ctr")
DEFAULT = "actr"
"""Arm that serves: the mode under ``model.transfer``."""

_COMMON = (
    "model.natural_score_share=0.0",
    f"model.arms={list(RIVALS)}",
    "model.transfer=stack",
    "model.stack_of=['ads_only', 'reload', 'linked', 'mixed_tpm', 'mixed', 'cpm']",
    "schedule.release_every=12h",
)
# Chosen on seed 101.
_SIMULATOR = (*_COMMON, "model.transfer_embedding_lr=0.05")
# News: items live for hours, and three weeks of history make three short months.
_EBNERD = (
    *_COMMON,
    "tpm.month=7d",
    "model.natural_batch=256",
    "model.natural_embedding_lr=0.05",
    "model.linked_lr=0.0002",
    "model.linked_embedding_lr=0.01",
    "model.stack_every=6h",
)
_SHORT = (
    *_COMMON,
    "tpm.month=10d",
    "tpm.dim=8",
    "model.dim=8",
    "model.hidden=[32, 16]",
    "model.natural_batch=256",
)
SHORT = (
    "sim:seed={seed},days=44,live_from=30,users=500,items=150,history_per_day=3000,natural_per_day=6000,"
    "ads_per_day=400,month_days=10"
)
"""Simulator of the short form."""


@dataclass(frozen=True)
class Run:
    """One log through one fresh set of models.

    Attributes
    ----------
    study
        Runs of one study are judged together: ``simulator``, ``ebnerd_a``, ``ebnerd_b``.
    source
        As the command line names it.
    settings
        ``key=value`` overrides.
    skip_days
        Ad rows of the first days are not judged: every model is new.
    """

    study: str
    source: str
    settings: tuple[str, ...]
    skip_days: float


@dataclass(frozen=True, eq=False)
class Scored:
    """Ad rows of a run that are judged, as columns of the score log, and what it took."""

    run: Run
    columns: dict[str, NDArray[Any]] = field(repr=False)
    rows: int
    seconds: float


def studies(seeds: Sequence[int], data: Path | None, *, short: bool, more: Sequence[str] = ()) -> list[Run]:
    """What is run: simulator seeds, and EB-NeRD's two mappings where its folder is given."""
    if short:
        return [Run("simulator", SHORT.format(seed=s), (*_SHORT, *more), 5.0) for s in seeds]
    runs = [Run("simulator", f"sim:seed={s}", (*_SIMULATOR, *more), 10.0) for s in seeds]
    if data is not None:
        for mapping in "BA":
            source = f"ebnerd:{data}?mapping={mapping}"
            runs.append(Run(f"ebnerd_{mapping.lower()}", source, (*_EBNERD, *more), 3.0))
    return runs


def play_run(run: Run) -> Scored:
    """TPM on the history, then the log: predict, score, learn; all arms in one pass, one thread."""
    from ecdctr import build
    from ecdctr.commands import train_tpm
    from ecdctr.settings import load_settings
    from ecdctr.sources import open_with_features
    from replay.rows import SourceLog, steps_of
    from replay.run import play

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        texts = (f"state.folder={json.dumps(folder)}", "model.threads=1", *run.settings)
        loaded = load_settings(None, texts, environ={})
        silent = Console(file=io.StringIO())
        train_tpm(silent, silent, loaded, run.source, partial=True)
        source, settings = open_with_features(run.source, loaded)
        engine = build.memory_engine(settings)
        engine.bind_thread()
        sizes = {"natural_batch": settings.model.natural_batch, "ad_batch": settings.model.ad_batch}
        done = play(engine, steps_of(SourceLog(source, build.decoder(settings)).batches(), **sizes))
        columns = engine.scores.read(domain=1)
        engine.close(checkpoint=False)
    late = columns["ts"] >= columns["ts"].min() + int(run.skip_days * DAY_MS)
    kept = {name: values[late] for name, values in columns.items()}
    return Scored(run, kept, done.rows, time.perf_counter() - began)


def run_all(runs: Sequence[Run], *, jobs: int, told: Callable[[Scored], None]) -> list[Scored]:
    """Every run, ``jobs`` at a time in processes of their own; ``told`` hears of each as it ends."""
    out: list[Scored] = []
    if jobs == 1:
        for run in runs:
            out.append(play_run(run))
            told(out[-1])
        return out
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for scored in pool.map(play_run, runs):
            out.append(scored)
            told(scored)
    return out


def figures(scored: Sequence[Scored], *, samples: int = 1000) -> dict[str, Any]:
    """Figures of one study: all its runs pooled, users of different runs apart.

    Returns
    -------
    dict
        ``arms[name]``: as :func:`replay.metrics.summary`, with ``interval`` of GAUC, ``share_closed`` (of the way from
        ads-only to the oracle; NaN without one), ``vs_ads_only`` and ``vs_mixed_tpm`` (GAUC differences, paired
        over users). ``shares``: ``share_closed`` of the serving arm in each run. ``rows``, ``seconds``.
    """
    columns = _pool(scored)
    y, user = columns["label"], columns["user"]
    scores = {n[2:]: p for n, p in columns.items() if n.startswith("p_") and not np.isnan(p).any()}
    scores.pop("cpm", None)  # raw: its click rate is the natural one; cpm_only is its calibrated form
    if not np.isnan(columns["oracle"]).any():
        scores["oracle"] = columns["oracle"]
    arms: dict[str, dict[str, Any]] = {name: summary(y, p, user) for name, p in scores.items()}
    for name, p in scores.items():
        arms[name]["interval"] = asdict(gauc_interval(y, p, user, samples=samples))
        for base in ("ads_only", "mixed_tpm"):
            if name not in (base, "oracle"):
                found = gauc_difference(y, p, scores[base], user, samples=samples)
                arms[name][f"vs_{base}"] = asdict(found)
        arms[name]["share_closed"] = _share(arms, name)
    shares = [_run_share(part) for part in scored]
    return {
        "arms": arms,
        "shares": shares,
        "rows": len(y),
        "learned": sum(s.rows for s in scored),
        "seconds": sum(s.seconds for s in scored),
    }


def _pool(scored: Sequence[Scored]) -> dict[str, NDArray[Any]]:
    parts = []
    for number, part in enumerate(scored):
        ids = np.unique(part.columns["user"], return_inverse=True)[1].astype(np.int64)
        parts.append(part.columns | {"user": ids + (number << 40)})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _share(arms: Mapping[str, Mapping[str, Any]], name: str) -> float:
    if "oracle" not in arms:
        return float("nan")
    base, best = arms["ads_only"]["gauc"], arms["oracle"]["gauc"]
    return float((arms[name]["gauc"] - base) / (best - base))


def _run_share(part: Scored) -> float:
    c = part.columns
    if np.isnan(c["oracle"]).any():
        return float("nan")
    got, base, best = (
        summary(c["label"], c[name], c["user"])["gauc"] for name in (f"p_{DEFAULT}", "p_ads_only", "oracle")
    )
    return float((got - base) / (best - base))


def bars(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """The figures that decide, None where a study was not run."""

    def of(study: str, *path: str) -> float | None:
        node: Any = found.get(study)
        for key in ("arms", DEFAULT, *path):
            node = None if node is None else node.get(key)
        return None if node is None else round(float(node), 4)

    return {
        "share_closed": of("simulator", "share_closed"),
        "vs_mixed_tpm_low": of("simulator", "vs_mixed_tpm", "low"),
        "eb_b_vs_ads_low": of("ebnerd_b", "vs_ads_only", "low"),
        "eb_a_vs_ads_low": of("ebnerd_a", "vs_ads_only", "low"),
        "pcoc": of("simulator", "pcoc"),
    }


def run_evidence(
    out: Console,
    page: Path,
    *,
    short: bool = False,
    seeds: str | None = None,
    jobs: int = 1,
    data: Path | None = None,
    overrides: Sequence[str] = (),
) -> tuple[list[str], dict[str, float | None]]:
    """Run the study and write its page.

    Parameters
    ----------
    out
        Hears of each run.
    page
        Where the page goes.
    short
        One small simulator; the order of the arms is checked.
    seeds
        Of the simulator; default 11-15, short 101.
    jobs
        Runs at a time.
    data
        Folder that holds ``ebnerd/``; default ``$ECDCTR_DATA``.
    overrides
        ``key=value`` for every run.

    Returns
    -------
    tuple
        What the short form found out of order, and :func:`bars`.
    """
    from ecdctr.evidence_page import broken_order, write_page

    text = seeds or ("101" if short else "11-15")
    root = data or (Path(os.environ["ECDCTR_DATA"]) if os.environ.get("ECDCTR_DATA") else None)
    folder = None if root is None or not (root / "ebnerd").is_dir() else root / "ebnerd"
    runs = studies(seeds_of(text), folder, short=short, more=overrides)

    def told(scored: Scored) -> None:
        out.print(f"{scored.run.source}: {scored.rows:,} rows in {scored.seconds:,.0f} s", soft_wrap=True)

    scored = run_all(runs, jobs=jobs, told=told)
    by_study: dict[str, list[Scored]] = {}
    for part in scored:
        by_study.setdefault(part.run.study, []).append(part)
    found = {study: figures(parts) for study, parts in by_study.items()}
    given = "".join(f" --set {text!r}" for text in overrides)
    command = f"ecdctr evidence{' --short' if short else ''} --seeds {text}{given}"
    write_page(page, found, runs, command)
    return (broken_order(found["simulator"]) if short else []), bars(found)


def seeds_of(text: str) -> list[int]:
    """``"11-15"`` or ``"11,12"``.

    >>> seeds_of("11-13,20")
    [11, 12, 13, 20]
    """
    out: list[int] = []
    for piece in text.split(","):
        low, _, high = piece.partition("-")
        try:
            out += range(int(low), int(high or low) + 1)
        except ValueError as error:
            raise ConfigError(f"--seeds {text!r}: write them as 11-15 or 11,12") from error
    return out
