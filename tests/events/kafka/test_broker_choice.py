"""A kafka-python client uses the broker that answers, beside others that accept connections and never answer."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaTimeoutError
from kafka.net.manager import KafkaConnectionManager

from ecdctr.events.kafka import correct_clients, probe_brokers
from ecdctr.events.kafka.broker_choice import CONNECT_S
from ecdctr.events.settings import KafkaSettings
from ecdctr.streams.embedded import EmbeddedBroker
from tests.support.waiting import PATIENCE_S, allowance

QUICK_S = 4.0


@pytest.fixture
def silent() -> Iterator[list[str]]:
    """Addresses that accept connections and never answer, as those of a suspended broker."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        yield [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]


@pytest.mark.broker
@pytest.mark.parametrize("kind", [KafkaConsumer, KafkaAdminClient, KafkaProducer])
def test_a_client_starts_at_once_beside_brokers_that_hang(silent, kind):
    """With an address chosen at random, each start would wait with a probability of three to four."""
    with EmbeddedBroker() as broker:
        began = time.monotonic()
        for _ in range(4):
            client = kind(
                bootstrap_servers=[*silent, broker.address], bootstrap_timeout_ms=int(1000 * PATIENCE_S)
            )
            client.close()
        assert time.monotonic() - began < allowance(QUICK_S)


@pytest.mark.broker
def test_the_probe_does_not_wait_for_brokers_that_hang(silent):
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(brokers=[*silent, broker.address])
        began = time.monotonic()
        assert probe_brokers(settings, timeout_s=PATIENCE_S) is None
        assert time.monotonic() - began < allowance(QUICK_S)


def test_brokers_that_all_hang_end_the_start_at_its_limit(silent):
    with pytest.raises(KafkaTimeoutError, match="Unable to bootstrap"):
        KafkaConsumer(bootstrap_servers=silent, bootstrap_timeout_ms=300)


def test_a_tls_handshake_that_is_not_answered_ends_too(silent):
    """The library has no limit for it: the start never ended."""
    with pytest.raises(KafkaTimeoutError, match="Unable to bootstrap"):
        KafkaConsumer(
            bootstrap_servers=silent[:1],
            bootstrap_timeout_ms=300,
            security_protocol="SSL",
            ssl_context=ssl.create_default_context(),
        )


def test_connections_are_given_up_after_five_seconds_and_a_second_correction_changes_nothing():
    methods = [
        vars(KafkaConnectionManager)[name] for name in ("_do_bootstrap", "least_loaded_node", "_connect")
    ]
    correct_clients()
    assert methods == [
        vars(KafkaConnectionManager)[name] for name in ("_do_bootstrap", "least_loaded_node", "_connect")
    ]
    assert KafkaConnectionManager.DEFAULT_CONFIG["socket_connection_setup_timeout_ms"] == 1000 * CONNECT_S


class Manager:
    """Three brokers that the metadata names, of which the third has answered first; ``connections`` by broker."""

    def __init__(self, **connections: SimpleNamespace) -> None:
        self._conns = {int(name[1:]): found for name, found in connections.items()}
        brokers = [SimpleNamespace(node_id=n, host=f"kafka-{n}", port=9092) for n in range(3)]
        self.cluster = SimpleNamespace(brokers=lambda: brokers)
        self.ecdctr_answered = ("kafka-2", 9092)
        self.delayed: set[int] = set()

    def connection_delay(self, node: int) -> float:
        return float(node in self.delayed)

    def chosen(self) -> set[int]:
        """The choices of twenty requests."""
        return {KafkaConnectionManager.least_loaded_node(self) for _ in range(20)}


def connection(connected: bool = True, requests: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        connected=connected, initializing=not connected, paused=set(), in_flight_requests=[None] * requests
    )


def test_a_request_for_any_broker_goes_to_the_one_that_answered_first():
    assert Manager().chosen() == {2}
    assert Manager(n2=connection(connected=False, requests=1)).chosen() == {2}, "it is being connected"
    assert Manager(n1=connection()).chosen() == {1}, "it is connected and idle"


def test_a_broker_that_answered_first_and_hangs_now_is_not_preferred():
    assert 2 not in Manager(n2=connection(requests=1)).chosen()
    failed = Manager()
    failed.delayed = {2}
    assert 2 not in failed.chosen()
