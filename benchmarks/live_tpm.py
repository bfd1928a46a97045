"""The cost of training TPM from the running stream: per step, and at the end of a month.

    python benchmarks/live_tpm.py [--short] [--steps 400] [--ids 1000000]

Two engines with separate state folders (journal, checkpoints, score log) run the same steps of the simulator alternately, one
with `tpm.live`, one without. Then a month of ``--ids`` users closes: the copy stalls the step, and the write runs in the
background of steps of the other engine, which are timed with and without it.

The last line is JSON: ``ratio``, a natural step with live TPM divided by one without (means); ``share``, the additional time of
all steps, ads included; ``stall_ms`` and ``write_s`` of the month; ``during_write``, a step during the write divided by one without.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np

from ecdctr import factory
from ecdctr.events.step import Step
from ecdctr.models.training import Engine
from ecdctr.replay.sources import SourceLog, steps_of
from ecdctr.settings import load_settings
from ecdctr.sources import open_with_features
from ecdctr.state.snapshots import (
    RocksEmbeddingStore,
    SnapshotWriter,
)

SOURCE = "sim:days=12,live_from=0"


def prepare(folder: Path, live: bool, steps: int) -> tuple[Engine, list[Step]]:
    texts = (
        f"state.folder={json.dumps(str(folder))}",
        f"tpm.live={str(live).lower()}",
        "model.threads=1",
        "schedule.releases=never",
        "state.checkpoint_every_s=100000",
        "state.checkpoint_every_steps=1000000",
    )
    source, settings = open_with_features(SOURCE, load_settings(None, texts, environ={}))
    engine = factory.live_engine(settings)
    engine.bind_thread()
    sizes = {"natural_batch": settings.model.natural_batch, "ad_batch": settings.model.ad_batch}
    found: list[Step] = []
    for step in steps_of(SourceLog(source, factory.decoder(settings)).batches(), **sizes):
        found.append(step)
        if len(found) == steps:
            break
    return engine, found


def run(engine: Engine, step: Step) -> float:
    began = time.perf_counter()
    engine.run(step)
    return time.perf_counter() - began


def month_end(folder: Path, ids: int, dim: int) -> tuple[float, SnapshotWriter]:
    """Copy the vectors of this many users, as the step that closes a month does; write them in the background."""
    rng = np.random.default_rng(0)
    users = rng.permutation(10 * ids)[:ids].astype(np.uint64)
    table = rng.normal(size=(ids, dim)).astype(np.float32)
    writer = SnapshotWriter(RocksEmbeddingStore(folder))
    began = time.perf_counter()
    writer.write("big", dim, 1, (users.copy(), table.copy()), (users[:1000].copy(), table[:1000].copy()))
    return time.perf_counter() - began, writer


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--ids", type=int, default=1_000_000, help="users of the closing month")
    parser.add_argument("--short", action="store_true", help="300 steps, 200,000 ids")
    options = parser.parse_args()
    steps, ids = (300, 200_000) if options.short else (options.steps, options.ids)
    warm = 60
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        without, plan = prepare(root / "without", False, steps + warm)
        with_tpm, _ = prepare(root / "with", True, 1)
        seconds: dict[str, list[tuple[str, float]]] = {"without": [], "with": []}
        for i, step in enumerate(plan):
            # Alternately, and each runs first in turn.
            both = [("without", without), ("with", with_tpm)]
            for name, engine in both if i % 2 else reversed(both):
                took = run(engine, step)
                if i >= warm:
                    seconds[name].append((step.kind, took))
        total = {name: sum(t for _, t in parts) for name, parts in seconds.items()}
        # A chunk of TPM contains the rows of two steps: the mean of natural steps includes its whole cost, the median does not.
        natural = {n: float(np.mean([t for k, t in parts if k == "natural"])) for n, parts in seconds.items()}
        stall, writer = month_end(root / "month", ids, 16)
        began = time.perf_counter()
        during_write: list[float] = []
        last = plan[-1].clock
        while writer.pending:
            for step in plan[:20]:
                during_write.append(run(without, Step(step.kind, step.batch, last)))
        write = time.perf_counter() - began
        writer.close()
        alone = [run(without, Step(step.kind, step.batch, last)) for step in plan[:200]]
        for engine in (without, with_tpm):
            engine.close(checkpoint=False)
    print(f"{steps} steps of the simulator, one thread; a month of {ids:,} users")
    print(
        f"natural step, mean   without {1e3 * natural['without']:.2f} ms   with {1e3 * natural['with']:.2f} ms"
    )
    print(f"all steps            without {total['without']:.2f} s   with {total['with']:.2f} s")
    print(f"month's end          stall {1e3 * stall:.1f} ms, written in the background in {write:.2f} s")
    print(
        f"a step during it     {1e3 * np.mean(during_write):.2f} ms, alone {1e3 * np.mean(alone):.2f} ms (means)"
    )
    result = {
        "benchmark": "live_tpm",
        "ratio": round(natural["with"] / natural["without"], 3),
        "share": round(total["with"] / total["without"] - 1, 3),
        "stall_ms": round(1e3 * stall, 1),
        "write_s": round(write, 2),
        "during_write": round(float(np.mean(during_write) / np.mean(alone)), 2),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
