"""Alerts in a topic, through a real broker."""

import json

import pytest
from kafka.errors import KafkaError

from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError
from ecdctr.streams.alerts import TopicChannel


@pytest.mark.broker
def test_alerts_arrive_in_order_with_their_keys(streams):
    channel = TopicChannel(streams.connection, f"{streams.topics.ad}-alerts", replication=1)
    for status in ("raised", "resolved"):
        channel.send(b"drift category", json.dumps({"key": "drift category", "status": status}).encode())
    channel.close()
    channel.send(b"other", b"{}")  # connects again
    channel.close()
    records = streams.read(f"{streams.topics.ad}-alerts")
    assert [r.key for r in records] == [b"drift category"] * 2 + [b"other"]
    assert [json.loads(r.value).get("status") for r in records] == ["raised", "resolved", None]


def test_without_a_broker_it_raises(monkeypatch):
    monkeypatch.setattr("ecdctr.streams.topics.BOOTSTRAP_MS", 200)
    channel = TopicChannel(KafkaSettings(brokers="127.0.0.1:9"), "alerts", replication=1)
    with pytest.raises((KafkaError, BrokerUnavailableError)):
        channel.send(b"k", b"v")
    channel.close()
