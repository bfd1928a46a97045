"""``AssignedThread``: the thread of Faust's consumer, to which every partition of its topics is assigned, without a group."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP
from mode.services import Service
from mode.threads import WorkerThread

from ecdctr.events.kafka import observe_fetches
from ecdctr.streams.intake.client import click_consumer, pace_fetches

__all__ = ["AssignedThread"]

log = logging.getLogger("ecdctr.consumer")

LOOK_EVERY_S = 4.0
"""Interval of the search for new partitions."""


class _DaemonThread(WorkerThread):  # type: ignore[misc]
    """A thread that does not outlive the process, and whose error the app reports: it prints no traceback."""

    def __init__(self, service: Any, **kwargs: Any) -> None:
        super().__init__(service, **kwargs)
        self.daemon = True

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            log.debug("the consumer's thread ended: %r", error)


def _nothing() -> None:
    pass


class AssignedThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """Assigns every partition of the subscribed topics to its consumer, and those that are added later.

    A worker needs every partition and keeps its own positions, so that a consumer group would give it only ways to fail: time to
    join, other members, rebalances, session time-outs, the coordinator's errors. The lock on the state folder takes the place of the
    group's fencing.

    1. :meth:`subscribe` and a timer ask for the partitions of the topics. A topic that the brokers do not show at the moment keeps
       the partitions that it had.
    2. If there are new ones, the app stops the flow, as in a rebalance (``on_partitions_revoked``).
    3. All partitions are assigned anew, and each is sought to the position that the application names, before anything else runs in
       this thread: aiokafka would otherwise look for committed offsets.
    4. The app continues the flow (``on_partitions_assigned``).

    Steps 2 to 4 are a task of their own: the app's part waits until :meth:`subscribe` has returned.
    """

    Worker = _DaemonThread
    mundane_level = "debug"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._names: frozenset[str] = frozenset()
        self._assigned: frozenset[TP] = frozenset()
        self._assigning: asyncio.Task[None] | None = None

    # -- start and end

    async def on_start(self) -> None:
        """Connect; a stop that is requested meanwhile is not kept waiting."""
        consumer = self._consumer = self._create_consumer(loop=self.thread_loop)
        self.time_started = time.monotonic()
        starting = asyncio.ensure_future(consumer.start())
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                pace_fetches(consumer)
        finally:
            for task in (starting, stopped):
                task.cancel()
            await asyncio.gather(starting, stopped, return_exceptions=True)

    def _create_worker_consumer(self, transport: Any) -> Any:  # noqa: ARG002
        made = click_consumer(
            self.consumer.app.client_options,
            poll_records=self.app.conf.broker_max_poll_records,
            fetch_bytes=self.app.conf.consumer_max_fetch_size,
            fetch_max_wait_ms=self.consumer.IDLE_WAIT_MS,
            throttle=self.consumer.app.throttle,
        )
        if self.consumer.app.epochs is not None:
            observe_fetches(made._client, self.consumer.app.epochs)
        return made

    def close(self) -> None:
        """Does nothing: Faust would close the connections in another loop than theirs; the end of this thread closes them."""

    async def _wakeup_timer_in_thread(self) -> None:
        """Wake the app's loop. Faust passes it a coroutine, which is never awaited if the loop ends first."""
        self.last_wakeup_at = time.monotonic()
        await asyncio.sleep(0)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.parent_loop.call_soon_threadsafe(_nothing)

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Log the error, which the app reports, instead of printing its traceback."""
        log.debug(msg.format(*fmt), exc_info=True)

    # -- partitions

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Assign the partitions of these topics."""
        self._names = frozenset(topics)
        await self.call_thread(self._look)

    @Service.task  # type: ignore[untyped-decorator]
    async def _look_again(self) -> None:
        async for _ in self.itertimer(LOOK_EVERY_S, name="partitions"):
            if self._names:
                await self._look()

    async def _look(self) -> None:
        client = self._ensure_consumer()._client
        client.set_topics(self._names)
        await client.force_metadata_update()
        found = {TP(name, p) for name in self._names for p in client.cluster.partitions_for_topic(name) or ()}
        busy = self._assigning is not None and not self._assigning.done()
        if found - self._assigned and not busy:
            partitions = self._assigned | found
            self._assigning = asyncio.ensure_future(self._assign(partitions))

    async def _assign(self, partitions: frozenset[TP]) -> None:
        try:
            self.app.on_rebalance_start()
            if self._assigned:  # 2
                await self.on_partitions_revoked(set(self._assigned))
            asked = asyncio.run_coroutine_threadsafe(self.consumer.positions_of(partitions), self.parent_loop)
            positions = await asyncio.wrap_future(asked)
            self._ensure_consumer().assign([TopicPartition(*tp) for tp in sorted(positions)])  # 3
            self.consumer.seek_now(positions)
            self._assigned = partitions
            self.app.consumer_generation_id = 0
            await self.on_partitions_assigned(set(positions), 0)  # 4
        except (KafkaError, RuntimeError) as error:
            if not self.should_stop:
                await self.crash(error)

    def topic_partitions(self, topic: str) -> int | None:
        """Number of partitions of a topic, if it is known."""
        if self._consumer is None:
            return None
        found = self._consumer.partitions_for_topic(topic)
        return None if found is None else len(found)
