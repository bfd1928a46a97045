"""What monitoring costs: rows a second through the engine with and without the monitor, on the same steps.

The simulator's rows go through ``Engine.run`` as in a worker (512 natural rows or up to 128 ad rows a step; journal and scores in
memory), in rounds of a few hundred steps, each round once without and once with the monitor, in turn, so that a machine's
moods fall on both. The last line is JSON: ``ratio`` = rows/s with over rows/s without (median over rounds).

    python benchmarks/monitor.py [--rounds 8] [--rows 40000] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

# This folder has a monitor.py, too: the package must win.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

from ecdctr import build  # noqa: E402
from ecdctr.settings import load_settings  # noqa: E402
from models.features import FeatureSchema  # noqa: E402
from monitor.monitor import Monitor  # noqa: E402
from replay.align import Step  # noqa: E402
from replay.rows import SourceLog, steps_of  # noqa: E402
from replay.simulator import Simulator  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--rows", type=int, default=40_000, help="rows of half a round")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    # As many rows a day as a round has: a round sees a whole day pass, with every comparison that is due in it.
    sim = Simulator(
        seed=0,
        days=2 * args.rounds + 10,
        live_from=0,
        natural_per_day=args.rows * 20 // 21,
        ads_per_day=args.rows // 21,
    )
    settings = load_settings(environ={}, overrides=["model.history=none"]).settings
    settings = build.use_features(settings, sim.feature_specs(), configured=False)
    engine = build.memory_engine(settings, threads=args.threads)
    engine.bind_thread()
    monitor = Monitor(FeatureSchema(settings.features, settings.model.dim))
    steps = steps_of(SourceLog(sim, build.decoder(settings)).batches(), natural_batch=512, ad_batch=128)

    def take(rows: int) -> list[Step]:
        out: list[Step] = []
        while sum(len(s.batch) for s in out) < rows:
            out.append(next(steps))
        return out

    def run(chosen: list[Step], watched: bool) -> float:
        began = time.perf_counter()
        for s in chosen:
            at = time.perf_counter()
            result = engine.run(s.kind, s.batch, s.clock)
            if watched:
                seconds = time.perf_counter() - at
                monitor.observe(s.kind, s.batch, result.scored, result.scores, result.loss, seconds)
        return sum(len(s.batch) for s in chosen) / (time.perf_counter() - began)

    for _ in range(8):  # the drift reference fills: seven days
        run(take(args.rows), watched=True)
    ratios, plain, watched = [], [], []
    print(f"{'round':>5} {'without':>12} {'with':>12}  rows/s")
    for i in range(args.rounds):
        halves = [take(args.rows), take(args.rows)]
        if i % 2:  # in turn first and second
            fast, slow = run(halves[0], watched=False), run(halves[1], watched=True)
        else:
            slow, fast = run(halves[0], watched=True), run(halves[1], watched=False)
        ratios.append(slow / fast)
        plain.append(fast)
        watched.append(slow)
        print(f"{i:>5} {fast:>12,.0f} {slow:>12,.0f}  {slow / fast:.3f}")
    began = time.perf_counter()
    monitor.snapshot()
    print(
        json.dumps(
            {
                "benchmark": "monitor",
                "ratio": round(statistics.median(ratios), 4),
                "rows_per_s_without": round(statistics.median(plain)),
                "rows_per_s_with": round(statistics.median(watched)),
                "snapshot_ms": round(1000 * (time.perf_counter() - began), 1),
                "comparisons_ended_at": monitor.drift.evaluated_at,
            }
        )
    )


if __name__ == "__main__":
    main()
