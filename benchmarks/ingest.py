"""Kafka records -> ``Batch`` on one core, compared with Faust's own typed records.

    python benchmarks/ingest.py [--short] [--runs 3] [--rows 300000] [--brokers apache]

Events have 12 categorical fields (six strings, six integers, including the ids of user and item) and 4 numbers, and are keyed
by user over two partitions of the embedded broker or of one node of Apache Kafka.

ours, json     one JSON object per message; the worker's Faust app: consumer, decoding, checks, hashing, ``Batch``
ours, arrow    the same rows packed, up to 512 of them per Arrow IPC message
Faust          the JSON topic, an agent on ``Record`` with ``stream.take``: lists of typed objects. Nothing is validated,
               hashed or converted to columns, which would be the next step, so the comparison favours Faust

Each measured process has one core to itself, the broker another. The candidates alternate; medians.
The last line is JSON: ``ratio_json`` and ``ratio_arrow``, our rows/s divided by Faust's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

# Not from this folder: its modules have names that other packages use, too.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
sys.path.append(str(HERE.parent))

import numpy as np
import polars as pl

from benchmarks._brokers import add_option, running
from benchmarks._reader import INTEGERS, NUMBERS, TEXTS
from ecdctr.events.settings import KafkaSettings
from ecdctr.streams.producer import produce
from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import ensure_topics

PACKED = 512
START_MS = 1_700_000_000_000


def events(rows: int) -> pl.DataFrame:
    """Seeded events; ids by Zipf's law."""
    rng = np.random.default_rng(0)

    def ids(size: int) -> np.ndarray:
        return ((size + 1.0) ** rng.random(rows)).astype(np.int64).clip(1, size)

    columns: dict[str, Any] = {
        "event_id": np.arange(rows),
        "ts": START_MS + np.arange(rows, dtype=np.int64),
        "user_id": pl.Series(ids(200_000)).cast(pl.String).str.zfill(8),
        "item_id": ids(50_000),
    }
    for name in TEXTS:
        columns[name] = f"{name}-" + pl.Series(ids(20_000)).cast(pl.String)
    for name in INTEGERS:
        columns[name] = ids(20_000)
    for name in NUMBERS:
        columns[name] = rng.lognormal(size=rows).round(4)
    columns["label"] = (rng.random(rows) < 0.1).astype(np.int64)
    return pl.DataFrame(columns).with_columns(domain=pl.lit("natural"))


def measure(side: str, broker: str, topic: str, rows: int, core: int) -> dict[str, float]:
    """One run of one candidate in a separate process."""
    command = [
        sys.executable,
        HERE / "_reader.py",
        side,
        broker,
        topic,
        "--rows",
        str(rows),
        "--core",
        str(core),
    ]
    got = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if got.returncode:
        raise RuntimeError(f"{side} failed:\n{got.stderr[-2000:]}")
    found: dict[str, float] = json.loads(got.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=300_000, help="rows of JSON; packed: three times as many")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="100,000 rows, 3 runs")
    add_option(parser)
    options = parser.parse_args()
    rows, runs = (100_000, 3) if options.short else (options.rows, options.runs)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    core = cores[-1] if len(cores) > 1 else -1
    if core >= 0:
        os.sched_setaffinity(0, set(cores[:-1]))  # this process and the broker that it starts
    sides = {
        "ours, json": ("ours", "json", rows),
        "ours, arrow": ("ours", "arrow", 3 * rows),
        "Faust": ("faust", "json", rows // 5),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    busy: dict[str, list[float]] = {name: [] for name in sides}
    with running(options.brokers) as address:
        kafka = KafkaSettings(brokers=(address,))
        for form, n in (("json", rows), ("arrow", 3 * rows)):
            topics = TopicSettings(natural=f"0-{form}", ad=f"0-{form}-ads", partitions=2)
            ensure_topics(kafka, topics)
            produce([events(n)], kafka, topics, packed=PACKED if form == "arrow" else 0)
        for run in range(runs):
            for name, (side, form, n) in sides.items():
                got = measure(side, address, f"0-{form}", n, core)
                found[name].append(got["rows_per_s"])
                busy[name].append(got["busy"])
                print(f"run {run + 1}  {name:<12} {got['rows_per_s']:>10,.0f} rows/s", flush=True)
    middle = {name: statistics.median(values) for name, values in found.items()}
    print("\nside              rows/s   CPU of one core")
    for name, value in middle.items():
        print(f"{name:<12} {value:>11,.0f}   {statistics.median(busy[name]):.2f}")
    result = {
        "brokers": options.brokers,
        "ratio_json": round(middle["ours, json"] / middle["Faust"], 1),
        "ratio_arrow": round(middle["ours, arrow"] / middle["Faust"], 1),
        "rows_per_s": {name: round(value) for name, value in middle.items()},
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
