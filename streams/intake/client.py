"""``click_consumer``: the aiokafka consumer that reads the click topics, without a group."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import create_conn
from aiokafka.errors import CorruptRecordException, KafkaError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest

from ecdctr.streams.intake.throttle import Throttle

__all__ = ["REQUEST_TIMEOUT_S", "click_consumer", "pace_fetches"]

REQUEST_TIMEOUT_S = 10.0
"""A broker that has accepted a request and has not answered it for this long is given up, and the connection to it closed.

A broker that hangs costs one request and one attempt to connect again, before the brokers name another leader: two to
three times this. No request waits on purpose for longer than 100 ms (``fetch_max_wait_ms``)."""
CONNECT_S = 5.0
"""A broker with which no connection is made within this time is given up for the moment."""
_SILENT_S = 30.0
"""For this time after it has not answered, a broker is asked for metadata only if no other one answers."""
_METADATA_AGE_S = 10.0
_METADATA_TIMEOUT_S = 4.0
_METADATA_PAUSE_S = 0.25
"""Least time between two requests for metadata: without it, a partition without a leader makes aiokafka repeat them without
a pause."""
_LEAST_FETCH_S = 0.02
"""Least duration of a fetch that returns nothing: a broker that is no longer the leader returns an error at once, and aiokafka
repeats the request until its metadata is new."""
_FETCH_MAX_BYTES = 16 * 1024 * 1024
"""Bytes of one response: within :data:`REQUEST_TIMEOUT_S` even through a line of 15 Mbit/s."""


def click_consumer(
    connection: Mapping[str, Any],
    *,
    poll_records: int,
    fetch_bytes: int,
    fetch_max_wait_ms: int,
    throttle: Throttle | None = None,
) -> AIOKafkaConsumer:
    """A consumer of committed records, whose partitions and positions are set by the caller.

    Its client never creates a topic by asking for one.

    Parameters
    ----------
    connection
        Brokers and security, as aiokafka's clients take them.
    poll_records
        Records taken at a time.
    fetch_bytes
        Bytes fetched from a partition at a time.
    fetch_max_wait_ms
        How long a broker waits for records before it answers a fetch with none.
    throttle
        Is told how long brokers ask to wait because a quota is used up; the consumer waits as they ask.
    """
    common = {
        **connection,
        "client_id": "ecdctr",
        "request_timeout_ms": int(1000 * REQUEST_TIMEOUT_S),
        "metadata_max_age_ms": int(1000 * _METADATA_AGE_S),
    }
    consumer = AIOKafkaConsumer(
        **common,
        group_id=None,
        enable_auto_commit=False,
        # An offset that is not there is an error: no position changes by itself.
        auto_offset_reset="none",
        isolation_level="read_committed",
        max_poll_records=poll_records,
        max_partition_fetch_bytes=fetch_bytes,
        fetch_max_bytes=max(fetch_bytes, _FETCH_MAX_BYTES),
        fetch_max_wait_ms=fetch_max_wait_ms,
    )
    consumer._client = _Client(throttle or Throttle(), **common)
    return consumer


class _Client(AIOKafkaClient):  # type: ignore[misc]
    """A client that pauses between requests for metadata, and that creates no topic by asking for it.

    A broker that hangs accepts connections and does not answer. To wait for it as seldom as possible,

    1. the start connects to all configured addresses at once, and uses the first that answers;
    2. brokers that have not answered lately are asked for metadata last, and those to which there is a connection first;
    3. a connection that is being made does not keep connections to other brokers waiting, as it does in aiokafka.

    A broker whose quota is used up does not read the connection for a while either: it says for how long, and is not asked to
    deliver before (:class:`Throttle`).
    """

    def __init__(self, throttle: Throttle, **options: Any) -> None:
        super().__init__(**options)
        self._throttle = throttle
        self._updated_at = -float("inf")
        self._answered: tuple[str, int] | None = None
        self._silent_at: dict[Any, float] = {}
        self._damaged: set[TopicPartition] = set()
        self._connecting: dict[Any, asyncio.Lock] = {}

    def take_damaged(self) -> set[TopicPartition]:
        """The partitions for which a broker has returned since the last call that it cannot read its own records.

        aiokafka repeats the request without a message.
        """
        found, self._damaged = self._damaged, set()
        return found

    async def send(self, node_id: Any, request: Any, **options: Any) -> Any:
        if not isinstance(request, FetchRequest):
            return await super().send(node_id, request, **options)
        await asyncio.sleep(self._throttle.wait_s(node_id))
        response = await super().send(node_id, request, **options)
        self._throttle.answered(node_id, getattr(response, "throttle_time_ms", 0))
        self._damaged |= {
            TopicPartition(topic, partition)
            for topic, partitions in response.topics
            for partition, code, *_ in partitions
            if code == CorruptRecordException.errno
        }
        return response

    # -- 1

    async def bootstrap(self) -> None:
        addresses = [(host, port) for host, port, _ in self.hosts]
        self._answered = await self._first_to_answer(addresses) if len(addresses) > 1 else addresses[0]
        await super().bootstrap()

    @property
    def hosts(self) -> list[Any]:
        return sorted(super().hosts, key=lambda host: (host[0], host[1]) != self._answered)

    async def _first_to_answer(self, addresses: list[tuple[str, int]]) -> tuple[str, int] | None:
        tasks = [asyncio.ensure_future(self._answer(address)) for address in addresses]
        try:
            for done in asyncio.as_completed(tasks):
                with contextlib.suppress(OSError, TimeoutError, KafkaError):
                    return await done
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return None

    async def _answer(self, address: tuple[str, int]) -> tuple[str, int]:
        async with asyncio.timeout(CONNECT_S):
            connection = await create_conn(
                *address,
                client_id=self._client_id,
                request_timeout_ms=self._request_timeout_ms,
                ssl_context=self._ssl_context,
                security_protocol=self._security_protocol,
                sasl_mechanism=self._sasl_mechanism,
                sasl_plain_username=self._sasl_plain_username,
                sasl_plain_password=self._sasl_plain_password,
                sasl_oauth_token_provider=self._sasl_oauth_token_provider,
            )
        connection.close()
        return address

    # -- 2

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        await asyncio.sleep(max(0.0, self._updated_at + _METADATA_PAUSE_S - time.monotonic()))
        try:
            return await self._ask_for_metadata(cluster_metadata, list(topics) if topics else None)
        finally:
            self._updated_at = time.monotonic()

    async def _ask_for_metadata(self, cluster_metadata: Any, topics: list[str] | None) -> bool:
        bootstrap = ("bootstrap", ConnectionGroup.DEFAULT)
        nodes: list[Any] = [broker.nodeId for broker in self.cluster.brokers()]
        if bootstrap in self._conns:
            nodes.append("bootstrap")
        random.shuffle(nodes)
        for node in sorted(nodes, key=self._rank):
            connection = await self._get_conn(node)
            if connection is None:
                self._silent_at[node] = time.monotonic()
                continue
            try:
                async with asyncio.timeout(_METADATA_TIMEOUT_S):
                    metadata = await connection.send(MetadataRequest(topics, False))
            except (KafkaError, TimeoutError):
                self._silent_at[node] = time.monotonic()
                continue
            self._silent_at.pop(node, None)
            if not metadata.brokers:
                return False
            cluster_metadata.update_metadata(metadata)
            if bootstrap in self._conns and self.cluster.brokers():
                self._conns.pop(bootstrap).close()
            return True
        cluster_metadata.failed_update(None)
        return False

    def _rank(self, node: Any) -> tuple[bool, bool, bool]:
        """Brokers with a smaller rank are asked earlier."""
        is_silent = time.monotonic() - self._silent_at.get(node, -float("inf")) < _SILENT_S
        is_connected = (node, ConnectionGroup.DEFAULT) in self._conns
        has_answered = self._answered is not None and any(
            broker.nodeId == node and (broker.host, broker.port) == self._answered
            for broker in self.cluster.brokers()
        )
        return is_silent, not is_connected, not has_answered

    # -- 3

    @property
    def _get_conn_lock(self) -> Any:
        return contextlib.nullcontext()  # in its place: one for each broker

    async def _get_conn(
        self, node_id: Any, *, group: Any = ConnectionGroup.DEFAULT, no_hint: bool = False
    ) -> Any:
        key = (node_id, group)
        connection = self._conns.get(key)
        if connection is not None and connection.connected():
            return connection
        try:
            async with self._connecting.setdefault(key, asyncio.Lock()), asyncio.timeout(CONNECT_S):
                return await super()._get_conn(node_id, group=group, no_hint=no_hint)
        except TimeoutError:
            self.force_metadata_update()
            return None


def pace_fetches(consumer: AIOKafkaConsumer) -> None:
    """Let fetches that return nothing take :data:`_LEAST_FETCH_S` at least; called once, after the consumer's start."""
    fetcher = consumer._fetcher
    fetch = fetcher._proc_fetch_request

    async def paced(assignment: Any, node: int, request: Any) -> bool:
        began, asked_s = time.monotonic(), fetcher._fetch_max_wait_ms / 1000
        found: bool = await fetch(assignment, node, request)
        took = time.monotonic() - began
        if not found and took < 0.8 * asked_s:
            await asyncio.sleep(_LEAST_FETCH_S - took)
        return found

    fetcher._proc_fetch_request = paced
