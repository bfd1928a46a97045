import asyncio
from types import SimpleNamespace

import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from ecdctr.events.records import RecordReject
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import StreamError
from ecdctr.streams.dead_letters.sender import DeadLetter, DeadLetters, MemoryDeadLetters, letters_of
from ecdctr.streams.settings import TopicSettings


def record(offset, value=b"v", headers=()):
    return SimpleNamespace(offset=offset, value=value, key=b"k", headers=headers)


def test_rows_of_a_packed_message_share_a_letter_for_each_reason():
    packed = record(7, b"packed", [("content-type", b"arrow")])
    rejects = [
        RecordReject(record(5), "json", "broken", None),
        RecordReject(packed, "label", "label is 2", 3),
        RecordReject(packed, "ts", "ts is 0", 4),
        RecordReject(packed, "label", "label is 5", 9),
    ]
    plain, label, ts = letters_of("ads", 1, rejects)
    assert (plain.offset, plain.rows, plain.events) == (5, (), 1)
    assert (label.offset, label.reason, label.rows, label.events) == (7, "label", (3, 9), 2)
    assert (ts.reason, ts.rows) == ("ts", (4,))
    headers = dict(label.all_headers())
    assert headers["content-type"] == b"arrow"
    assert (headers["ecdctr-rows"], headers["ecdctr-offset"], headers["ecdctr-partition"]) == (
        b"3,9",
        b"7",
        b"1",
    )


def test_thousands_of_rows_do_not_make_thousands_of_bytes_of_header():
    rejects = [RecordReject(record(1), "missing", "no label", row) for row in range(100_000)]
    (letter,) = letters_of("ads", 0, rejects)
    assert letter.events == 100_000
    assert len(dict(letter.all_headers())["ecdctr-rows"]) < 2000


def test_a_letter_keeps_its_identity_without_its_value():
    letter = DeadLetter("t", 0, 3, "json", "d", b"x" * 100, b"key")
    bare = letter.without_value()
    assert bare.value is None
    assert bare.identity() == letter.identity()
    assert dict(bare.all_headers())["ecdctr-dropped-bytes"] == b"100"


def test_the_memory_double_keeps_each_letter_once():
    sink = MemoryDeadLetters()
    letters = letters_of(
        "t", 0, [RecordReject(record(1), "json", "", None), RecordReject(record(2), "ts", "", None)]
    )
    assert asyncio.run(sink.send(letters)) == 2
    assert asyncio.run(sink.send(letters)) == 0
    assert sink.counts == {"json": 1, "ts": 1}


class FaultyProducer:
    """Fails with the given error, then works."""

    def __init__(self, faults) -> None:
        self.faults = list(faults)
        self.sent = []

    def send(self, topic, **message):
        fault = self.faults.pop(0) if self.faults else None

        def get(timeout):
            if fault is not None:
                raise fault
            self.sent.append((topic, message))

        return SimpleNamespace(get=get)

    def close(self, timeout):
        self.closed = True


def sink_with(producer) -> DeadLetters:
    sink = DeadLetters(KafkaSettings(), TopicSettings())
    sink._producer = producer
    sink._connect = lambda: producer
    return sink


def test_letters_are_sent_again_until_they_are_acknowledged(monkeypatch):
    monkeypatch.setattr("ecdctr.streams.dead_letters.sender._RETRY_S", 0.0)
    producer = FaultyProducer([KafkaTimeoutError(), None, KafkaTimeoutError()])
    sink = sink_with(producer)
    letters = [DeadLetter("t", 0, i, "json", "d", b"v") for i in range(3)]
    assert asyncio.run(sink.send(letters)) == 3
    assert sorted(dict(m["headers"])["ecdctr-offset"] for _, m in producer.sent) == [b"0", b"1", b"2"]
    assert sink.counts == {"json": 3}
    assert producer.closed


def test_the_warning_contains_the_error_with_which_the_producer_refused_a_letter(monkeypatch, caplog):
    monkeypatch.setattr("ecdctr.streams.dead_letters.sender._RETRY_S", 0.0)
    producer = FaultyProducer([])
    accept = producer.send

    def refuse_once(topic, **message):
        producer.send = accept
        raise KafkaTimeoutError("no metadata of t.dlq")

    producer.send = refuse_once
    assert asyncio.run(sink_with(producer).send([DeadLetter("t", 0, 1, "json", "d", b"v")])) == 1
    assert "the producer did not accept the letter" in caplog.text
    assert "no metadata of t.dlq" in caplog.text


def test_a_letter_that_the_broker_finds_too_large_goes_without_its_value():
    producer = FaultyProducer([MessageSizeTooLargeError()])
    assert asyncio.run(sink_with(producer).send([DeadLetter("t", 0, 1, "arrow", "d", b"x" * 50)])) == 1
    ((topic, message),) = producer.sent
    assert topic == "t.dlq"
    assert message["value"] is None
    assert dict(message["headers"])["ecdctr-dropped-bytes"] == b"50"


def test_sending_outside_start_and_stop_is_an_error_not_a_loss():
    sink = DeadLetters(KafkaSettings(), TopicSettings())
    with pytest.raises(StreamError, match="start"):
        asyncio.run(sink.send([DeadLetter("t", 0, 1, "json", "d", b"v")]))
