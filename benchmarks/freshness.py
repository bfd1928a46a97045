"""Time from sending an event until the weights of the served A-CTR include it, at half of full load.

    python benchmarks/freshness.py [--short] [--seconds 60] [--brokers apache]

1. A backlog of JSON messages (16 fields, one event per message, one in ten an ad, three days of event time) is in Kafka;
   a worker with the default configuration processes it as fast as it can: that rate is full load. A-CTR gets its first
   CPM release during this phase.
2. Events are then sent at half that rate. This process records the monotonic clock before each ``send``; the worker
   process records the same clock (one machine, one clock) after each ad step, when A-CTR's optimiser has run. An event
   is identified by its partition and offset in both processes: neither its own ``ts`` nor the worker's own measurement is
   used. Events of the first two seconds are not counted, and sending continues for ten seconds after the last counted one.

The time includes the producer's linger (20 ms, as in `ecdctr produce`), the broker, fetching, decoding, alignment by event time, the
wait for a full batch, and the step. Sender, broker and worker share the machine.

The last line is one JSON object: ``p50_s`` and ``p99_s`` of ads, and ``load``, the sent rate divided by the full rate.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

# Not from this folder: its modules have names that other packages use, too.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
sys.path.append(str(HERE.parent))

import msgspec
import numpy as np
import polars as pl
from kafka import KafkaProducer

from benchmarks._brokers import add_option, running
from benchmarks._clicks import clicks, names, per_field
from benchmarks._events import frame
from benchmarks._worker import make_worker
from ecdctr import factory
from ecdctr.events.batch import Batch
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import DAY_MS
from ecdctr.models.training import Engine
from ecdctr.settings import Settings, dump_toml, load_settings
from ecdctr.streams.producer import partition_of, produce
from ecdctr.streams.topics import ensure_topics

IDS = 100_000
WARM_S, TAIL_S, TICK_S = 2.0, 10.0, 0.005
LINGER_MS = 20
"""As ``ecdctr produce``. With 5 ms and eight partitions a batch contains six events, and the embedded broker cannot keep up."""

POOL = 50_000
"""Distinct events that are sent repeatedly, so that no time is spent on creating them during the measurement."""

Key = tuple[str, int]


def configure(folder: Path, address: str) -> Settings:
    settings = load_settings(
        None,
        [
            f'kafka.brokers=["{address}"]',
            f'state.folder="{folder}/state"',
            "monitor.port=0",
            "monitor.alerts_topic=''",
        ],
        environ={},
    ).settings
    features = [FeatureSpec(name=name, buckets=2 * per_field(IDS)) for name in names()]
    return factory.use_features(settings, features, configured=False)


def events(rows: int, *, seed: int) -> pl.DataFrame:
    """Clicks, one in ten of which is on an ad."""
    ad = np.arange(rows) % 10 == 9
    made = frame(*clicks(rows, IDS, seed=seed))
    return made.with_columns(domain=pl.when(pl.Series(ad)).then(pl.lit("ad")).otherwise(pl.lit("natural")))


def backlog(rows: int) -> pl.DataFrame:
    """Three days of events up to now."""
    now = int(time.time() * 1000)
    ts = np.linspace(now - 3 * DAY_MS, now, rows).astype(np.int64)
    return events(rows, seed=0).with_columns(ts=pl.Series(ts))


# -- the worker's process


def work(config: Path, backlog_rows: int, out: Path) -> int:
    """Train until SIGTERM; print the rate of the backlog's second half, then record when each range of offsets is learned."""
    settings = load_settings(config, environ={}).settings
    learned: list[tuple[int, str, int, int, int]] = []
    done, half = 0, (0.0, 0)

    def watch(engine: Engine, _kind: str, batch: Batch) -> None:
        nonlocal done, half
        now = time.monotonic_ns()
        before, done = done, done + len(batch)
        learned.extend((now, p.topic, p.partition, p.first, p.end) for p in batch.parts)
        if before < 0.5 * backlog_rows <= done:
            half = now / 1e9, done
        if before < 0.95 * backlog_rows <= done:
            rate = (done - half[1]) / (now / 1e9 - half[0])
            print(json.dumps({"rows_per_s": rate, "releases": engine.progress.releases}), flush=True)

    make_worker(settings, watch).run()
    columns = [np.array(column) for column in zip(*learned, strict=True)]
    np.savez(out, **dict(zip(("at", "topic", "partition", "first", "end"), columns, strict=True)))
    return 0


# -- the sender


class Sender:
    """Sends events at a steady rate and records when each was passed to the producer, by partition in order."""

    def __init__(self, settings: Settings) -> None:
        rows = events(POOL, seed=1)
        topics = {"natural": settings.topics.natural, "ad": settings.topics.ad}
        partitions = settings.topics.partitions
        self.pool = [
            (
                topics[row.pop("domain")],
                partition_of(str(row["user_id"]).encode(), partitions),
                str(row["user_id"]).encode(),
                msgspec.json.encode({k: v for k, v in row.items() if k != "ts"})[1:],
            )
            for row in rows.iter_rows(named=True)
        ]
        self.sent: dict[Key, array[int]] = {
            (t, p): array("q") for t in topics.values() for p in range(partitions)
        }
        self._producer = KafkaProducer(
            **settings.kafka.kafka_python(),
            acks="all", enable_idempotence=True, linger_ms=LINGER_MS, batch_size=64 * 1024, metrics_enabled=False,
        )  # fmt: skip

    def run(self, rows_per_s: float, seconds: float) -> float:
        """Send for this time; returns rows per second."""
        pool = self._pool()
        began, done = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            for _ in range(int(rows_per_s * passed) - done):
                topic, partition, key, body = next(pool)
                value = b'{"ts":%d,' % (time.time_ns() // 1_000_000) + body
                self.sent[topic, partition].append(time.monotonic_ns())
                self._producer.send(topic, value=value, key=key, partition=partition)
                done += 1
            time.sleep(TICK_S)
        self._producer.flush()
        self._producer.close()
        return done / seconds

    def _pool(self) -> Iterator[tuple[str, int, bytes, bytes]]:
        while True:
            yield from self.pool


def ages(
    learned: dict[str, np.ndarray],
    sent: dict[Key, array[int]],
    first: dict[Key, int],
    topic: str,
    seconds: float,
) -> np.ndarray:
    """Seconds from sending to learning of the counted events; infinite for an event that was never learned."""
    began = min(times[0] for times in sent.values() if times)
    out = []
    for (name, partition), times in sent.items():
        if name != topic or not times:
            continue
        at = np.full(first[name, partition] + len(times), np.inf)
        mine = (learned["topic"] == name) & (learned["partition"] == partition)
        for when, start, end in zip(
            learned["at"][mine], learned["first"][mine], learned["end"][mine], strict=True
        ):
            at[start:end] = when
        sent_at = np.array(times, np.float64)
        since = (sent_at - began) / 1e9
        counted = (since >= WARM_S) & (since < WARM_S + seconds)
        out.append(((at[first[name, partition] :] - sent_at) / 1e9)[counted])
    return np.concatenate(out)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="counted seconds at half load")
    parser.add_argument("--backlog", type=int, default=200_000, help="rows for the measurement of full load")
    parser.add_argument("--short", action="store_true", help="20 seconds, a backlog of 100,000 rows")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    add_option(parser)
    options = parser.parse_args()
    if options.worker:
        return work(Path(options.worker[0]), int(options.worker[1]), Path(options.worker[2]))
    seconds = 20.0 if options.short else options.seconds
    rows = 100_000 if options.short else options.backlog
    with tempfile.TemporaryDirectory() as place, running(options.brokers) as address:
        folder = Path(place)
        settings = configure(folder, address)
        config, out = folder / "ecdctr.toml", folder / "learned.npz"
        config.write_text(dump_toml(settings), encoding="utf-8")
        ensure_topics(settings.kafka, settings.topics)
        produce([backlog(rows)], settings.kafka, settings.topics)
        with factory.kafka_log(settings, factory.decoder(settings)) as log:
            first = log.end(log.partitions())
        sender = Sender(settings)
        with (folder / "worker.log").open("w") as errors, subprocess.Popen(
            [sys.executable, __file__, "--worker", str(config), str(rows), str(out)],
            stdout=subprocess.PIPE, stderr=errors, text=True,
        ) as worker:  # fmt: skip
            assert worker.stdout is not None
            try:
                full = json.loads(worker.stdout.readline() or "null")
                if full is None:
                    raise RuntimeError((folder / "worker.log").read_text()[-2000:])
                rate = sender.run(full["rows_per_s"] / 2, WARM_S + seconds + TAIL_S)
            finally:
                worker.send_signal(signal.SIGTERM)
        with np.load(out) as saved:
            learned = {name: saved[name] for name in saved.files}
    found = {
        domain: ages(learned, sender.sent, first, topic, seconds)
        for domain, topic in (("ad", settings.topics.ad), ("natural", settings.topics.natural))
    }
    print(
        f"full load {full['rows_per_s']:,.0f} rows/s; {rate:,.0f} rows/s sent for {seconds:.0f} s; CPM releases before: {full['releases']}"
    )
    print("domain     events    p50 s    p99 s    max s")
    for domain, age in found.items():
        print(
            f"{domain:<8} {len(age):>8,} {np.quantile(age, 0.5):>8.3f} {np.quantile(age, 0.99):>8.3f} {age.max():>8.3f}"
        )
    result = {
        "brokers": options.brokers,
        "p50_s": round(float(np.quantile(found["ad"], 0.5)), 3),
        "p99_s": round(float(np.quantile(found["ad"], 0.99)), 3),
        "load": round(rate / full["rows_per_s"], 2),
        "rows_per_s": round(rate),
        "full_rows_per_s": round(full["rows_per_s"]),
        "never_learned": int(np.isinf(found["ad"]).sum()),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
