"""Replay: the cost of reading, aligning, scoring and logging compared with bare training; memory by number of rows.

    python benchmarks/replay.py [--short] [--rows 300000] [--runs 5] [--memory-rows 1000000 10000000]

Speed: ``ecdctr replay`` on a Parquet log compared with a loop over the same steps of the same model, decoded and cut beforehand
and held in memory. Both make the same CPM releases. They alternate in one process.

Memory: ``ecdctr replay`` with a small model on a short and on a long log, each in a separate process: peak memory of the
replay itself, and including the report at the end.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import polars as pl
from rich.console import Console

from ecdctr import factory
from ecdctr.commands.replay import ReplayOptions, replay_source
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.step import Step
from ecdctr.models.training import Trainer
from ecdctr.replay.sources import (
    EventFiles,
    Simulator,
    SourceLog,
    steps_of,
)
from ecdctr.settings import Loaded, load_settings
from ecdctr.state.row_logs import AdWindow

ROWS_A_DAY = 50_000
SPEED = ("model.history=none",)
SMALL = (
    "model.history=none",
    "model.dim=4",
    "model.hidden=[16]",
    "model.natural_batch=8192",
    "model.ad_batch=2048",
)


def write_log(path: Path, rows: int) -> None:
    """A simulated log, one tenth of it ads, written day by day."""
    days = max(1, rows // ROWS_A_DAY)
    simulator = _simulator(days)
    path.mkdir()
    day: list[pl.DataFrame] = []
    held = number = 0
    for frame in simulator.frames():
        day.append(frame.with_columns(pl.col("domain").replace_strict({0: "natural", 1: "ad"})))
        held += frame.height
        if held >= 10 * ROWS_A_DAY:
            pl.concat(day).write_parquet(path / f"{number:04d}.parquet")
            day, held, number = [], 0, number + 1
    if day:
        pl.concat(day).write_parquet(path / f"{number:04d}.parquet")


def _simulator(days: int) -> Simulator:
    share = ROWS_A_DAY // 10
    return Simulator(
        days=days,
        live_from=0,
        users=20_000,
        items=3_000,
        natural_per_day=ROWS_A_DAY - share,
        ads_per_day=share,
    )


def configured(overrides: tuple[str, ...]) -> Loaded:
    """Settings with the simulator's features; event files do not define any."""
    loaded = load_settings(None, overrides, environ={})
    settings = loaded.settings.model_copy(update={"features": _simulator(1).feature_specs()})
    return Loaded(settings, {**loaded.origin, "features": "benchmark"})


def steps_in_memory(log: Path, loaded: Loaded) -> list[Step]:
    settings = loaded.settings
    source = SourceLog(EventFiles(log, features=settings.features), factory.decoder(settings))
    sizes = {"natural_batch": settings.model.natural_batch, "ad_batch": settings.model.ad_batch}
    return list(steps_of(source.batches(), **sizes))


def bare(steps: list[Step], loaded: Loaded) -> tuple[float, float]:
    """Wall and CPU seconds of the training loop alone."""
    settings = loaded.settings
    schema = FeatureSchema(settings.features, settings.model.dim)
    window = AdWindow(None, schema.n_features, schema.n_dense, settings.schedule.ad_window_days)
    trainer = Trainer(schema, factory.model_settings(settings), settings.schedule, settings.tpm, None, window)
    clock = 0
    began, cpu = time.perf_counter(), time.process_time()
    for step in steps:
        trainer.step(step)
        clock = max(clock, step.clock)
        if trainer.release_due(clock) is not None:
            trainer.release(clock)
    return time.perf_counter() - began, time.process_time() - cpu


def replayed(log: Path, loaded: Loaded, out: Path) -> dict[str, Any]:
    """The report's metadata of one ``ecdctr replay``."""
    nobody = Console(file=io.StringIO())
    done = replay_source(nobody, nobody, loaded, str(log), out, ReplayOptions(quiet=True))
    return dict(done.meta)


def memory_of(log: Path, out: Path) -> dict[str, float]:
    """Peak memory of a process that replays the log: during the replay, and including the report."""
    command = [sys.executable, __file__, "--child", str(log), str(out)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(found.stdout.splitlines()[-1]))


def child(log: Path, out: Path) -> None:
    from ecdctr.commands.peak_memory import peak_mib

    meta = replayed(log, configured(SMALL), out)
    print(
        json.dumps(
            {
                "playing": meta["peak_mib"],
                "whole": peak_mib(),
                "rows": meta["rows"],
                "rows_per_s": meta["rows_per_s"],
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory-rows", type=int, nargs=2, default=(1_000_000, 10_000_000))
    parser.add_argument("--no-memory", action="store_true", help="speed only")
    parser.add_argument("--short", action="store_true", help="100,000 rows; memory at 200,000 and 1,000,000")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    if args.short:
        args.rows, args.runs, args.memory_rows = 100_000, 3, (200_000, 1_000_000)
    with tempfile.TemporaryDirectory(prefix="ecdctr-bench-") as folder:
        summary = {"benchmark": "replay", **speed(Path(folder), args.rows, args.runs)}
        if not args.no_memory:
            summary |= memory(Path(folder), args.memory_rows)
    print(json.dumps(summary))


def speed(folder: Path, rows: int, runs: int) -> dict[str, Any]:
    loaded = configured(SPEED)
    log = folder / "log"
    write_log(log, rows)
    steps = steps_in_memory(log, loaded)
    n = sum(len(step.batch) for step in steps)
    bare(steps[: len(steps) // 10], loaded)  # warm-up
    loops, replays, ratios_cpu = [], [], []
    for run in range(runs):
        wall, cpu = bare(steps, loaded)
        meta = replayed(log, loaded, folder / f"out-{run}")
        assert meta["rows"] == n
        loops.append(n / wall)
        replays.append(n / meta["seconds"])
        ratios_cpu.append(cpu / meta["cpu_seconds"])
    print(f"{n:,} rows, {runs} alternating runs")
    print(f"{'':32}{'rows/s (median)':>16}   runs")
    for name, found in (("bare loop, rows in memory", loops), ("ecdctr replay, Parquet log", replays)):
        print(f"{name:32}{statistics.median(found):16,.0f}   {' '.join(f'{x:,.0f}' for x in found)}")
    # Ratios of consecutive runs: other load on the machine affects both.
    ratios = [replay / loop for replay, loop in zip(replays, loops, strict=True)]
    ratio = statistics.median(ratios)
    print(f"ratio, median of the pairs: {ratio:.3f}   ({' '.join(f'{r:.3f}' for r in ratios)})")
    ratio_cpu = statistics.median(ratios_cpu)
    print(f"by CPU seconds:             {ratio_cpu:.3f}   ({' '.join(f'{r:.3f}' for r in ratios_cpu)})")
    return {
        "rows": n,
        "rows_per_s": round(statistics.median(replays)),
        "rows_per_s_bare": round(statistics.median(loops)),
        "ratio": round(ratio, 3),
        "ratio_cpu": round(ratio_cpu, 3),
    }


def memory(folder: Path, rows: tuple[int, int]) -> dict[str, Any]:
    found = []
    for n in rows:
        log = folder / f"log-{n}"
        write_log(log, n)
        found.append(memory_of(log, folder / f"out-{n}"))
    print(f"{'rows':>12}{'peak MiB, replay':>24}{'with the report':>18}{'rows/s':>12}")
    for f in found:
        print(f"{f['rows']:12,.0f}{f['playing']:24,.0f}{f['whole']:18,.0f}{f['rows_per_s']:12,.0f}")
    short, long = found
    return {
        "memory_rows": [int(f["rows"]) for f in found],
        "memory_mib": [round(f["whole"]) for f in found],
        "memory_ratio": round(long["whole"] / short["whole"], 3),
        "memory_mib_playing": [round(f["playing"]) for f in found],
        "memory_ratio_playing": round(long["playing"] / short["playing"], 3),
    }


if __name__ == "__main__":
    main()
