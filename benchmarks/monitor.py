"""The cost of monitoring: rows per second through a worker's engine with and without the monitor.

    python benchmarks/monitor.py [--short] [--rounds 4] [--rows 400000] [--threads 1]

Two engines, each set up as in a worker (state folder on disk, TPM vectors of three months for nine in ten users and items, 512
natural or up to 128 ad rows per step, one core for torch), run the same steps, one simulated day at a time, alternately. One of them
is monitored exactly as in a worker: the reporter after each step, gauges, snapshot and alerts once a second from another thread, the
page's document every two seconds and a scrape of /metrics every five. A checkpoint is taken every day, more often than a worker's
2,000 steps; all eight probe slices of both domains are full (6 hours each instead of a week). Seconds are summed over all days, so
that rare costs count in full. The last line is JSON: ``ratio`` = rows/s with monitoring divided by rows/s without; ``ratio_cpu`` =
processor seconds (of all threads) without monitoring divided by those with it, which other load on the machine affects less.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np

from ecdctr import factory
from ecdctr.events.align import Aligner
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.step import Step
from ecdctr.events.time import DAY_MS
from ecdctr.models.training import Engine
from ecdctr.replay.sources import (
    Simulator,
    SourceLog,
    steps_of,
)
from ecdctr.settings import Settings, load_settings
from ecdctr.streams.intake import AlignedIntake
from ecdctr.streams.reporting import Reporter

MONTHS, WARM_UP_DAYS = 3, 2


class Background:
    """The work of a worker's event loop and of the dashboard's clients, in a thread."""

    def __init__(self, reporter: Reporter, engine: Engine, port: int) -> None:
        aligner = Aligner({}, natural_batch=512, ad_batch=128)
        self._intake = AlignedIntake(aligner, 1, {"natural-clicks": 0, "ad-clicks": 1})
        self._reporter, self._engine, self._address = reporter, engine, f"http://127.0.0.1:{port}"
        self._enabled, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def enable(self, on: bool) -> None:
        """Run or pause; it runs only while the monitored engine does."""
        (self._enabled.set if on else self._enabled.clear)()

    def _run(self) -> None:
        second = 0
        while not self._end.wait(1.0):
            self._enabled.wait()
            second += 1
            self._reporter.tick(self._engine, self._intake, {"json": second})
            self._reporter.dashboard.deliver()
            for path, every in (("/api/snapshot", 2), ("/metrics", 5)):
                if second % every == 0:
                    with urllib.request.urlopen(self._address + path, timeout=60) as answer:
                        answer.read()

    def close(self) -> None:
        self._end.set()
        self._enabled.set()
        self._thread.join()


def settings_of(folder: Path, sim: Simulator) -> Settings:
    settings = load_settings(
        environ={},
        overrides=[
            f"state.folder={folder}",
            "state.checkpoint_every_steps=1000000000",  # once a day, below
            "state.checkpoint_every_s=1e9",
            "monitor.alerts_topic=",
            "monitor.watch.drift.reference_length=1d",
            "monitor.watch.probes.period=6h",
        ],
    ).settings
    return factory.use_features(settings, sim.feature_specs(), configured=False)


def write_snapshots(settings: Settings, sim: Simulator) -> None:
    """Snapshots of three months for ids of the stream; the values of the vectors do not matter here."""
    first = factory.decoder(settings).from_frame(sim.day(0)).batch
    rng = np.random.default_rng(0)
    store = factory.snapshot_store(settings)
    assert store is not None
    for month in range(MONTHS):
        tables = []
        for column in (first.user, first.item):
            ids = np.unique(column)
            ids = ids[rng.random(len(ids)) < 0.9]
            tables.append((ids, rng.normal(0, 0.3, (len(ids), settings.tpm.dim)).astype(np.float32)))
        end = sim.start_ms - 1 - (MONTHS - 1 - month) * 30 * DAY_MS
        store.write(f"m{month}", settings.tpm.dim, end, tables[0], tables[1], first_ts=end - 30 * DAY_MS)
    store.close()


def days_of(steps: Iterator[Step]) -> Iterator[list[Step]]:
    """The steps of each day."""
    day: list[Step] = []
    for step in steps:
        if day and step.clock // DAY_MS > day[0].clock // DAY_MS:
            yield day
            day = []
        day.append(step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=4, help="measured days")
    parser.add_argument("--rows", type=int, default=400_000, help="rows per day")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="2 days of 150,000 rows")
    args = parser.parse_args()
    rounds, rows = (2, 150_000) if args.short else (args.rounds, args.rows)

    sim = Simulator(
        seed=0, days=WARM_UP_DAYS + rounds + 1, live_from=0, users=20_000, items=5_000,
        natural_per_day=rows * 20 // 21, ads_per_day=rows // 21,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        engines = []
        watched_s, watched_from = 0.0, 0.0  # the reporter's clock is stopped while the other engine runs
        for side in ("without", "with"):
            settings = settings_of(Path(name) / side, sim)
            settings = settings.model_copy(update={"model": factory.model_settings(settings, args.threads)})
            write_snapshots(settings, sim)
            engines.append(factory.live_engine(settings))
        monitored = settings.monitor.model_copy(update={"port": 0})
        reporter = Reporter(
            FeatureSchema(settings.features, settings.model.dim),
            settings.kafka,
            settings.topics,
            monitored,
            folder=Path(name) / "with" / "monitor",
            now=lambda: watched_s + (time.perf_counter() - watched_from if watched_from else 0.0),
        )
        port = reporter.dashboard.serve("127.0.0.1", 0)
        engines[0].bind_thread()
        reporter.begin(engines[1])
        background = Background(reporter, engines[1], port)

        seconds, cpu_seconds, done, number = [0.0, 0.0], [0.0, 0.0], 0, 0

        def run(steps: list[Step], watched: bool) -> float:
            nonlocal watched_s, watched_from
            engine = engines[watched]
            background.enable(watched)
            gc.collect()
            began, cpu = time.perf_counter(), time.process_time()
            watched_from = began if watched else 0.0
            engine.checkpoint()
            for step in steps:
                at = time.perf_counter()
                result = engine.run(step)
                if watched:
                    reporter.stepped(engine, step, result, time.perf_counter() - at)
            if watched:
                reporter.drain()  # the remaining queue is part of the cost
            took = time.perf_counter() - began
            cpu_seconds[watched] += (time.process_time() - cpu) * (number >= WARM_UP_DAYS)
            background.enable(False)
            if watched:
                watched_s, watched_from = watched_s + took, 0.0
            return took

        decoder = factory.decoder(settings)
        steps = steps_of(SourceLog(sim, decoder).batches(), natural_batch=512, ad_batch=128)
        print(f"{'day':>4} {'rows':>9} {'without':>10} {'with':>10}  rows/s")
        for number, day in enumerate(days_of(steps)):
            took = [0.0, 0.0]
            for watched in (number % 2, 1 - number % 2):  # in turn first and second
                took[watched] = run(day, bool(watched))
            n = sum(len(s.batch) for s in day)
            note = ""
            if number < WARM_UP_DAYS:
                note = " (warm-up)"
            else:
                done += n
                seconds = [a + b for a, b in zip(seconds, took, strict=True)]
            print(
                f"{number:>4} {n:>9,} {n / took[0]:>10,.0f} {n / took[1]:>10,.0f}  {took[0] / took[1]:.3f}{note}",
                flush=True,
            )
        background.close()
        snapshot = reporter.monitor.snapshot()
        began = time.perf_counter()
        reporter.monitor.snapshot()
        snapshot_ms = 1000 * (time.perf_counter() - began)
        reporter.close()
        for engine in engines:
            engine.close(checkpoint=False)
    print(
        json.dumps(
            {
                "benchmark": "monitor",
                "ratio": round(seconds[0] / seconds[1], 4),
                "ratio_cpu": round(cpu_seconds[0] / cpu_seconds[1], 4),
                "rows_per_s_without": round(done / seconds[0]),
                "rows_per_s_with": round(done / seconds[1]),
                "rows": done,
                "snapshot_ms": round(snapshot_ms, 1),
                "comparisons_ended_at": reporter.monitor.drift.evaluated_at,
                "probe_slices": len(snapshot["forgetting"]["periods"]),
                "tpm_share": round(snapshot["windows"]["1d"]["ad"]["tpm_share"], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
