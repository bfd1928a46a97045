"""The cost of streaming features, and their effect on a log.

    python benchmarks/streaming_features.py [--short] [--set streaming_features.refresh=1 ...]
    python benchmarks/streaming_features.py --log "ebnerd:$ECDCTR_DATA/ebnerd?mapping=A" [--set ...]

Without ``--log``: random rows of both streams (ids by Zipf's law) in steps of the default size. The last line is JSON: ``us_a_row``, CPU
time of computing the columns and of adding the events; ``bytes_a_key`` of the largest kind of key, slots of the hash table
included; ``ratio``, the rows per CPU second of a trainer with the default arms, with streaming features divided by without.

With ``--log``: the log is replayed with and without streaming features (``--only with`` or ``--only without``: one of them), and the
figures of the serving arm and its members on ad rows after the first five days are printed. The settings are those of
``ecdctr evidence`` for EB-NeRD except for a release every four days; ``--set`` adds others.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np

from ecdctr import factory
from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.step import Step
from ecdctr.models.streaming_features import StreamingFeatures
from ecdctr.models.training import Trainer
from ecdctr.replay.metrics import auc, gauc, normalized_entropy, pcoc
from ecdctr.settings import Settings, load_settings
from ecdctr.studies.evidence_runs import EBNERD_SKIP_DAYS, Run, play_run, studies

ON = "streaming_features.mode=auto"
USERS, ITEMS, STEP_MS = 500_000, 50_000, 1_000


def batches(steps: int, schema: FeatureSchema) -> list[Batch]:
    """Three natural steps of 512 rows and one ad step of 128 alternately."""
    rng = np.random.default_rng(0)
    out = []
    for k in range(steps):
        domain = AD if k % 4 == 3 else NATURAL
        n = 128 if domain == AD else 512
        user = ((USERS + 1.0) ** rng.random(n)).astype(np.uint64)
        item = ((ITEMS + 1.0) ** rng.random(n)).astype(np.uint64)
        ts = np.sort(1_767_225_600_000 + k * STEP_MS + rng.integers(0, STEP_MS, n))
        features = np.stack([user % 1000 + 1, item % 1000 + 1, ts // 3_600_000 % 24 + 1], axis=1).astype(
            np.int32
        )
        label = (rng.random(n) < 0.1).astype(np.float32)
        dense = np.empty((n, schema.n_dense), np.float32)
        out.append(Batch(ts, np.full(n, domain, np.uint8), user, item, features, dense, label))
    return out


def cost(settings: Settings, steps: int) -> tuple[float, float]:
    """Microseconds of CPU time per row, and bytes per key of the largest kind."""
    schema = FeatureSchema(settings.features, settings.model.dim)
    features = StreamingFeatures(schema, settings.streaming_features)
    rows = batches(steps, schema)
    took = []
    for batch in rows:
        began = time.process_time()
        features.extend(batch, learned=True)
        features.observe(batch)
        took.append(time.process_time() - began)
    later = slice(len(rows) // 4, None)
    us = 1e6 * sum(took[later]) / sum(map(len, rows[later]))
    for table in features.tables:
        print(f"{table.name}: {len(table):,} keys of {table.bytes_per_key} bytes")
    # At most half of the slots (8 bytes) are used, so that a key has up to four.
    return us, max(table.bytes_per_key for table in features.tables) + 32


def rows_per_s(trainer: Trainer, steps: list[Batch]) -> float:
    """Rows per CPU second, without the first quarter of the steps."""
    first = len(steps) // 4
    for batch in steps[:first]:
        trainer.step(Step.from_batch(batch))
    began = time.process_time()
    for batch in steps[first:]:
        trainer.step(Step.from_batch(batch))
    return sum(map(len, steps[first:])) / (time.process_time() - began)


def measure(texts: list[str], steps: int) -> dict[str, float]:
    """Cost, and the ratio of throughput."""
    on = load_settings(None, ["model.threads=1", *texts, ON], environ={}).settings
    off = load_settings(None, ["model.threads=1", *texts], environ={}).settings
    us, per_key = cost(on, steps)
    rows = batches(steps, FeatureSchema(on.features, on.model.dim))
    rates = {
        name: rows_per_s(factory.memory_engine(s).trainer, rows)
        for name, s in (("with", on), ("without", off))
    }
    for name, rate in rates.items():
        print(f"trainer {name} streaming features: {rate:,.0f} rows per CPU second")
    return {
        "ratio": round(rates["with"] / rates["without"], 3),
        "us_a_row": round(us, 2),
        "bytes_a_key": per_key,
    }


def figures(source: str, texts: list[str], names: list[str]) -> dict[str, dict[str, list[float]]]:
    """Replay a log; GAUC, AUC, NE and PCOC of each arm by run."""
    mapping = "b" if "mapping=B" in source else "a"
    like = next(r for r in studies([0], Path(), short=False, model_seeds=1) if r.study == f"ebnerd_{mapping}")
    settings = (*like.settings, 'model.arms=["item_ctr"]', "schedule.release_every=4d", *texts)
    out: dict[str, dict[str, list[float]]] = {}
    for name in names:
        run = Run("log", source, (*settings, *([ON] if name == "with" else [])), EBNERD_SKIP_DAYS)
        began = time.process_time()
        rows = play_run(run).columns
        print(
            f"{name} streaming features: {len(rows['ts']):,} ad rows, {time.process_time() - began:,.0f} s of CPU time"
        )
        out[name] = {}
        for column in [c for c in rows if c.startswith("p_")]:
            y, p = rows["label"], rows[column]
            found = [gauc(y, p, rows["user"]).value, auc(y, p), normalized_entropy(y, p), pcoc(y, p)]
            out[name][column[2:]] = [round(float(v), 4) for v in found]
            print(
                f"  {column[2:]:10s} GAUC {found[0]:.4f}  AUC {found[1]:.4f}  NE {found[2]:.4f}  PCOC {found[3]:.3f}"
            )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="fewer steps")
    parser.add_argument("--log", default=None, help="a source of the form ebnerd:FOLDER?mapping=A")
    parser.add_argument("--only", choices=["with", "without"], default=None)
    parser.add_argument("--set", action="append", default=[], dest="texts", help="key=value, repeatable")
    options = parser.parse_args()
    result: dict[str, object]
    if options.log is None:
        result = dict(measure(options.texts, 80 if options.short else 400))
    else:
        names = ["without", "with"] if options.only is None else [options.only]
        result = dict(figures(options.log, options.texts, names))
    print(json.dumps({"benchmark": "streaming_features", **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
