"""The runs of ``ecdctr evidence``: their logs, their settings, and the scored rows of each run."""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ecdctr.events.batch import AD, Batch
from ecdctr.events.time import DAY_MS
from ecdctr.models.arms import Stack
from ecdctr.models.settings import ModelSettings
from ecdctr.replay.figures import earlier_rows
from ecdctr.state.errors import ConfigError
from ecdctr.studies.cache import Kind, run_each

__all__ = ["Run", "Scored", "play_run", "run_all", "seeds_of", "studies", "with_stack_all"]

_STACK_ROWS = 50
# Written out and not taken from the table of arms: they enter the cache keys of runs, and a new arm must not change these.
EVERY_ARM = (
    "reload", "linked", "bayes_fm", "ads_bayes_fm", "ads_tpm", "mixed", "mixed_tpm", "cpm", "ads_only",
)  # fmt: skip
BASELINES = (
    "reload", "linked", "stack", "bayes_fm", "ads_bayes_fm", "ads_tpm", "mixed", "mixed_tpm", "cpm_only", "item_ctr",
)  # fmt: skip

_COMMON = (
    "model.natural_score_share=0.0",
    f"model.arms={list(BASELINES)}",
    "schedule.release_every=12h",
)
# Chosen on seeds 101 and 102.
_SIMULATOR = (*_COMMON, "model.transfer_embedding_lr=0.05", "model.ad_embedding_lr=0.2")
# News: items are relevant for hours, and three weeks of history are split into three short months.
_EBNERD = (
    *_COMMON,
    "tpm.month=7d",
    "model.natural_batch=256",
    "model.natural_embedding_lr=0.05",
    "model.linked_lr=0.0002",
    "model.linked_embedding_lr=0.01",
    "model.stack_every=6h",
)
# Chosen on days 1 to 5. In B, neighbouring rows belong to one list inside one article.
_EBNERD_RATES = {
    "A": (),
    "B": (
        "model.batch_norm=running",
        "model.batch_norm_momentum=0.005",
        "model.adagrad_accumulator=1e-4",
    ),
}
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

_PAPER = ("model.transfer=reload", "model.arms=[]", "schedule.release_every=7d")
EBNERD_SKIP_DAYS = 5.0
"""Learning rates for EB-NeRD were chosen on days 1 to 5; only later days are evaluated."""

VARIANTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("full_7d", _PAPER),
    ("no_tpm_7d", (*_PAPER, "model.history=none")),
)
"""The paper's mode and release interval, with and without TPM, in separate engines on the same batches."""

STEPS = (
    ("ads_tpm", "ads_only"),
    ("no_tpm_7d", "ads_only"),
    ("full_7d", "no_tpm_7d"),
    ("full_7d", "ads_tpm"),
    ("reload", "full_7d"),
    ("default", "reload"),
    ("stack_all", "default"),
)
"""Pairs of arms whose difference is the contribution of one part."""


@dataclass(frozen=True)
class Run:
    """One log replayed through new models.

    Attributes
    ----------
    study
        Runs of one study are evaluated together: ``simulator``, ``ebnerd_a``, ``ebnerd_b``.
    source
        The source, as on the command line.
    settings
        ``key=value`` overrides.
    skip_days
        Ad rows of the first days are not evaluated: the models are new, and learning rates were chosen there.
    variants
        Name and further settings of additional engines on the same batches; their served score is evaluated under that
        name.
    """

    study: str
    source: str
    settings: tuple[str, ...]
    skip_days: float
    variants: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, eq=False)
class Scored:
    """Evaluated ad rows of a run, as columns of the score log, and the rows and seconds of the run."""

    run: Run
    columns: dict[str, NDArray[Any]] = field(repr=False)
    rows: int
    seconds: float


def studies(
    seeds: Sequence[int], data: Path | None, *, short: bool, more: Sequence[str] = (), model_seeds: int = 3
) -> list[Run]:
    """All runs: simulator seeds and, if its folder is given, both mappings of EB-NeRD with models of several seeds."""
    if short:
        return [Run("simulator", SHORT.format(seed=s), (*_SHORT, *more), 5.0, VARIANTS) for s in seeds]
    runs = [Run("simulator", f"sim:seed={s}", (*_SIMULATOR, *more), 10.0, VARIANTS) for s in seeds]
    for mapping in "BA" if data is not None else "":
        source = f"ebnerd:{data}?mapping={mapping}"
        for seed in range(model_seeds):
            settings = (*_EBNERD, *_EBNERD_RATES[mapping], f"model.seed={seed}", *more)
            runs.append(Run(f"ebnerd_{mapping.lower()}", source, settings, EBNERD_SKIP_DAYS))
    return runs


def with_stack_all(columns: Mapping[str, NDArray[Any]], every: str) -> dict[str, NDArray[Any]]:
    """Columns with ``p_default``, the served score, and ``p_stack_all``, the score that a stack over all arms would have served.

    The latter is computed from the arms' scores by :class:`Stack`, as in a worker. It starts at the first evaluated row, so
    on the first days it has learned from fewer rows than in a worker.
    """
    model = ModelSettings()
    stack = Stack(EVERY_ARM, ridge=model.stack_ridge, every=every, fade=model.stack_fade)
    out = {name: values for name, values in columns.items() if name not in ("p_actr", "p_stack")}
    parts = []
    for i in range(0, len(columns["ts"]), _STACK_ROWS):
        rows = slice(i, i + _STACK_ROWS)
        scores = {name: columns[f"p_{name}"][rows] for name in stack.members}
        parts.append(stack.predict(scores))
        label = columns["label"][rows].astype(np.float32)
        stack.observe(scores, label, int(columns["ts"][rows].max()))
    return out | {"p_default": columns["p_actr"], "p_stack_all": np.concatenate(parts)}


def play_run(run: Run) -> Scored:
    """Train TPM on the history, then replay the log (predict, score, learn) with all arms in one pass and one thread."""
    from ecdctr import factory
    from ecdctr.commands.tpm_train import train_tpm
    from ecdctr.replay.play import SideBySide, play
    from ecdctr.replay.sources import SourceLog, steps_of
    from ecdctr.settings import load_settings
    from ecdctr.sources import open_with_features

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        texts = (f"state.folder={json.dumps(folder)}", "model.threads=1", *run.settings)
        loaded = load_settings(None, texts, environ={})
        silent = Console(file=io.StringIO(), markup=False)
        train_tpm(silent, silent, loaded, run.source, partial=True)
        source, settings = open_with_features(run.source, loaded)
        beside = {}
        for name, more in run.variants:
            changed = load_settings(None, (*texts, *more), environ={})
            beside[name] = factory.memory_engine(open_with_features(run.source, changed)[1])
        arms = SideBySide(factory.memory_engine(settings), beside)
        arms.bind_thread()
        history = _UserHistory()
        batches = history.watch(SourceLog(source, factory.decoder(settings)).batches())
        sizes = {"natural_batch": settings.model.natural_batch, "ad_batch": settings.model.ad_batch}
        if play(arms.players, steps_of(batches, **sizes)).interrupted:
            raise KeyboardInterrupt
        columns = arms.columns(AD)
        arms.close(checkpoint=False)
    columns |= history.columns()
    late = columns["ts"] >= columns["ts"].min() + int(run.skip_days * DAY_MS)
    evaluated = {name: values[late] for name, values in columns.items()}
    return Scored(run, evaluated, history.rows, time.perf_counter() - began)


class _UserHistory:
    """The rows of each user before each ad row, in both streams."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint8]]] = []
        self.rows = 0

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._parts.append((batch.ts, batch.user, batch.domain))
            self.rows += len(batch)
            yield batch

    def columns(self) -> dict[str, NDArray[Any]]:
        """``days_away`` (-1: no earlier row in either stream) and ``earlier_ads`` of each ad row, in the log's order."""
        ts, user, domain = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        ad = domain == AD
        gap = earlier_rows(user, ts)[1][ad]
        return {
            "days_away": np.where(gap < 0, -1.0, gap / DAY_MS),
            "earlier_ads": earlier_rows(user[ad], ts[ad])[0],
        }


def run_all(
    runs: Sequence[Run], *, jobs: int, on_done: Callable[[Scored], None], keep: Path | None = None
) -> list[Scored]:
    """Execute all runs, ``jobs`` in parallel in separate processes; call ``on_done`` with each result.

    With ``keep``, results are saved in that folder by run, and a saved run is not executed again.
    """
    return run_each(Kind(play_run, _pack, _unpack, _study_of), runs, jobs=jobs, on_done=on_done, keep=keep)


def _pack(scored: Scored) -> dict[str, NDArray[Any]]:
    return {"_took": np.array([scored.rows, scored.seconds]), **scored.columns}


def _unpack(run: Run, columns: dict[str, NDArray[Any]]) -> Scored:
    rows, seconds = columns.pop("_took")
    return Scored(run, columns, int(rows), float(seconds))


def _study_of(run: Run) -> str:
    return run.study


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
