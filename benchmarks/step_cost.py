"""The cost of a step depends on its batch, not on the size of the table.

    python benchmarks/step_cost.py [--short] [--rows 100000 1000000 10000000] [--steps 120]

One trainer per table size, in one process, learns the same batches alternately: 16 fields x 16, DCN-V2 with two cross
layers, MLP 256-128-64, 4,096 rows. The same batches have the same number of distinct ids, spread over the whole table.
Memory is the amount that a step allocates: the bytes of all tensors that it requests, including those freed meanwhile, and
the peak of its numpy arrays.

The last line is JSON: ``ratio``, the median step at the largest table divided by that at the smallest; ``memory_ratio``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from pathlib import Path

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np
from torch.profiler import ProfilerActivity, profile

from ecdctr.events.batch import Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.step import Step
from ecdctr.models.settings import ModelSettings, ScheduleSettings, TpmSettings
from ecdctr.models.training import Trainer
from ecdctr.state.row_logs import AdWindow

FIELDS, DIM, BATCH, KINDS = 16, 16, 4096, 12


class Subject:
    """A trainer on a table of ``rows`` rows, and its form of the batches."""

    def __init__(self, rows: int, ids: np.ndarray, labels: np.ndarray, threads: int) -> None:
        self.rows = rows
        size = rows // FIELDS
        schema = FeatureSchema([FeatureSpec(name=f"f{i}", buckets=size) for i in range(FIELDS)], DIM)
        model = ModelSettings(
            history="none", natural_batch=BATCH, hidden=(256, 128, 64), threads=threads,
            device="cpu", natural_score_share=0.1,
        )  # fmt: skip
        window = AdWindow(None, FIELDS, 0, 30)
        self.trainer = Trainer(schema, model, ScheduleSettings(releases="never"), TpmSettings(), None, window)
        spread = np.random.default_rng(1).permutation(size) + 1  # row of the k-th most frequent id
        self.steps = [
            Step.from_batch(_batch(spread[part].astype(np.int32), label))
            for part, label in zip(ids, labels, strict=True)
        ]
        self.seconds: list[float] = []

    def step(self, i: int) -> None:
        began = time.perf_counter()
        self.trainer.step(self.steps[i % len(self.steps)])
        self.seconds.append(time.perf_counter() - began)

    def memory(self) -> float:
        """MiB that a step allocates: every tensor, including those freed meanwhile, and the peak of its arrays."""
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            self.trainer.step(self.steps[0])
        arrays = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        tensors = sum(e.self_cpu_memory_usage for e in profiled.events() if e.self_cpu_memory_usage > 0)
        return float(tensors + arrays) / 2**20


def _batch(features: np.ndarray, label: np.ndarray) -> Batch:
    n = len(features)
    return Batch(
        ts=np.full(n, 1_700_000_000_000, np.int64),
        domain=np.zeros(n, np.uint8),
        user=features[:, 0].astype(np.uint64),
        item=features[:, 1].astype(np.uint64),
        features=features,
        dense=np.empty((n, 0), np.float32),
        label=label,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--steps", type=int, default=120, help="steps per size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="36 steps per size")
    options = parser.parse_args()
    steps = 36 if options.short else options.steps
    rng = np.random.default_rng(0)
    size = min(options.rows) // FIELDS
    # Ids by Zipf's law, the same for all sizes: only their distance in the table differs.
    ids = ((size + 1.0) ** rng.random((KINDS, BATCH, FIELDS))).astype(np.int64).clip(1, size) - 1
    labels = (rng.random((KINDS, BATCH)) < 0.2).astype(np.float32)
    subjects = [Subject(rows, ids, labels, options.threads) for rows in options.rows]
    for i in range(KINDS + steps):
        for subject in subjects:
            subject.step(i)
    print(f"{BATCH:,} rows per step, {steps} steps per size, {options.threads} thread(s)")
    print("   table rows    step ms   rows/s    MiB allocated per step")
    medians, memory = [], []
    for subject in subjects:
        medians.append(float(np.median(subject.seconds[KINDS:])))
        memory.append(subject.memory())
        print(
            f"{subject.rows:>13,}   {1000 * medians[-1]:8.1f}   {BATCH / medians[-1]:6,.0f}   {memory[-1]:8.1f}"
        )
    result = {
        "ratio": round(medians[-1] / medians[0], 3),
        "memory_ratio": round(memory[-1] / memory[0], 3),
        "step_ms": {str(s.rows): round(1000 * m, 2) for s, m in zip(subjects, medians, strict=True)},
        "threads": options.threads,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
