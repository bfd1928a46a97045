"""Click topics of a test, an intake that stores the chunks it receives, and a running app between them."""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Callable
from contextlib import asynccontextmanager

import numpy as np
import polars as pl
from kafka import KafkaProducer

from ecdctr.events.decoder import EventDecoder
from ecdctr.events.settings import FeatureSpec, KafkaSettings
from ecdctr.streams.app import StreamApp, run_app
from ecdctr.streams.dead_letters import MemoryDeadLetters
from ecdctr.streams.settings import TopicSettings, WorkerSettings
from ecdctr.streams.topics import ensure_topics
from tests.support.brokers import Broker, OwnBroker, unique_name
from tests.support.topics import read_topic
from tests.support.waiting import PATIENCE_S

SPECS = (FeatureSpec(name="site", buckets=50), FeatureSpec(name="price", kind="numeric"))


class MemoryIntake:
    """Stores chunks; fails on any that does not begin where the previous one ended."""

    def __init__(self, positions: dict[tuple[str, int], int] | None = None) -> None:
        self.positions = defaultdict(int, positions or {})
        self.ends: dict[tuple[str, int], int] = {}
        self.chunks = defaultdict(list)
        self.full: Callable[[str, int], bool] = lambda topic, partition: False

    def position(self, topic: str, partition: int) -> int | None:
        return self.positions[(topic, partition)]

    def wants(self, topic: str, partition: int) -> bool:
        return not self.full(topic, partition)

    def set_end(self, topic: str, partition: int, end: int) -> None:
        self.ends[(topic, partition)] = end

    async def put(self, chunk) -> None:
        key = (chunk.topic, chunk.partition)
        assert chunk.first == self.positions[key], "the chunk is a gap or a redelivery"
        assert ((chunk.offset >= chunk.first) & (chunk.offset < chunk.end)).all()
        self.positions[key] = chunk.end
        self.chunks[key].append(chunk)

    def offsets(self, topic: str) -> dict[int, list[int]]:
        """Offsets of all rows, by partition, in order of arrival."""
        return {
            p: np.concatenate([c.offset for c in chunks]).tolist()
            for (t, p), chunks in sorted(self.chunks.items())
            if t == topic
        }

    @property
    def rows(self) -> int:
        return sum(len(c.batch) for chunks in self.chunks.values() for c in chunks)


class Streams:
    """Two topics of one test, and methods that send to them and read them.

    Parameters
    ----------
    broker
        A broker of a fixture, or an address.
    create
        Create the topics.
    """

    def __init__(self, broker: Broker | OwnBroker | str, partitions: int = 2, create: bool = True) -> None:
        name = unique_name("t")
        self.connection = KafkaSettings(brokers=broker if isinstance(broker, str) else broker.address)
        self.topics = TopicSettings(natural=f"{name}-natural", ad=f"{name}-ad", partitions=partitions)
        self.worker = WorkerSettings(group=f"{name}-group", poll_records=200)
        self.decoder = EventDecoder(SPECS, max_string=40)
        self.partitions = partitions
        if create:
            ensure_topics(self.connection, self.topics)

    def send(self, topic: str, values, partition: int | None = None, headers=None) -> None:
        producer = KafkaProducer(**self.connection.kafka_python(), linger_ms=5)
        futures = [
            producer.send(
                topic,
                value=value,
                headers=headers,
                partition=i % self.partitions if partition is None else partition,
            )
            for i, value in enumerate(values)
        ]
        for future in futures:
            future.get(timeout=PATIENCE_S)
        producer.close()

    def read(self, topic: str) -> list:
        """All records of a topic, by partition."""
        return read_topic(self.connection, topic)

    def app(self, intake, dead_letters=None, kind=StreamApp) -> StreamApp:
        sink = MemoryDeadLetters() if dead_letters is None else dead_letters
        return kind(self.connection, self.topics, self.worker, self.decoder, intake, sink)


@asynccontextmanager
async def running(app: StreamApp):
    """Run the app in this event loop; yields a coroutine function that waits for a condition."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_app(app, stop))

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                if task.done():
                    task.result()
                    raise AssertionError("the app ended by itself")
                await asyncio.sleep(0.01)

    try:
        yield until
    finally:
        stop.set()
        await task


def event(i: int, **changes) -> bytes:
    """One valid event as JSON."""
    fields = {
        "event_id": f"e{i}",
        "ts": 1_700_000_000_000 + i,
        "user_id": f"u{i % 17}",
        "item_id": i % 5,
        "label": i % 2,
        "site": "s",
        "price": 1.5,
    }
    return json.dumps({k: v for k, v in {**fields, **changes}.items() if v is not ...}).encode()


def frame(rows: int, ad_every: int = 4, seed: int = 0) -> pl.DataFrame:
    """An event frame in event order."""
    rng = random.Random(seed)
    return pl.DataFrame(
        {
            "domain": ["ad" if i % ad_every == 0 else "natural" for i in range(rows)],
            "event_id": list(range(rows)),
            "ts": [1_700_000_000_000 + i for i in range(rows)],
            "user_id": [f"u{rng.randrange(30)}" for _ in range(rows)],
            "item_id": [rng.randrange(9) for _ in range(rows)],
            "label": [rng.randrange(2) for _ in range(rows)],
            "site": [rng.choice(["a", "b", None]) for _ in range(rows)],
            "price": [rng.random() for _ in range(rows)],
        }
    )
