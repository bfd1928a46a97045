"""The measured part of ``ingest.py``: a process on one core that reads a topic and prints its rate in rows per second.

    python benchmarks/_reader.py ours 127.0.0.1:9092 TOPIC --rows 300000 --core 1
    python benchmarks/_reader.py faust 127.0.0.1:9092 TOPIC --rows 40000 --core 1

``ours`` is the worker's Faust app, from the consumer to ``Batch``; ``faust`` is a Faust agent that takes lists of typed
records and discards them. The clock runs from the first list to the last. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
sys.path.append(str(Path(__file__).resolve().parent.parent))

TEXTS = [f"c{i}" for i in range(0, 10, 2)]
INTEGERS = [f"c{i}" for i in range(1, 10, 2)]
NUMBERS = [f"x{i}" for i in range(4)]
TAKE = 1000


class Clock:
    """Counts rows; the first list starts the clock and is not counted."""

    def __init__(self, rows: int) -> None:
        self.rows, self.done, self.first = rows, 0, 0
        self.began = self.cpu = 0.0
        self.all_in = asyncio.Event()

    def count(self, n: int) -> None:
        if not self.done:
            self.began, self.cpu, self.first = time.perf_counter(), time.process_time(), n
        self.done += n
        if self.done >= self.rows and not self.all_in.is_set():
            seconds, cpu = time.perf_counter() - self.began, time.process_time() - self.cpu
            counted = self.done - self.first
            self.result = {"rows_per_s": counted / seconds, "busy": cpu / seconds, "rows": counted}
            self.all_in.set()


async def ours(broker: str, topic: str, rows: int) -> dict[str, Any]:
    from ecdctr.events.align import Chunk
    from ecdctr.events.decoder import EventDecoder
    from ecdctr.events.settings import FeatureSpec, KafkaSettings
    from ecdctr.streams.app import StreamApp, run_app
    from ecdctr.streams.dead_letters import MemoryDeadLetters
    from ecdctr.streams.settings import TopicSettings, WorkerSettings

    class Intake:
        """Counts rows and discards them."""

        def __init__(self, clock: Clock) -> None:
            self.clock = clock
            self.positions: dict[tuple[str, int], int] = {}

        def position(self, name: str, partition: int) -> int | None:
            return self.positions.get((name, partition), 0)

        def wants(self, *_: object) -> bool:
            return True

        def set_end(self, *_: object) -> None:
            pass

        async def put(self, chunk: Chunk) -> None:
            self.positions[chunk.topic, chunk.partition] = chunk.end
            self.clock.count(len(chunk.batch))

    names = ["user_id", "item_id", *TEXTS, *INTEGERS]
    specs = [FeatureSpec(name=name, buckets=100_000) for name in names]
    specs += [FeatureSpec(name=name, kind="numeric", transform="log1p") for name in NUMBERS]
    clock = Clock(rows)
    app = StreamApp(
        KafkaSettings(brokers=(broker,)),
        TopicSettings(natural=topic, ad=f"{topic}-ads"),
        WorkerSettings(group=f"ours-{os.getpid()}"),
        EventDecoder(specs),
        Intake(clock),
        MemoryDeadLetters(),
    )
    await run_app(app, clock.all_in)
    return clock.result


async def stock(broker: str, topic: str, rows: int) -> dict[str, Any]:
    import faust

    kinds: dict[str, type] = {"event_id": int, "ts": int, "label": int}
    kinds |= dict.fromkeys(["user_id", *TEXTS], str) | dict.fromkeys(["item_id", *INTEGERS], int)
    kinds |= dict.fromkeys(NUMBERS, float)
    click = type("Click", (faust.Record,), {"__annotations__": kinds}, serializer="json")
    clock = Clock(rows)
    app = faust.App(
        f"faust-{os.getpid()}",
        broker=f"kafka://{broker}",
        broker_session_timeout=6,  # the shortest that Apache Kafka accepts
        broker_heartbeat_interval=1.5,
        broker_max_poll_records=5000,
        consumer_auto_offset_reset="earliest",
        store="memory://",
        topic_disable_leader=True,
        web_enabled=False,
    )
    clicks = app.topic(topic, value_type=click)

    async def read(stream: Any) -> None:
        async for taken in stream.take(TAKE, within=1.0):
            clock.count(len(taken))

    app.agent(clicks, name="clicks")(read)
    await app.start()
    await clock.all_in.wait()
    return clock.result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("side", choices=["ours", "faust"])
    parser.add_argument("broker")
    parser.add_argument("topic")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--core", type=int, default=-1, help="-1: any")
    options = parser.parse_args()
    os.environ["POLARS_MAX_THREADS"] = "1"
    if options.core >= 0:
        os.sched_setaffinity(0, {options.core})
    side = ours if options.side == "ours" else stock

    async def read() -> None:
        print(json.dumps(await side(options.broker, options.topic, options.rows)), flush=True)
        os._exit(0)  # Faust's own app restarts agents that are cancelled, and so does not end by itself

    asyncio.run(read())


if __name__ == "__main__":
    main()
