"""The join of impressions and clicks: events per second of one core while many impressions wait.

    python benchmarks/join.py [--short] [--pending 10000000]

Impressions arrive at a steady rate with a tenth as many clicks, until their windows hold ``--pending`` of them. Then, for calls of three
sizes, 300,000 events are timed, during which as many windows end as begin: a look-up, an insertion, and a negative for most events. Labelled
impressions are remembered for a tenth of the window. Times are processor seconds of this process; RocksDB's own threads are in them.

The last line is one JSON object: ``events_per_s`` by events of a call, in memory; ``rocksdb`` the same with at most a million waiting.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

# Not from this folder: its modules have names that other packages use, too.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
sys.path.append(str(HERE.parent))

import numpy as np

from ecdctr.events.join import Joiner, JoinEvents, JoinSettings, JoinState, MemoryState, RocksState
from ecdctr.state.hashing import mix64

PER_MS = 10
"""Events of a millisecond of event time."""
TIMED = 300_000
FILL = 65_536
SIZES = (65_536, 8_192, 1_024)


class Stream:
    """Events of one partition, a tenth of them clicks on earlier impressions."""

    def __init__(self, joiner: Joiner) -> None:
        self.joiner, self.next = joiner, 0
        self.random = np.random.default_rng(0)

    def send(self, n: int) -> None:
        number = np.arange(self.next, self.next + n)
        is_click = self.random.random(n) < 0.1
        of = np.where(is_click, self.random.integers(0, self.next + 1, n), number)
        self.joiner.add(
            "log",
            0,
            JoinEvents(
                mix64(of.astype(np.uint64)),
                number // PER_MS,
                is_click,
                number,
                np.zeros(n, np.uint8),
                np.zeros(n, np.bool_),
                number,
            ),
        )
        self.joiner.take()
        self.next += n


def measure(pending: int, state: JoinState) -> dict[str, int]:
    window = max(1, pending // (9 * PER_MS) * 10)  # nine of ten events are impressions
    settings = JoinSettings(
        natural_window=f"{window}ms",
        remember=f"{max(1, window // 10)}ms",
        lateness="0s",
        tick="1s",
        max_pending=2 * pending + TIMED,
        max_closed=2 * pending + TIMED,
    )
    stream = Stream(Joiner(settings, [("log", 0)], state))
    while stream.next < 1.2 * window * PER_MS:
        stream.send(FILL)
    rates = {}
    for size in SIZES:
        calls = max(3, TIMED // size)
        began = time.process_time()
        for _ in range(calls):
            stream.send(size)
        rates[str(size)] = round(calls * size / (time.process_time() - began))
    print(f"{type(state).__name__}: {state.count(1):,} waiting; events/s by events of a call: {rates}")
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pending", type=int, default=10_000_000)
    parser.add_argument("--short", action="store_true", help="1,000,000 impressions wait, 100,000 in RocksDB")
    options = parser.parse_args()
    pending = 1_000_000 if options.short else options.pending
    memory = measure(pending, MemoryState())
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    on_disk = 100_000 if options.short else min(pending, 1_000_000)
    with tempfile.TemporaryDirectory(prefix="ecdctr-join-") as folder:
        state = RocksState(Path(folder) / "state")
        disk = measure(on_disk, state)
        state.close()
    print(
        json.dumps({"pending": pending, "events_per_s": memory, "peak_gib": round(gib, 2), "rocksdb": disk})
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
