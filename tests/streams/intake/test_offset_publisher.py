"""Committing positions for monitoring tools: newest first, one notice a reason, and a bounded end."""

from __future__ import annotations

import logging
import threading

import pytest
from kafka import TopicPartition
from kafka.errors import CommitFailedError, GroupAuthorizationFailedError, KafkaConnectionError

from ecdctr.events.settings import KafkaSettings
from ecdctr.streams.intake import OffsetPublisher, offset_publisher
from tests.support.waiting import PATIENCE_S, wait_for

KEY = ("natural", 0)


class Consumer:
    """Stands in for kafka-python's: commits fail with the errors of ``failures``, then succeed."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.commits: list[dict] = []
        self.attempts = 0
        self.hold: threading.Event | None = None

    def __call__(self, **_):
        return self

    def commit(self, offsets, timeout_ms):
        self.attempts += 1
        if self.hold is not None:
            self.hold.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.commits.append({(tp.topic, tp.partition): value.offset for tp, value in offsets.items()})
        assert all(isinstance(tp, TopicPartition) for tp in offsets)

    def close(self, **_): ...


@pytest.fixture
def consumer(monkeypatch):
    made = Consumer()
    monkeypatch.setattr(offset_publisher, "KafkaConsumer", made)
    monkeypatch.setattr(offset_publisher, "_AGAIN_S", 0.05)
    monkeypatch.setattr(OffsetPublisher, "_members", lambda self: ": other at 10.0.0.9")
    return made


@pytest.fixture
def publisher():
    return OffsetPublisher(KafkaSettings(), "group-of-mine")


def test_the_last_positions_are_committed_before_the_end(consumer, publisher):
    for at in range(1, 50):
        publisher.put({KEY: at})
    assert publisher.close(PATIENCE_S)
    assert consumer.commits[-1] == {KEY: 49}


def test_nothing_to_publish_ends_at_once(consumer, publisher):
    assert publisher.close(PATIENCE_S)
    assert consumer.attempts == 0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CommitFailedError(), 'group "group-of-mine" has members of other programs: other at 10.0.0.9'),
        (GroupAuthorizationFailedError("x"), 'the right Read on group "group-of-mine" is missing'),
    ],
)
def test_a_reason_is_logged_once_and_its_end_too(consumer, publisher, caplog, error, text):
    caplog.set_level(logging.INFO)
    consumer.failures = [error, error, error]
    for at in range(1, 5):
        publisher.put({KEY: at})
        wait_for(lambda at=at: consumer.attempts == at, "try to commit")
    assert publisher.close(PATIENCE_S)
    messages = [r.getMessage() for r in caplog.records]
    assert [m for m in messages if text in m] == [messages[0]]
    assert "reading and training go on" in messages[0]
    assert messages[1:] == ['offsets are committed to group "group-of-mine" again']
    assert publisher.problem is None


def test_a_broker_that_does_not_answer_is_tried_again_without_a_word(consumer, publisher, caplog):
    consumer.failures = [KafkaConnectionError(), KafkaConnectionError()]
    publisher.put({KEY: 7})
    wait_for(lambda: consumer.commits, "commit")
    assert consumer.commits == [{KEY: 7}]
    assert not caplog.records


def test_a_commit_that_hangs_does_not_hold_up_the_end(consumer, publisher):
    consumer.hold = threading.Event()
    publisher.put({KEY: 7})
    wait_for(lambda: consumer.attempts, "begin to commit")
    assert not publisher.close(0.1)
    consumer.hold.set()


def test_a_client_that_cannot_even_be_closed_ends_neither_the_publisher_nor_training(
    consumer, publisher, monkeypatch
):
    def close(**_):
        raise RuntimeError("in another state")

    monkeypatch.setattr(consumer, "close", close)
    consumer.failures = [KafkaConnectionError()]
    publisher.put({KEY: 7})
    wait_for(lambda: consumer.commits, "commit")
    publisher.put({KEY: 8})
    assert publisher.close(PATIENCE_S)
    assert consumer.commits == [{KEY: 7}, {KEY: 8}]
