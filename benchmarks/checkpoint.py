"""Checkpoints: stall and bytes depend on the number of changed rows, not on the size of the tables.

    python benchmarks/checkpoint.py [--short] [--rows 100000 1000000 10000000] [--changed 20000] [--checkpoints 40]

One engine per table size, all in the same process and on the same disk, run alternately: steps that change the same
number of rows, then a checkpoint, which is written in the background while the next steps run, as in a worker.

========  ============================================================================================
stall     time for which the trainer thread is blocked: end of the previous save, capture, hand-over
save      from the capture to the last fsync, in the background
time      stall + save
========  ============================================================================================

The last line is one JSON object: ``stall_ms_p99`` over all checkpoints of all sizes, and ``ratio``, the median time at
the largest size divided by that at the smallest.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.step import Step
from ecdctr.models.arms import select_arms
from ecdctr.models.settings import ModelSettings, ScheduleSettings, TpmSettings
from ecdctr.models.training import (
    Engine,
    Trainer,
)
from ecdctr.state.checkpoints import Capture, CheckpointInfo, CheckpointStore
from ecdctr.state.journals import Journal
from ecdctr.state.positions import Part
from ecdctr.state.row_logs import (
    AdWindow,
    ScoreLog,
)
from ecdctr.state.settings import StateSettings

BATCH = 512
START_MS = 1_700_000_000_000


class Store(CheckpointStore):
    """Records the cost of each save."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.infos: list[CheckpointInfo] = []

    def save(self, capture: Capture) -> CheckpointInfo:
        self.infos.append(super().save(capture))
        return self.infos[-1]


class Subject:
    """An engine whose table has ``rows`` rows, of which ``changed`` are used in every round."""

    def __init__(self, folder: Path, rows: int, changed: int) -> None:
        self.rows = rows
        self.changed = min(changed, rows)
        schema = FeatureSchema([FeatureSpec(name="id", buckets=rows)], 16)
        settings = StateSettings(
            folder=folder, checkpoint_every_s=10**9, checkpoint_every_steps=10**15, journal_keep_days=1
        )
        window = AdWindow(folder / "window", 1, 0, 30)
        model = ModelSettings(history="none", natural_batch=BATCH, ad_batch=BATCH, threads=1, device="cpu")
        trainer = Trainer(schema, model, ScheduleSettings(releases="never"), TpmSettings(), None, window)
        self.store = Store(folder / "checkpoints")
        self.engine = Engine(
            trainer,
            journal=Journal(folder / "journal"),
            checkpoints=self.store,
            scores=ScoreLog(folder / "scores", select_arms(model).scored),
            ad_window=window,
            settings=settings,
            fingerprint="benchmark",
        )
        self.batches = list(self._batches())
        self.next_offset = 0
        self.stalls: list[float] = []

    def _batches(self) -> Iterator[Batch]:
        """Natural and ad steps alternately; in each domain they use each of the rows once, spread over the table."""
        spread = self.rows // self.changed
        ids = np.random.default_rng(0).permutation(self.changed) * spread + 1
        for first in range(0, len(ids), BATCH):
            part = ids[first : first + BATCH].astype(np.int32)
            n = len(part)
            for domain in (NATURAL, AD):
                yield Batch(
                    ts=np.full(n, START_MS, np.int64),
                    domain=np.full(n, domain, np.uint8),
                    user=part.astype(np.uint64),
                    item=part.astype(np.uint64),
                    features=part[:, None],
                    dense=np.empty((n, 0), np.float32),
                    label=(part % 3 == 0).astype(np.float32),
                )

    def turn(self) -> None:
        """Change every row once, then checkpoint; the save continues while the other engines run."""
        for batch in self.batches:
            part = Part("clicks", 0, self.next_offset, self.next_offset + len(batch))
            self.next_offset = part.end
            self.engine.run(Step.from_batch(batch.with_parts([part]), START_MS))
        began = time.perf_counter()
        self.engine.checkpoint()
        self.stalls.append(time.perf_counter() - began)

    def results(self) -> dict[str, float]:
        """Medians over all checkpoints except the first two (whose data is new on the disk)."""
        stall = np.array(self.stalls[2:])
        save = np.array([info.seconds for info in self.store.infos[2:]])
        return {
            "rows": self.rows,
            "stall_ms": 1000 * float(np.median(stall)),
            "stall_ms_p99": 1000 * float(np.quantile(stall, 0.99)),
            "save_ms": 1000 * float(np.median(save)),
            "time_ms": 1000 * float(np.median(stall) + np.median(save)),
            "mib": float(np.mean([info.bytes_written for info in self.store.infos[2:]])) / 2**20,
        }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--changed", type=int, default=20_000)
    parser.add_argument("--checkpoints", type=int, default=40)
    parser.add_argument("--short", action="store_true", help="12 checkpoints per size")
    options = parser.parse_args()
    rounds = 12 if options.short else options.checkpoints
    with tempfile.TemporaryDirectory() as folder:
        subjects = [Subject(Path(folder) / str(n), n, options.changed) for n in options.rows]
        for _ in range(rounds):
            for subject in subjects:
                subject.turn()
        for subject in subjects:
            subject.engine.close(checkpoint=False)
        found = [subject.results() for subject in subjects]
        stalls = np.concatenate([subject.stalls[2:] for subject in subjects])
    print(
        f"{options.changed:,} rows changed between two checkpoints in each of two tables, {rounds} checkpoints"
    )
    print("   table rows   stall ms (p99)    save ms    time ms   MiB written")
    for f in found:
        print(
            f"{f['rows']:>13,}   {f['stall_ms']:8.1f} ({f['stall_ms_p99']:4.1f})   {f['save_ms']:8.1f}   "
            f"{f['time_ms']:8.1f}   {f['mib']:11.1f}"
        )
    result = {
        "stall_ms_p99": round(1000 * float(np.quantile(stalls, 0.99)), 1),
        "ratio": round(found[-1]["time_ms"] / found[0]["time_ms"], 2),
        "stall_ratio": round(found[-1]["stall_ms"] / found[0]["stall_ms"], 2),
        "time_ms": {str(f["rows"]): round(f["time_ms"], 1) for f in found},
        "mib": {str(f["rows"]): round(f["mib"], 1) for f in found},
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
