"""Dead letters on the embedded broker, with kafka-python's own producer, which checks what it is given."""

import asyncio
import logging
import threading
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest
from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from ecdctr.events.records import RecordReject
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import ConfigError, StreamError
from ecdctr.streams.dead_letters import DeadLetter, DeadLetters, MemoryDeadLetters, letters_of
from ecdctr.streams.dead_letters import lane as lane_module
from ecdctr.streams.settings import TopicSettings
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.broker


def test_the_memory_double_keeps_each_letter_once():
    sink = MemoryDeadLetters()
    record = partial(SimpleNamespace, value=b"v", key=b"k", headers=())
    rejects = [RecordReject(record(offset=1), "json", ""), RecordReject(record(offset=2), "ts", "")]
    letters = letters_of("t", 0, rejects)
    assert asyncio.run(sink.send(letters)) == 2
    assert asyncio.run(sink.send(letters)) == 0
    assert sink.counts == {"json": 1, "ts": 1}


def test_sending_outside_start_and_stop_is_an_error_not_a_loss():
    sink = DeadLetters(KafkaSettings(), TopicSettings())
    with pytest.raises(StreamError, match="start"):
        asyncio.run(sink.send([DeadLetter("natural-clicks", 0, 1, "json", "d", b"v")]))


class Faults:
    """Makes kafka-python's producer fail, before it sends (``True``) or in the answer to what it has sent."""

    def __init__(self, monkeypatch) -> None:
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.sent = 0
        send = KafkaProducer.send

        def faulty(producer, *args, **kwargs):
            if self.before:
                raise self.before.pop(0)
            future = send(producer, *args, **kwargs)
            self.sent += 1
            if self.after:
                future.get(timeout=PATIENCE_S)
                future.exception, future.value = self.after.pop(0), None
            return future

        monkeypatch.setattr(KafkaProducer, "send", faulty)
        monkeypatch.setattr(lane_module, "_RETRY_S", 0.0)
        monkeypatch.setattr(lane_module, "SAID_AFTER_S", 0.0)


@pytest.fixture
def faults(monkeypatch):
    return Faults(monkeypatch)


def letters_for(streams, count, value=b"v"):
    return [DeadLetter(streams.topics.ad, 0, i, "json", "d", value) for i in range(count)]


def origins(streams) -> list[int]:
    found = streams.read(streams.topics.dead_letter(streams.topics.ad))
    return [int(dict(r.headers)["ecdctr-offset"]) for r in found]


def run(streams, work, **options):
    """``work(letters)`` between start and stop."""

    async def main():
        letters = DeadLetters(streams.connection, streams.topics, **options)
        await letters.start({})
        try:
            return await work(letters), letters
        finally:
            await letters.stop()

    return asyncio.run(main())


def test_letters_that_the_producer_refuses_are_sent_again(streams, faults, caplog):
    caplog.set_level(logging.INFO)
    faults.before = [KafkaTimeoutError("no metadata of t.dlq"), KafkaTimeoutError("again")]
    said = []
    new, letters = run(streams, lambda d: d.send(letters_for(streams, 3)), on_waiting=said.append)
    assert new == 3
    assert letters.counts == {"json": 3}
    assert sorted(origins(streams)) == [0, 1, 2]
    dead = streams.topics.dead_letter(streams.topics.ad)
    assert said[0].startswith(f'the dead-letter topic "{dead}" does not take letters: ')
    assert said[-1] is None
    assert "no metadata of t.dlq" in caplog.text
    assert f'the dead-letter topic "{dead}" takes records again' in caplog.text
    assert caplog.text.count("[dead_letters_not_taken]") >= 2


def test_a_letter_that_was_written_although_the_producer_failed_is_not_written_twice(streams, faults):
    faults.after = [KafkaError("the answer was lost")]
    new, letters = run(streams, lambda d: d.send(letters_for(streams, 4)))
    assert new == 4
    assert letters.counts == {"json": 4}
    assert sorted(origins(streams)) == [0, 1, 2, 3]


def test_a_certificate_that_is_being_replaced_is_waited_for(streams, faults, monkeypatch):
    connect, said = lane_module.Lane._connect, []
    absent = [ConfigError("kafka.cert_file = /c.pem: no such file")] * 2

    def replaced(lane):
        if absent:
            raise absent.pop()
        return connect(lane)

    async def work(dead):
        monkeypatch.setattr(lane_module.Lane, "_connect", replaced)
        faults.before = [KafkaTimeoutError("no metadata of t.dlq")]
        return await dead.send(letters_for(streams, 2))

    new, _ = run(streams, work, on_waiting=said.append)
    assert new == 2
    assert sorted(origins(streams)) == [0, 1]
    assert any(sentence and "/c.pem" in sentence for sentence in said)


def test_only_the_letter_that_is_too_large_is_shortened(streams):
    send = KafkaProducer.send

    def limited(producer, topic, value, key, headers, partition):
        if len(value) > 1_000:
            raise MessageSizeTooLargeError("too large")
        return send(producer, topic, value=value, key=key, headers=headers, partition=partition)

    large = DeadLetter(streams.topics.ad, 0, 7, "json", "d", b"x" * 50_000, b"key", (("note", b"n"),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KafkaProducer, "send", limited)
        run(streams, lambda d: d.send([*letters_for(streams, 3), large, *letters_for(streams, 2, b"w")]))
    found = streams.read(streams.topics.dead_letter(streams.topics.ad))
    by_origin = Counter((int(dict(r.headers)["ecdctr-offset"]), r.value) for r in found)
    assert by_origin == {(i, b"v"): 1 for i in range(3)} | {(i, b"w"): 1 for i in range(2)} | {(7, b""): 1}
    (short,) = [r for r in found if r.value == b""]
    assert short.key == b"key"
    assert dict(short.headers)["ecdctr-dropped-bytes"] == b"50000"


def test_a_caller_that_is_cancelled_and_comes_again_waits_for_the_same_letter(streams, monkeypatch):
    go = threading.Event()
    attempt = lane_module.Lane._attempt

    def held(lane, letters):
        go.wait(PATIENCE_S)
        return attempt(lane, letters)

    monkeypatch.setattr(lane_module.Lane, "_attempt", held)

    async def work(dead):
        first = asyncio.ensure_future(dead.send(letters_for(streams, 3)))
        await asyncio.sleep(0)
        await until(lambda: _true(bool(dead._known)), "hand the letters over")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.ensure_future(dead.send(letters_for(streams, 5)))
        await asyncio.sleep(0)
        assert not second.done()
        go.set()
        new = await second
        return new, await dead.send(letters_for(streams, 5))

    (new, again), letters = run(streams, work)
    assert (new, again) == (2, 0)
    assert letters.counts == {"json": 5}
    assert sorted(origins(streams)) == [0, 1, 2, 3, 4]


async def _true(value):
    return value


def test_letters_of_records_that_are_not_read_again_are_forgotten(streams):
    async def work(dead):
        for first in range(0, 1_000, 100):
            await dead.send(letters_for(streams, first + 100)[first:])
        return sum(map(len, dead._known.values()))

    kept, _ = run(streams, work)
    assert kept == 100
    assert origins(streams) == list(range(1_000))


def test_letters_that_are_not_acknowledged_at_the_end_are_an_error(streams, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(
        lane_module.Lane, "_attempt", lambda lane, letters: [KafkaTimeoutError("no")] * len(letters)
    )

    async def main():
        dead = DeadLetters(streams.connection, streams.topics, on_waiting=lambda s: ended.set())
        await dead.start({})
        sending = asyncio.ensure_future(dead.send(letters_for(streams, 2)))
        await asyncio.to_thread(ended.wait, PATIENCE_S)
        await dead.stop()
        with pytest.raises(StreamError, match="2 dead letters were not acknowledged"):
            await sending

    asyncio.run(main())
    assert origins(streams) == []


def test_case_s7_records_of_other_programs_in_the_dead_letter_topic_are_passed_over(streams):
    dead = streams.topics.dead_letter(streams.topics.ad)
    streams.send(dead, [b"foreign"], 0, [("ecdctr-offset", b"9" * 5_000)])
    streams.send(dead, [b"foreign"], 0, [("ecdctr-offset", b"\xff\xfe"), ("ecdctr-partition", b"0")])
    run(streams, lambda d: d.send(letters_for(streams, 2)))
    streams.send(dead, [b"foreign"], 0)
    _, letters = run(streams, lambda d: d.send(letters_for(streams, 3)))
    assert letters.already_there == 2
    assert len(streams.read(dead)) == 6
