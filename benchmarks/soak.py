"""A worker that runs for a long time: resident memory, rows per second, file handles and disk must not grow with the rows learned.

    python benchmarks/soak.py [--short] [--rows 20000000]

A real worker learns packed events (16 fields, 100 k ids, one in twenty an ad) from the embedded broker; they are sent while
it runs, at most half a million rows ahead of it. The log covers twenty days of event time. The ad window, the scores and
the journal are retained for two days and CPM is released every day, so that all of them reach their full size after half of
the rows (including checkpoints, which depend on wall time): that is the warm-up. The monitor runs, without its port. All
events come from one pool, so that no new id makes another page of a table resident later.

Rates are compared over complete event days, of at least one minute of wall time: each contains one release and the same share
of checkpoints. The last line is one JSON object: ``memory_growth``, the median resident memory of the last tenth divided by
that of the first tenth after the warm-up, minus 1; ``rate_ratio``, rows/s of the last minute divided by those of the first.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

# Not from this folder: its modules have names that other packages use, too.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
sys.path.append(str(HERE.parent))

import numpy as np
import polars as pl

from benchmarks._clicks import START_MS, clicks, names, per_field
from benchmarks._events import frame
from benchmarks._worker import make_worker
from ecdctr import factory
from ecdctr.events.batch import Batch
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import DAY_MS
from ecdctr.models.training import Engine
from ecdctr.settings import Settings, dump_toml, load_settings
from ecdctr.streams.embedded import EmbeddedBroker
from ecdctr.streams.producer import produce
from ecdctr.streams.topics import ensure_topics

IDS, POOL, AHEAD, DAYS = 100_000, 100_000, 500_000, 20
EVERY_S = 1.0
WARM = 0.5

Sample = dict[str, float]


def configure(folder: Path, address: str) -> Settings:
    settings = load_settings(
        None,
        [
            f'kafka.brokers=["{address}"]',
            f'state.folder="{folder}/state"',
            "state.score_days=2",
            "state.journal_keep_days=2",
            "state.checkpoint_every_s=10",
            "schedule.ad_window_days=2",
            "schedule.gate_days=1",
            'schedule.release_every="1d"',
            "monitor.port=0",
            "monitor.alerts_topic=''",
        ],
        environ={},
    ).settings
    features = [FeatureSpec(name=name, buckets=2 * per_field(IDS)) for name in names()]
    return factory.use_features(settings, features, configured=False)


def work(config: Path) -> int:
    """Train until SIGTERM, and print the number of rows and the event time every second."""
    settings = load_settings(config, environ={}).settings
    rows, printed = 0, 0.0

    def watch(engine: Engine, _kind: str, batch: Batch) -> None:
        nonlocal rows, printed
        rows += len(batch)
        now = time.monotonic()
        if now - printed >= EVERY_S:
            printed = now
            print(json.dumps({"rows": rows, "day": (engine.clock - START_MS) / DAY_MS}), flush=True)

    return make_worker(settings, watch).run()


class Supply(threading.Thread):
    """Sends the log, a bounded number of rows ahead of the worker."""

    def __init__(self, settings: Settings, rows: int) -> None:
        super().__init__(daemon=True)
        self.settings, self.rows = settings, rows
        self.learned = 0
        self.error: BaseException | None = None
        ad = np.arange(POOL) % 20 == 19
        self._pool = frame(*clicks(POOL, IDS)).with_columns(
            domain=pl.when(pl.Series(ad)).then(pl.lit("ad")).otherwise(pl.lit("natural"))
        )

    def run(self) -> None:
        try:
            for first in range(0, self.rows, POOL):
                while first - self.learned > AHEAD:
                    time.sleep(0.05)
                ts = START_MS + (np.arange(first, first + POOL) * (DAYS * DAY_MS / self.rows)).astype(
                    np.int64
                )
                part = self._pool.with_columns(ts=pl.Series(ts))
                produce([part], self.settings.kafka, self.settings.topics, packed=256)
        except BaseException as error:
            self.error = error


def measure(pid: int, folder: Path) -> Sample:
    """Resident MiB, open file handles, MiB on disk."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    disk = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                disk += (Path(root) / name).stat().st_size
            except FileNotFoundError:  # deleted in the meantime
                continue
    return {
        "at": time.monotonic(),
        "mib": resident / 2**20,
        "handles": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
        "disk": disk / 2**20,
    }


def run(folder: Path, rows: int) -> list[Sample]:
    """The measurements of each second."""
    samples: list[Sample] = []
    with EmbeddedBroker() as broker:
        settings = configure(folder, broker.address)
        config = folder / "ecdctr.toml"
        config.write_text(dump_toml(settings), encoding="utf-8")
        ensure_topics(settings.kafka, settings.topics)
        supply = Supply(settings, rows)
        supply.start()
        log = folder / "worker.log"
        with log.open("w") as errors, subprocess.Popen(
            [sys.executable, __file__, "--worker", str(config)],
            stdout=subprocess.PIPE, stderr=errors, text=True,
        ) as worker:  # fmt: skip
            assert worker.stdout is not None
            shown = 0.0
            try:
                for line in worker.stdout:
                    report = json.loads(line)
                    supply.learned = report["rows"]
                    samples.append({**report, **measure(worker.pid, settings.state.folder)})
                    if time.monotonic() - shown > 30:
                        shown = time.monotonic()
                        print_sample(samples)
                    if supply.error is not None:
                        raise supply.error
                    if report["rows"] >= rows - 50_000:  # the last rows wait in the aligner for later ones
                        break
            finally:
                worker.send_signal(signal.SIGTERM)
        if worker.returncode:
            raise RuntimeError(
                f"the worker ended with exit code {worker.returncode}:\n{log.read_text()[-2000:]}"
            )
    return samples


def print_sample(samples: list[Sample]) -> None:
    """One line of the table."""
    now, before = samples[-1], samples[max(0, len(samples) - 31)]
    rate = (now["rows"] - before["rows"]) / max(1e-9, now["at"] - before["at"])
    print(
        f"{now['rows']:>12,.0f} {rate:>8,.0f} {now['mib']:>8,.0f} {now['handles']:>8.0f} {now['threads']:>8.0f} "
        f"{now['disk']:>8,.0f}",
        flush=True,
    )


def minute_rates(samples: list[Sample]) -> tuple[float, float]:
    """Rows/s over the first complete days after the warm-up, and over the last ones, at least a minute each if available."""
    warm = [s for s in samples if s["day"] >= WARM * DAYS]
    begins = [
        next(s for s in warm if s["day"] >= day)
        for day in range(int(warm[0]["day"]) + 1, int(warm[-1]["day"]) + 1)
    ]
    if len(begins) < 3:
        raise RuntimeError("too few event days behind the warm-up: give more --rows")
    first = next((s for s in begins[1:] if s["at"] - begins[0]["at"] >= 60), begins[-1])
    last = next((s for s in reversed(begins[:-1]) if begins[-1]["at"] - s["at"] >= 60), begins[0])

    def rate(a: Sample, b: Sample) -> float:
        return (b["rows"] - a["rows"]) / (b["at"] - a["at"])

    return rate(begins[0], first), rate(last, begins[-1])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000_000, help="rows to learn")
    parser.add_argument("--short", action="store_true", help="2,000,000 rows")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker)
    rows = 2_000_000 if options.short else options.rows
    print("        rows   rows/s      MiB  handles  threads   disk MiB", flush=True)
    with tempfile.TemporaryDirectory() as place:
        samples = run(Path(place), rows)
    warm = [s for s in samples if s["day"] >= WARM * DAYS]
    tenth = max(1, len(warm) // 10)

    def medians(name: str) -> tuple[float, float]:
        values = [s[name] for s in warm]
        return float(np.median(values[:tenth])), float(np.median(values[-tenth:]))

    (mib, mib_end), (handles, handles_end), (disk, disk_end) = map(medians, ("mib", "handles", "disk"))
    first, last = minute_rates(samples)
    print(
        json.dumps(
            {
                "memory_growth": round(mib_end / mib - 1, 3),
                "rate_ratio": round(last / first, 3),
                "rows": rows,
                "rows_per_s": [round(first), round(last)],
                "mib": [round(mib), round(mib_end)],
                "handles": [round(handles), round(handles_end)],
                "disk_mib": [round(disk), round(disk_end)],
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
