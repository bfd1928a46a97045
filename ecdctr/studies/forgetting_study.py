"""The forgetting study: scores of ads for returning users and items, and repeated predictions of rows from earlier periods.

Four engines learn the same simulated stream, each with an A-CTR of the paper's mode, ``reload``. They differ in two ways: with or
without TPM, and whether CPM starts at the live month or was first trained on all earlier natural clicks.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from ecdctr import factory
from ecdctr.commands.tpm_train import train_tpm
from ecdctr.events.batch import AD, DOMAIN_NAMES, Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.time import DAY_MS
from ecdctr.models.training import Engine
from ecdctr.replay.figures import earlier_rows
from ecdctr.replay.sources import Simulator, steps_of
from ecdctr.settings import Settings, load_settings
from ecdctr.studies.cache import Kind, run_each

__all__ = ["ARMS", "SETTINGS", "SHORT", "Study", "StudyRun", "play_study", "run_studies"]

ARMS = {
    "month": ("model.history=none",),
    "month_tpm": (),
    "all": ("model.history=none",),
    "all_tpm": (),
}
"""CPM of the live month or of all natural clicks, without and with TPM: the settings of each engine."""

SETTINGS = (
    "model.natural_score_share=0.0",
    "model.transfer=reload",
    "schedule.release_every=7d",
    "schedule.gate=false",
    "model.transfer_embedding_lr=0.05",
    "model.ad_embedding_lr=0.2",
)
"""The paper's mode and release interval, with the learning rates of the other simulator studies and without a gate."""

SHORT = (
    "tpm.month=10d",
    "tpm.dim=8",
    "model.dim=8",
    "model.hidden=[32, 16]",
    "model.natural_batch=256",
)

_PROBED = {"natural": "cpm", "ad": "actr"}
"""Arm that predicts the held-out rows of each domain."""


@dataclass(frozen=True)
class StudyRun:
    """One simulated log through the four engines.

    Attributes
    ----------
    seed
        Seed of the simulator.
    settings
        ``key=value`` overrides.
    world
        Further parameters of the simulator.
    skip_days
        Number of live days at the start that are not evaluated, because the models are new.
    period_days
        Length of the live periods whose rows are predicted again.
    """

    seed: int
    settings: tuple[str, ...] = SETTINGS
    world: tuple[tuple[str, int], ...] = ()
    skip_days: int = 10
    period_days: int = 7


@dataclass(frozen=True, eq=False)
class Study:
    """The scores of a run.

    Attributes
    ----------
    ads
        Evaluated ad rows: ``user``, ``label``, ``oracle``, ``p_<arm>`` (of ``ARMS`` and ``ads_only``), ``user_away``, ``item_away``
        (days since the last day with rows before this one, -1: never), ``before_live`` (the user's last day lies before
        the live month).
    probes
        By ``"<domain> <period>"``: ``user``, ``label`` of held-out rows, and ``p_<arm>_<k>`` by the model at the end of
        period ``k``.
    rows, seconds
        Rows played, and CPU seconds.
    """

    run: StudyRun
    ads: dict[str, NDArray[Any]] = field(repr=False)
    probes: dict[str, dict[str, NDArray[Any]]] = field(repr=False)
    rows: int
    seconds: float


@dataclass(frozen=True, eq=False)
class _Period:
    """Held-out rows of one period and domain, and the engines that predict them."""

    name: str
    domain: str
    number: int
    end_ms: int
    batch: Batch
    arms: tuple[str, ...]


def play_study(run: StudyRun) -> Study:
    """Play one log.

    1. Train TPM on the history, month by month.
    2. Train the engines ``all`` and ``all_tpm`` on the history; ``all_tpm`` reads each TPM snapshot once its month has ended.
    3. Run all engines on the live days: predict, score, learn.
    4. At the end of each period, predict held-out rows of this and all earlier periods with every engine, with the time and
       the snapshots of that day.
    """
    began = time.process_time()
    sim = _world(run)
    source = "sim:" + ",".join(f"{k}={v}" for k, v in (("seed", run.seed), *run.world))
    with tempfile.TemporaryDirectory() as folder:
        texts = (f"state.folder={json.dumps(folder)}", "model.threads=1", *run.settings)
        silent = Console(file=io.StringIO(), markup=False)
        train_tpm(silent, silent, load_settings(None, texts, environ={}), source, partial=True)  # 1
        settings = {name: _settings(sim, (*texts, *more)) for name, more in ARMS.items()}
        engines = {name: factory.memory_engine(found) for name, found in settings.items()}
        for engine in engines.values():
            engine.bind_thread()
        decoder = factory.decoder(settings["all"])
        periods, probes = _periods(sim, run, decoder), _Probes(engines)
        presence = _Presence(sim)
        with_history = {name: engine for name, engine in engines.items() if name.startswith("all")}
        _play(sim.history(), decoder, with_history, settings["all"], periods, probes, presence)  # 2
        _play(sim.frames(), decoder, engines, settings["all"], periods, probes, presence)  # 3, 4
        probes.predict_due(periods, 2**62)
        ads = engines["all"].scores.read(domain=AD)
        columns = {name: ads[name] for name in ("ts", "user", "label", "oracle", "p_ads_only")}
        for name, engine in engines.items():
            columns[f"p_{name}"] = engine.scores.read(domain=AD)["p_actr"]
            engine.close(checkpoint=False)
    columns |= presence.columns()
    late = columns["ts"] >= sim.start_ms + (sim.live_from + run.skip_days) * DAY_MS
    evaluated = {name: values[late] for name, values in columns.items()}
    return Study(run, evaluated, probes.found, presence.rows, time.process_time() - began)


def _world(run: StudyRun, **changes: int) -> Simulator:
    parameters: dict[str, Any] = dict(run.world) | changes
    return Simulator(run.seed, **parameters)


def _settings(sim: Simulator, texts: Sequence[str]) -> Settings:
    loaded = load_settings(None, texts, environ={})
    settings = factory.use_features(loaded.settings, sim.feature_specs(), configured=False)
    return settings.model_copy(
        update={"events": settings.events.model_copy(update={"oracle_field": "oracle"})}
    )


def _play(
    frames: Iterator[pl.DataFrame],
    decoder: EventDecoder,
    engines: dict[str, Engine],
    settings: Settings,
    periods: Sequence[_Period],
    probes: _Probes,
    presence: _Presence,
) -> None:
    batches = presence.watch(decoder.from_frame(frame).batch for frame in frames)
    for step in steps_of(
        batches, natural_batch=settings.model.natural_batch, ad_batch=settings.model.ad_batch
    ):
        probes.predict_due(periods, int(step.batch.ts.max()))
        for engine in engines.values():
            engine.run(step)


def _periods(sim: Simulator, run: StudyRun, decoder: EventDecoder) -> list[_Period]:
    """Months of natural rows, for the CPMs trained on all of them; live periods of both domains, for every engine."""
    other = _world(run, draw=1, natural_per_day=2_000, history_per_day=1_000)
    out: list[_Period] = []
    for month in range(sim.days // sim.month_days):
        days = range(month * sim.month_days, (month + 1) * sim.month_days)
        out += _held_out(other, decoder, days, f"month {month}", ("natural",), ("all", "all_tpm"))
    for number, first in enumerate(range(sim.live_from, sim.days - run.period_days + 1, run.period_days)):
        days = range(first, first + run.period_days)
        out += _held_out(other, decoder, days, f"live {number}", ("natural", "ad"), tuple(ARMS))
    return sorted(out, key=lambda period: period.end_ms)


def _held_out(
    other: Simulator,
    decoder: EventDecoder,
    days: range,
    name: str,
    domains: tuple[str, ...],
    arms: tuple[str, ...],
) -> Iterator[_Period]:
    batch = Batch.concat([decoder.from_frame(other.day(day)).batch for day in days])
    end = other.start_ms + days.stop * DAY_MS
    for domain in domains:
        rows = batch.take(batch.domain == DOMAIN_NAMES.index(domain))
        yield _Period(name, domain, int(name.split()[1]), end, rows, arms)


class _Probes:
    """Predictions for held-out rows at the end of their period and of every later period of the same kind."""

    def __init__(self, engines: dict[str, Engine]) -> None:
        self.engines = engines
        self.found: dict[str, dict[str, NDArray[Any]]] = {}
        self._done = 0

    def predict_due(self, periods: Sequence[_Period], clock_ms: int) -> None:
        """Predict for every period that has ended by ``clock_ms`` and was not handled before."""
        while self._done < len(periods) and periods[self._done].end_ms <= clock_ms:
            now = periods[self._done]
            self._done += 1
            kind = now.name.split()[0]
            for then in periods:
                if then.name.split()[0] != kind or then.domain != now.domain or then.number > now.number:
                    continue
                key = f"{then.domain} {then.name}"
                columns = self.found.setdefault(key, {"user": then.batch.user, "label": then.batch.label})
                shifted = replace(then.batch, ts=np.full(len(then.batch), now.end_ms, np.int64))
                for arm in then.arms:
                    p = self.engines[arm].trainer.predict(shifted, _PROBED[then.domain])
                    columns[f"p_{arm}_{now.number}"] = p


class _Presence:
    """The days on which each user and item had rows, in either stream, including the history."""

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self._parts: list[tuple[NDArray[Any], ...]] = []
        self.rows = 0

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            day = (batch.ts - self._sim.start_ms) // DAY_MS
            self._parts.append((day, batch.user, batch.item, batch.domain))
            self.rows += len(batch)
            yield batch

    def columns(self) -> dict[str, NDArray[Any]]:
        """Absence of each ad row's user and item, in the order of the log."""
        day, user, item, domain = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        ad = domain == AD
        away = {
            name: earlier_rows(key, day)[1][ad] for name, key in (("user", user), ("item", item))
        }  # rows of one day do not count for each other
        last = day[ad] - away["user"]
        before = (away["user"] > 0) & (last < self._sim.live_from)
        return {"user_away": away["user"], "item_away": away["item"], "before_live": before}


def run_studies(
    runs: Sequence[StudyRun], *, jobs: int, on_done: Callable[[Study], None], keep: Path | None = None
) -> list[Study]:
    """Execute all runs, ``jobs`` in parallel; with ``keep``, results are saved there and reused."""
    kind = Kind(play_study, _to_columns, _from_columns, _name)
    return run_each(kind, runs, jobs=jobs, on_done=on_done, keep=keep)


def _name(run: StudyRun) -> str:  # noqa: ARG001
    return "forgetting"


def _to_columns(study: Study) -> dict[str, NDArray[Any]]:
    out = {f"ads/{name}": values for name, values in study.ads.items()}
    for key, columns in study.probes.items():
        out |= {f"probe/{key}/{name}": values for name, values in columns.items()}
    return out | {"took": np.array([study.rows, study.seconds])}


def _from_columns(run: StudyRun, data: dict[str, NDArray[Any]]) -> Study:
    rows, seconds = data.pop("took")
    ads: dict[str, NDArray[Any]] = {}
    probes: dict[str, dict[str, NDArray[Any]]] = {}
    for name, values in data.items():
        what, _, rest = name.partition("/")
        if what == "ads":
            ads[rest] = values
        else:
            key, _, column = rest.partition("/")
            probes.setdefault(key, {})[column] = values
    return Study(run, ads, probes, int(rows), float(seconds))
