"""Offsets of partitions, from a client that leaves out partitions without a leader."""

import itertools
from types import SimpleNamespace

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaConnectionError, KafkaTimeoutError
from kafka.protocol.consumer import IsolationLevel

from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka import KafkaLog, log, partition_offsets, stable_ends, true_ends
from ecdctr.events.settings import FeatureSpec, KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError, StreamError

EMPTY, FILLED = TopicPartition("ad", 0), TopicPartition("natural", 0)


class Client:
    """A consumer as kafka-python 3.0 has it: without the leader of a partition it raises KeyError.

    ``leaderless`` is the number of requests that find no leader of the ad topic, ``absent`` the number of looks at
    the metadata that do not find the topic.
    """

    def __init__(self, leaderless: float = 0, absent: float = 0) -> None:
        self.leaderless, self.absent = leaderless, absent
        self.assigned: list = []
        self.timeouts: list[int] = []

    def _offsets(self, tps, timeout_ms, found):
        self.timeouts.append(timeout_ms)
        if self.leaderless > 0:
            self.leaderless -= 1
            raise KeyError(EMPTY)
        return {tp: found[tp] for tp in tps}

    def beginning_offsets(self, tps, timeout_ms=None):
        return self._offsets(tps, timeout_ms, {EMPTY: 0, FILLED: 3})

    def end_offsets(self, tps, timeout_ms=None):
        return self._offsets(tps, timeout_ms, {EMPTY: 0, FILLED: 9})

    def partitions_for_topic(self, topic):
        if self.absent > 0:
            self.absent -= 1
            return None
        return {0}

    def assign(self, tps):
        self.assigned = tps

    def seek(self, tp, offset): ...

    def highwater(self, tp):
        return 10

    def poll(self, **_): ...

    def close(self): ...


def kafka_log(client, monkeypatch, **options) -> KafkaLog:
    monkeypatch.setattr(KafkaLog, "_client", lambda self, *_: client)
    decoder = EventDecoder((FeatureSpec(name="site", buckets=50),))
    return KafkaLog(KafkaSettings(), decoder, {"ad": 1, "natural": 0}, **options)


@pytest.mark.parametrize(("which", "end"), [("beginning", 3), ("end", 9)])
def test_a_partition_without_a_leader_is_asked_for_again(which, end):
    client = Client(leaderless=3)
    assert partition_offsets(client, [EMPTY, FILLED], which) == {EMPTY: 0, FILLED: end}
    assert len(client.timeouts) == 4
    assert client.timeouts == sorted(client.timeouts, reverse=True), "one limit for the whole call"


def test_true_ends_wait_for_leaders_too():
    client = Client(leaderless=2)
    assert true_ends(client, [EMPTY, FILLED]) == {EMPTY: 0, FILLED: 10}
    assert client.assigned == [FILLED]


class Transactional(Client):
    """A client of a broker whose ends depend on the isolation level, as `_fetcher` has it."""

    def __init__(self, stable: int, written: int) -> None:
        super().__init__()
        self._fetcher = SimpleNamespace(_isolation_level=IsolationLevel.READ_UNCOMMITTED)
        self.stable, self.written = stable, written

    def end_offsets(self, tps, timeout_ms=None):
        committed = self._fetcher._isolation_level == IsolationLevel.READ_COMMITTED
        return self._offsets(tps, timeout_ms, {EMPTY: 0, FILLED: self.stable if committed else self.written})


@pytest.mark.parametrize(
    ("stable", "written", "fetched", "expected"),
    [
        (10, 10, 10, 10),  # nothing is open
        (7, 10, 10, 7),  # a transaction is open since offset 7
        (12, 12, 10, 12),  # two records came after the fetch
        (7, 12, 10, 7),
        (6, 6, 10, 10),  # the embedded broker reports the first offset of the last batch + 1
    ],
)
def test_the_stable_end_is_before_an_open_transaction(stable, written, fetched, expected):
    client = Transactional(stable, written)
    assert stable_ends(client, {EMPTY: 0, FILLED: fetched}) == {EMPTY: 0, FILLED: expected}
    assert client._fetcher._isolation_level == IsolationLevel.READ_UNCOMMITTED


def test_a_leader_that_never_comes_is_an_error_that_names_the_partition():
    with pytest.raises(BrokerUnavailableError, match=r"no leader is known for ad\[0\] after 0 s"):
        partition_offsets(Client(leaderless=float("inf")), [EMPTY, FILLED], "end", timeout_s=0.2)
    with pytest.raises(BrokerUnavailableError, match=r"ad\[0\]"):
        true_ends(Client(leaderless=float("inf")), [EMPTY, FILLED], timeout_s=0.2)


def test_a_timeout_of_the_client_is_translated_and_another_key_error_is_not():
    client = Client()
    client.end_offsets = client.beginning_offsets = lambda tps, timeout_ms: (_ for _ in ()).throw(
        KafkaTimeoutError("x")
    )
    with pytest.raises(BrokerUnavailableError, match=r"natural\[0\] ends \(KafkaTimeoutError"):
        partition_offsets(client, [FILLED], "end")
    client.beginning_offsets = lambda tps, timeout_ms: {}["other"]
    with pytest.raises(KeyError, match="other"):
        partition_offsets(client, [FILLED], "beginning")


def test_a_log_waits_for_leaders(monkeypatch):
    log = kafka_log(Client(leaderless=2), monkeypatch)
    assert log.beginning([("ad", 0), ("natural", 0)]) == {("ad", 0): 0, ("natural", 0): 3}
    log = kafka_log(Client(leaderless=float("inf")), monkeypatch, timeout_s=0.1)
    with pytest.raises(BrokerUnavailableError, match=r"ad\[0\]"):
        log.beginning([("ad", 0)])


def test_a_topic_of_a_moment_ago_is_looked_for_again(monkeypatch):
    assert kafka_log(Client(absent=5), monkeypatch).partitions() == [("ad", 0), ("natural", 0)]


def test_a_broker_that_ends_while_it_is_asked_for_partitions_is_no_traceback(monkeypatch):
    client = Client()
    answers = iter([KafkaConnectionError("111 ECONNREFUSED")] * 2)
    ask = client.partitions_for_topic

    def asked(topic):
        for error in answers:
            raise error
        return ask(topic)

    client.partitions_for_topic = asked
    assert kafka_log(client, monkeypatch).partitions() == [("ad", 0), ("natural", 0)]
    monkeypatch.setattr(log, "NEW_TOPIC_S", 0.1)
    answers = itertools.repeat(KafkaConnectionError("111 ECONNREFUSED"))
    with pytest.raises(BrokerUnavailableError, match=r"ECONNREFUSED|nothing listens"):
        kafka_log(client, monkeypatch).partitions()


def test_a_topic_that_stays_absent_is_named(monkeypatch):
    monkeypatch.setattr(log, "NEW_TOPIC_S", 0.1)
    with pytest.raises(StreamError, match='topic "ad" does not exist'):
        kafka_log(Client(absent=float("inf")), monkeypatch).partitions()
