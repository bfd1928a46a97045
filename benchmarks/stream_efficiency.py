"""Training from Kafka compared with the bare training loop over arrays in memory: the share of its speed.

    python benchmarks/stream_efficiency.py [--short] [--runs 3] [--rows 1000000] [--brokers apache]

Bare     the network learns batches in memory, whose TPM vectors were looked up before: distinct rows, forward, backward,
         optimizer.
Stream   a worker as in production, on a filled topic of two partitions: consumer, decoding and checks, alignment, TPM
         look-ups in the snapshots of three months, journal, progressive validation (10 % of the users are scored before
         they are learned), checkpoints (every 10 s here), score log, monitor with its port open.

The same network (16 fields x 16, three months of TPM vectors of user and item, DCN-V2 with two cross layers, MLP 256-128-64
with batch norm), the same rows, batches of 4,096, all cores for torch in both. Each run is a separate process; the two
alternate; medians. The CPU time per row is printed, too: on a shared machine it is more reliable. With several threads it
includes the time for which they wait for each other.

The last line is JSON: ``ratio_json`` and ``ratio_arrow``, rows/s of the stream divided by those of the bare loop.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Not from this folder: its modules have names that other packages use, too.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
sys.path.append(str(HERE.parent))

import numpy as np

from benchmarks._brokers import add_option, running
from benchmarks._clicks import BATCH, HIDDEN, START_MS, clicks, names, per_field
from benchmarks._events import frame
from ecdctr import factory
from ecdctr.events.batch import Batch
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import DAY_MS
from ecdctr.settings import Settings, dump_toml, load_settings
from ecdctr.state.snapshots import RocksEmbeddingStore
from ecdctr.streams.producer import produce
from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import ensure_topics

IDS = 100_000
FORMS = ("json", "arrow")


def configure(address: str, folder: Path, form: str, threads: int) -> Settings:
    """A worker's configuration with defaults except for sizes."""
    overrides = [
        f"model.natural_batch={BATCH}",
        'model.transfer="reload"',  # the network alone: no other arm learns natural rows
        f"model.hidden={list(HIDDEN)}",
        f"model.threads={threads}",
        'schedule.releases="never"',
        f'kafka.brokers=["{address}"]',
        f'topics.natural="{form}"',
        f'topics.ad="{form}-ads"',
        "topics.partitions=2",
        f'state.folder="{folder}"',
        "state.checkpoint_every_s=10",
        "worker.max_idle_s=0.5",
        f"monitor.port={_free_port()}",
    ]
    settings = load_settings(None, overrides, environ={}).settings
    # Twice as many buckets as ids: some ids share a row.
    specs = [FeatureSpec(name=name, buckets=2 * per_field(IDS)) for name in names()]
    return factory.use_features(settings, specs, configured=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_snapshots(folder: Path, batch: Batch, dim: int) -> None:
    """Three months of vectors for four users in five and four items in five."""
    rng = np.random.default_rng(1)
    store = RocksEmbeddingStore(factory.Folders(folder).snapshots)
    for k, month in enumerate(("2023-08", "2023-09", "2023-10")):
        tables = []
        for ids in (np.unique(batch.user), np.unique(batch.item)):
            known = ids[rng.random(len(ids)) < 0.8]
            tables.append((known, rng.standard_normal((len(known), dim)).astype(np.float32)))
        store.write(month, dim, START_MS - (90 - 30 * k) * DAY_MS, tables[0], tables[1])
    store.close()


def run(script: str, config: Path, *arguments: str) -> dict[str, Any]:
    got = subprocess.run(
        [sys.executable, HERE / script, config, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if got.returncode:
        raise RuntimeError(f"{script} failed:\n{got.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(got.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="torch threads, for all candidates"
    )
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--short", action="store_true", help="300,000 rows, two runs")
    add_option(parser)
    options = parser.parse_args()
    if options.short:
        options.rows, options.runs = 300_000, 2
    rows = options.rows
    x, y = clicks(rows, IDS)
    found: dict[str, list[float]] = {"bare": [], **{form: [] for form in options.forms}}
    steps: dict[str, list[float]] = {name: [] for name in found}
    cpu: dict[str, list[float]] = {name: [] for name in found}
    with tempfile.TemporaryDirectory() as temporary, running(options.brokers) as address:
        here = Path(temporary)
        np.savez(here / "rows.npz", x=x, y=y)
        for form in options.forms:
            settings = configure(address, here / "plain", form, options.threads)
            topics = TopicSettings(natural=form, ad=f"{form}-ads", partitions=2)
            ensure_topics(settings.kafka, topics)
            produce([frame(x, y)], settings.kafka, topics, packed=512 if form == "arrow" else 0)
        batch = factory.decoder(settings).from_frame(frame(x, y)).batch
        for i in range(options.runs):
            for name in found:
                state = here / f"{name}-{i}"
                settings = configure(address, state, name, options.threads)
                write_snapshots(state, batch, settings.tpm.dim)
                config = here / f"{name}-{i}.toml"
                config.write_text(dump_toml(settings), encoding="utf-8")
                if name == "bare":
                    got = run("_bare.py", config, "--rows", str(here / "rows.npz"))
                else:
                    got = run("_live.py", config, "--rows", str(rows))
                found[name].append(got["rows_per_s"])
                steps[name].append(got["step_ms"])
                cpu[name].append(got["cpu_us_a_row"])
                print(
                    f"run {i + 1}  {name:<6} {got['rows_per_s']:>9,.0f} rows/s   step {got['step_ms']:.1f} ms"
                    + (f"   training {got['training']:.0%} of the time" if "training" in got else ""),
                    flush=True,
                )
    middle = {name: statistics.median(values) for name, values in found.items()}
    used = {name: statistics.median(values) for name, values in cpu.items()}
    print(f"\n{rows:,} rows, {options.threads} torch thread(s)")
    print("side        rows/s   step ms   share of bare   CPU us per row")
    for name, value in middle.items():
        share = value / middle["bare"]
        print(
            f"{name:<6} {value:>11,.0f}   {statistics.median(steps[name]):7.1f}   {share:13.2f}   {used[name]:12.1f}"
        )
    result: dict[str, Any] = {
        f"ratio_{form}": round(middle[form] / middle["bare"], 3) for form in options.forms
    }
    result["brokers"] = options.brokers
    result["rows_per_s"] = {name: round(value) for name, value in middle.items()}
    result["cpu_us_a_row"] = {name: round(value, 1) for name, value in used.items()}
    result["threads"] = options.threads
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
