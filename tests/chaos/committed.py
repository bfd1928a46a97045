"""What the click topics really hold, by a client that has nothing in common with the worker's own code."""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from tests.support.waiting import PATIENCE_S, wait_for

__all__ = ["CommittedReader"]

Key = tuple[str, int]


class _Event(msgspec.Struct):
    event_id: str


class CommittedReader:
    """Reads all committed records of some topics as they come, in a thread of its own.

    Records of open and of aborted transactions, and the markers of transactions, are no committed records.

    Parameters
    ----------
    brokers
        ``host:port``, with commas.
    topics
        ``{topic: number of its partitions}``.
    """

    def __init__(self, brokers: str, topics: Mapping[str, int]) -> None:
        self._brokers = brokers
        self._tps = [TopicPartition(topic, p) for topic, n in topics.items() for p in range(n)]
        self.offsets: dict[Key, list[int]] = {(tp.topic, tp.partition): [] for tp in self._tps}
        """Offsets of the committed records, by partition."""
        self._came_at: dict[Key, list[float]] = defaultdict(list)
        self.ids: Counter[str] = Counter()
        """How many committed records have an ``event_id``."""
        self._next = dict.fromkeys(self._tps, 0)
        self._ends: dict[TopicPartition, int] = {}
        self._asked = 0
        self._answered = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="committed", daemon=True)

    def __enter__(self) -> CommittedReader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def rows(self) -> int:
        """Committed records so far."""
        with self._lock:
            return sum(map(len, self.offsets.values()))

    def waiting(self, positions: Mapping[Key, int]) -> tuple[int, float]:
        """Number of committed records at or after these positions, and for how many seconds the oldest of them is known."""
        if self._error is not None:
            raise RuntimeError("the committed records are no longer read") from self._error
        with self._lock:
            now = time.monotonic()
            count, age = 0, 0.0
            for key, offsets in self.offsets.items():
                first = bisect_left(offsets, positions.get(key, 0))
                if first < len(offsets):
                    count += len(offsets) - first
                    age = max(age, now - self._came_at[key][first])
            return count, age

    def catch_up(self) -> None:
        """Return when everything that is committed at the time of the call has been read."""
        with self._lock:
            self._asked += 1
            wanted = self._asked

        def done() -> bool:
            with self._lock:
                return self._answered >= wanted and all(self._next[tp] >= e for tp, e in self._ends.items())

        wait_for(done, "read the committed records", within_s=2 * PATIENCE_S, every_s=0.1)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self._error = error

    async def _run(self) -> None:
        while not self._stop.is_set():
            # Short limits: a broker that hangs or dies is left for the new leaders within seconds.
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._brokers, group_id=None, enable_auto_commit=False,
                isolation_level="read_committed", auto_offset_reset="earliest", fetch_max_wait_ms=200,
                request_timeout_ms=3_000, metadata_max_age_ms=1_000, retry_backoff_ms=100,
            )  # fmt: skip
            try:
                await consumer.start()
                consumer.assign(self._tps)
                for tp, offset in self._next.items():
                    consumer.seek(tp, offset)
                await self._read(consumer)
            except (KafkaError, OSError):
                await asyncio.sleep(0.2)
            finally:
                # It awaits tasks that it has cancelled, and one that fails at that moment cancels its caller.
                with suppress(asyncio.CancelledError, KafkaError):
                    await consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        while not self._stop.is_set():
            if (asked := self._asked) > self._answered:
                ends = await consumer.end_offsets(self._tps)
                with self._lock:
                    self._ends, self._answered = ends, asked
            found = await consumer.getmany(timeout_ms=100)
            with self._lock:
                now = time.monotonic()
                for tp, records in found.items():
                    key = (tp.topic, tp.partition)
                    self.offsets[key] += [r.offset for r in records]
                    self._came_at[key] += [now] * len(records)
                    self.ids.update(msgspec.json.decode(r.value, type=_Event).event_id for r in records)
            for tp in self._tps:
                position = await consumer.position(tp)
                with self._lock:
                    self._next[tp] = position
