import time
from collections import defaultdict

import polars as pl
import pytest
from kafka import KafkaProducer

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.records import decode_records
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError, DataError, StreamError
from ecdctr.streams import producer as producer_module
from ecdctr.streams.producer import partition_of, produce
from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import partition_counts
from tests.support.intakes import SPECS, frame
from tests.support.waiting import PATIENCE_S, allowance

pytestmark = pytest.mark.broker


def rows_of(streams) -> dict[str, dict[int, list[tuple[int, int]]]]:
    """``(ts, user hash)`` of every row, by topic and partition, in log order."""
    decoder = EventDecoder(SPECS)
    found: dict[str, dict[int, list[tuple[int, int]]]] = {}
    for topic, domain in streams.topics.domains.items():
        by_partition = defaultdict(list)
        for record in streams.read(topic):
            by_partition[record.partition].append(record)
        found[topic] = {}
        for partition, records in sorted(by_partition.items()):
            chunk, rejects = decode_records(decoder, topic, partition, 0, records, domain)
            assert rejects == []
            pairs = zip(chunk.batch.ts.tolist(), chunk.batch.user.tolist(), strict=True)
            found[topic][partition] = list(pairs)
    return found


@pytest.mark.parametrize("packed", [0, 7, 500])
def test_rows_arrive_once_by_user_and_in_event_order(streams, packed):
    events = frame(2000)
    seen = []
    sent = produce(
        [events[:900], events[900:]],
        streams.connection,
        streams.topics,
        packed=packed,
        progress=lambda n, ts: seen.append((n, ts)),
    )
    counts = events["domain"].value_counts()
    assert sent == {
        topic: counts.filter(pl.col("domain") == DOMAIN_NAMES[d])["count"][0]
        for topic, d in streams.topics.domains.items()
    }
    assert seen[-1] == (2000, events["ts"][-1])
    decoder = EventDecoder(SPECS)
    whole = decoder.from_frame(events).batch
    for topic, partitions in rows_of(streams).items():
        domain = streams.topics.domains[topic]
        expected = whole.take(whole.domain == domain)
        pairs = sorted(pair for rows in partitions.values() for pair in rows)
        assert pairs == sorted(zip(expected.ts.tolist(), expected.user.tolist(), strict=True))
        users = [{user for _, user in rows} for rows in partitions.values()]
        assert not set.intersection(*users), "a user stands in two partitions"
        for rows in partitions.values():
            assert [ts for ts, _ in rows] == sorted(ts for ts, _ in rows)


def test_the_key_chooses_the_partition_that_a_stock_client_would_choose(streams):
    topic = streams.topics.natural
    producer = KafkaProducer(**streams.connection.kafka_python())
    for i in range(50):
        key = f"user-{i}".encode()
        assert producer.send(topic, key=key, value=b"x").get(timeout=PATIENCE_S).partition == partition_of(
            key, streams.partitions
        )
    producer.close()


def test_a_rate_is_kept(streams):
    began = time.monotonic()
    produce([frame(600)], streams.connection, streams.topics, rows_per_s=1000)
    assert 0.5 < time.monotonic() - began < allowance(5)


def test_event_time_can_be_played_at_a_multiple(streams):
    events = frame(600).with_columns(ts=pl.col("ts") + pl.int_range(600) * 1000)
    began = time.monotonic()
    produce([events], streams.connection, streams.topics, speedup=1000)  # 600 s of events, cut every 256 rows
    assert 0.5 < time.monotonic() - began < allowance(5)


def test_faults_are_named(streams):
    with pytest.raises(DataError, match="adverts"):
        produce([frame(3).with_columns(domain=pl.lit("adverts"))], streams.connection, streams.topics)
    with pytest.raises(StreamError, match="no-such-topic"):
        produce([], streams.connection, TopicSettings(natural="no-such-topic"))


@pytest.mark.brokers("embedded", reason="the fault is not one of the broker")
def test_case_a7_a_broker_that_dies_during_the_first_request_is_asked_again(streams, monkeypatch, caplog):
    asked = []

    def dying(*arguments):
        asked.append(arguments)
        if len(asked) == 1:
            raise BrokerUnavailableError("the broker that was asked has died")
        return partition_counts(*arguments)

    monkeypatch.setattr(producer_module, "partition_counts", dying)
    sent = produce([frame(40)], streams.connection, streams.topics)
    assert sum(sent.values()) == 40 and len(asked) == 2
    assert "has died; trying again" in caplog.text
    with pytest.raises(BrokerUnavailableError, match="has died"):
        asked.clear()
        produce([frame(40)], streams.connection, streams.topics, connect_timeout_s=-1)


def test_no_broker_is_said_so(monkeypatch):
    monkeypatch.setattr("ecdctr.streams.topics.BOOTSTRAP_MS", 200)
    with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1"):
        produce([frame(3)], KafkaSettings(brokers="127.0.0.1:1"), TopicSettings(), connect_timeout_s=1)
