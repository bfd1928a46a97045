"""Several decoding processes next to the trainer: rows per second of decoding and of training, with 1 and 2 processes.

    python benchmarks/scaling.py [--short] [--rows 600000]

decode
    JSON messages (16 fields, one event each) in memory, 5,000 at a time, through ``DecodePool`` with 1 and 2 processes, with
    two requests in flight as in the worker; sending the bytes and receiving the rows is included, the broker is not.
training
    A real worker on a filled topic, with ``worker.decoders`` 0, 1 and 2 and defaults otherwise: rows/s from the end of the
    first step to the end of the last one. Broker, worker and decoders share the machine.

The candidates alternate, three runs each; medians. The last line is one JSON object: ``ratio``, the decoding rate with 2
processes divided by that with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Not from this folder: its modules have names that other packages use, too.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
sys.path.append(str(HERE.parent))

from benchmarks._clicks import clicks, names, per_field
from benchmarks._events import frame
from benchmarks._worker import make_worker
from ecdctr import factory
from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder, to_json_messages
from ecdctr.events.settings import FeatureSpec
from ecdctr.models.training import Engine
from ecdctr.settings import Settings, dump_toml, load_settings
from ecdctr.streams.decoders import DecodePool
from ecdctr.streams.embedded import EmbeddedBroker
from ecdctr.streams.producer import produce
from ecdctr.streams.topics import ensure_topics

IDS = 100_000
ASK = 5_000
WORKERS = (1, 2)
WARM_ROWS = 20_000


def configure(folder: Path, address: str, decoders: int) -> Settings:
    settings = load_settings(
        None,
        [
            f'kafka.brokers=["{address}"]',
            f'state.folder="{folder}/state-{decoders}"',
            f"worker.decoders={decoders}",
            "worker.max_idle_s=0.5",
            'schedule.releases="never"',
            "monitor.port=0",
            "monitor.alerts_topic=''",
        ],
        environ={},
    ).settings
    features = [FeatureSpec(name=name, buckets=2 * per_field(IDS)) for name in names()]
    return factory.use_features(settings, features, configured=False)


# -- decode


def decode_rate(decoder: EventDecoder, values: list[bytes], workers: int) -> float:
    """Rows/s through a pool."""
    pool = DecodePool(decoder, workers)
    parts = [values[at : at + ASK] for at in range(0, len(values), ASK)]

    async def through(asks: list[list[bytes]]) -> int:
        rows = 0
        for ask in asks:
            rows += len((await pool.decode(ask, [False] * len(ask), 0)).batch)
        return rows

    async def both(asks: list[list[bytes]]) -> int:
        return sum(await asyncio.gather(through(asks[::2]), through(asks[1::2])))

    try:
        asyncio.run(both(parts[: 2 * workers]))  # the processes have started
        began = time.perf_counter()
        rows = asyncio.run(both(parts))
        return rows / (time.perf_counter() - began)
    finally:
        pool.close()


# -- training


def work(config: Path, rows: int) -> int:
    """Train on this many rows, print the rate, end."""
    began, warm, done, over = 0.0, 0, 0, False

    def watch(_engine: Engine, _kind: str, batch: Batch) -> None:
        nonlocal began, warm, done, over
        done += len(batch)
        now = time.perf_counter()
        if not began and done >= WARM_ROWS:
            began, warm = now, done
        if done >= rows and not over:
            over = True
            print(json.dumps({"rows_per_s": (done - warm) / (now - began)}), flush=True)
            os.kill(os.getpid(), signal.SIGTERM)

    return make_worker(load_settings(config, environ={}).settings, watch).run()


def training_rate(rows: int, messages: int, decoders: int) -> float:
    with tempfile.TemporaryDirectory() as place, EmbeddedBroker() as broker:
        settings = configure(Path(place), broker.address, decoders)
        config = Path(place) / "ecdctr.toml"
        config.write_text(dump_toml(settings), encoding="utf-8")
        ensure_topics(settings.kafka, settings.topics)
        produce([frame(*clicks(messages, IDS))], settings.kafka, settings.topics)
        got = subprocess.run(
            [sys.executable, __file__, "--worker", str(config), str(rows)],
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
    if got.returncode:
        raise RuntimeError(f"the worker failed:\n{got.stderr[-2000:]}")
    return float(json.loads(got.stdout.splitlines()[-1])["rows_per_s"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help="rows per run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="100,000 rows, training once")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(Path(options.worker[0]), int(options.worker[1]))
    rows = 100_000 if options.short else options.rows
    values = [value for _, value in to_json_messages(frame(*clicks(rows, IDS)))]
    decoder = factory.decoder(configure(Path(), "127.0.0.1:1", 0))
    decode: dict[int, list[float]] = {n: [] for n in WORKERS}
    for _ in range(options.runs):
        for workers, rates in decode.items():
            rates.append(decode_rate(decoder, values, workers))
    del values
    training: dict[int, list[float]] = {n: [] for n in (0, *WORKERS)}
    for _ in range(1 if options.short else options.runs):
        for decoders, rates in training.items():
            rates.append(training_rate(rows - 10_000, rows, decoders))
    print("decoding processes   decode rows/s   training rows/s (runs)")
    for n, rates in training.items():
        shown = f"{statistics.median(decode[n]):>13,.0f}" if n in decode else f"{'':>13}"
        print(
            f"{n:>18}   {shown}   {statistics.median(rates):>15,.0f} ({', '.join(f'{r:,.0f}' for r in rates)})"
        )
    one, two = (statistics.median(decode[n]) for n in WORKERS)
    print(
        json.dumps(
            {
                "ratio": round(two / one, 2),
                "decode_rows_per_s": {str(n): round(statistics.median(r)) for n, r in decode.items()},
                "training_rows_per_s": {str(n): round(statistics.median(r)) for n, r in training.items()},
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
