"""The consumer's client repeats nothing without a pause, and prefers brokers to which it is connected."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

from aiokafka.client import ConnectionGroup

from ecdctr.streams.intake import client


class Connection:
    """Answers a request for metadata at once, or never."""

    def __init__(self, hangs: bool = False) -> None:
        self.hangs, self.asked = hangs, 0
        self.request = None

    async def send(self, request):
        self.asked += 1
        self.request = request
        if self.hangs:
            await asyncio.Event().wait()
        return SimpleNamespace(brokers=[1])


def made(**connections):
    """A client, not connected, whose metadata names the brokers 0, 1 and 2; ``connections``: to which it is connected."""
    consumer = client.click_consumer(
        {"bootstrap_servers": "127.0.0.1:1"}, poll_records=10, fetch_bytes=1000, fetch_max_wait_ms=100
    )
    found = consumer._client
    found._conns = {(int(name[1:]), ConnectionGroup.DEFAULT): c for name, c in connections.items()}
    found.cluster = SimpleNamespace(
        brokers=lambda: [SimpleNamespace(nodeId=i) for i in range(3)],
        update_metadata=lambda _: None,
        failed_update=lambda _: None,
    )

    async def connect(node):
        if (node, ConnectionGroup.DEFAULT) not in found._conns:
            raise AssertionError("connected anew although another broker answers")
        return found._conns[(node, ConnectionGroup.DEFAULT)]

    found._get_conn = connect
    consumer._closed = True
    return found


def test_a_connected_broker_is_asked_first_and_no_topic_is_created():
    async def main():
        connection = Connection()
        found = made(b2=connection)
        assert await found._metadata_update(found.cluster, {"t"})
        assert connection.request._allow_auto_topic_creation is False

    asyncio.run(main())


def test_a_broker_that_hangs_is_passed_over(monkeypatch):
    monkeypatch.setattr(client, "_METADATA_TIMEOUT_S", 0.05)

    async def main():
        hanging, answering = [Connection(hangs=True), Connection(hangs=True)], Connection()
        found = made(b0=hanging[0], b1=answering, b2=hanging[1])
        assert await found._metadata_update(found.cluster, {"t"})
        assert answering.asked == 1

    asyncio.run(main())


def test_metadata_is_not_asked_for_without_a_pause(monkeypatch):
    monkeypatch.setattr(client, "_METADATA_PAUSE_S", 0.05)

    async def main():
        found = made(b0=Connection())
        began = time.monotonic()
        for _ in range(4):
            await found._metadata_update(found.cluster, {"t"})
        assert time.monotonic() - began >= 3 * 0.05

    asyncio.run(main())


def test_a_fetch_that_returns_nothing_at_once_takes_a_moment():
    async def main():
        answers = [False, True]

        async def fetch(*_):
            return answers.pop(0)

        fetcher = SimpleNamespace(_proc_fetch_request=fetch, _fetch_max_wait_ms=100)
        client.pace_fetches(SimpleNamespace(_fetcher=fetcher))
        began = time.monotonic()
        assert await fetcher._proc_fetch_request(None, 0, None) is False
        assert time.monotonic() - began >= client._LEAST_FETCH_S
        assert await fetcher._proc_fetch_request(None, 0, None) is True

    asyncio.run(main())
