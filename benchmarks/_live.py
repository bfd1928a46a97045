"""This project's part of ``peers.py`` and ``stream_efficiency.py``, as a separate process: a real worker on a filled topic.

    python benchmarks/_live.py config.toml --rows 300000 --tail tail.npz --scores scores.npy

Prints one JSON object: rows per second between the start of the first step and the end of the last complete one. The
remaining rows, fewer than a batch, wait for more rows, as they should on a continuous stream; the bare loops leave them
out, too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
sys.path.append(str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks._events import frame
from ecdctr import factory
from ecdctr.events.step import Step
from ecdctr.models.training import Engine
from ecdctr.settings import load_settings

WARM_ROWS = 5 * 4096
"""The first steps create threads and allocate memory; the other libraries have a warm-up batch, too."""


class Clock:
    """Records when complete steps begin and end, and stops the worker after the last row."""

    def __init__(self, engine: Engine, rows: int, batch: int) -> None:
        self.engine, self.rows, self.batch = engine, rows, batch
        self.began = self.ended = self.busy = 0.0
        self.cpu_began = self.cpu_ended = 0.0
        self.done = self.warm = self.steps = self.timed = 0
        self._run = engine.run
        engine.run = self.run  # type: ignore[method-assign]

    def run(self, step: Step) -> Any:
        now = time.perf_counter()
        if not self.began and self.done >= WARM_ROWS:
            self.began, self.warm, self.cpu_began = now, self.done, time.process_time()
        result = self._run(step)
        if self.began and len(step.batch) >= self.batch:
            self.ended, self.cpu_ended = time.perf_counter(), time.process_time()
            self.busy += self.ended - now
            self.steps += 1
            self.timed = self.done + len(step.batch) - self.warm
        self.done += len(step.batch)  # rows that were rejected would never come: the caller has a time limit
        if self.done >= self.rows:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    def rate(self) -> float:
        return self.timed / (self.ended - self.began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--tail", type=Path, help="rows to score at the end")
    parser.add_argument("--scores", type=Path, help="file for their scores")
    options = parser.parse_args()
    settings = load_settings(options.config, environ={}).settings
    clocks: list[Clock] = []

    def engine(**hooks: Any) -> Engine:
        made = factory.live_engine(settings, **hooks)
        clocks.append(Clock(made, options.rows, settings.model.natural_batch))
        return made

    factory.worker(settings, engine).run()
    clock = clocks[0]
    if options.tail is not None:
        arrays = np.load(options.tail)
        first = int(arrays["tail"])
        batch = factory.decoder(settings).from_frame(frame(arrays["x"][first:], arrays["y"][first:])).batch
        np.save(options.scores, clock.engine.trainer.predict(batch, "cpm"))
    print(
        json.dumps(
            {
                "rows_per_s": clock.rate(),
                "rows": clock.done,
                "step_ms": 1000 * clock.busy / clock.steps,
                "cpu_us_a_row": 1e6 * (clock.cpu_ended - clock.cpu_began) / clock.timed,
                "training": clock.busy / (clock.ended - clock.began),
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
