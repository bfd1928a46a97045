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


def test_a_broker_whose_quota_is_used_up_is_not_asked_before_the_time_it_names(monkeypatch):
    throttle_ms, asked = {1: 300, 2: 0}, []

    async def send(_client, node, _request, **_):
        asked.append((node, time.monotonic()))
        return SimpleNamespace(throttle_time_ms=throttle_ms[node], topics=[])

    monkeypatch.setattr("aiokafka.client.AIOKafkaClient.send", send)

    async def main():
        found, fetch = made(), client.FetchRequest(100, 1, 1000, 1, [])
        for node in (1, 1, 2):
            await found.send(node, fetch)
        (_, first), (_, second), (_, other) = asked
        assert second - first >= 0.3
        assert other - second < 0.3

    asyncio.run(main())


def test_a_broker_that_has_not_answered_is_asked_last(monkeypatch):
    monkeypatch.setattr(client, "_METADATA_TIMEOUT_S", 0.05)
    monkeypatch.setattr(client, "_METADATA_PAUSE_S", 0.0)

    async def main():
        hanging, answering = Connection(hangs=True), Connection()
        found = made(b0=hanging, b1=answering)
        for _ in range(10):
            assert await found._metadata_update(found.cluster, {"t"})
        assert (hanging.asked <= 1, answering.asked) == (True, 10)

    asyncio.run(main())


class Made:
    """What ``create_conn`` returns."""

    def connected(self):
        return True

    def close(self): ...


def unconnected(monkeypatch, brokers: str, hangs: set[int]):
    """A client whose connections to these ports are never made; all others are made at once."""

    async def create_conn(host, port, **_):
        if port in hangs:
            await asyncio.Event().wait()
        return Made()

    monkeypatch.setattr(client, "create_conn", create_conn)
    monkeypatch.setattr("aiokafka.client.create_conn", create_conn)
    consumer = client.click_consumer(
        {"bootstrap_servers": brokers.split(",")}, poll_records=10, fetch_bytes=1000, fetch_max_wait_ms=100
    )
    consumer._closed = True
    return consumer._client


def test_the_start_uses_the_first_address_that_answers(monkeypatch):
    async def main():
        found = unconnected(monkeypatch, "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3", hangs={1, 3})
        found._answered = await found._first_to_answer([("127.0.0.1", port) for port in (1, 2, 3)])
        assert found._answered == ("127.0.0.1", 2)
        for _ in range(20):
            assert found.hosts[0][:2] == ("127.0.0.1", 2)

    asyncio.run(main())


def test_no_address_that_answers_is_no_error_of_its_own(monkeypatch):
    monkeypatch.setattr(client, "CONNECT_S", 0.05)

    async def main():
        found = unconnected(monkeypatch, "127.0.0.1:1,127.0.0.1:3", hangs={1, 3})
        assert await found._first_to_answer([("127.0.0.1", 1), ("127.0.0.1", 3)]) is None
        assert {port for _, port, _ in found.hosts} == {1, 3}

    asyncio.run(main())


def test_a_connection_that_is_being_made_does_not_keep_others_waiting(monkeypatch):
    async def main():
        found = unconnected(monkeypatch, "127.0.0.1:1", hangs={1})
        found.cluster = SimpleNamespace(
            broker_metadata=lambda node: SimpleNamespace(host="127.0.0.1", port=node)
        )
        found.force_metadata_update = lambda: None
        waiting = asyncio.ensure_future(found._get_conn(1))
        await asyncio.sleep(0)
        assert isinstance(await found._get_conn(2), Made)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        monkeypatch.setattr(client, "CONNECT_S", 0.05)
        assert await found._get_conn(1) is None

    asyncio.run(main())
