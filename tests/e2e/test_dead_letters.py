"""Dead letters on Apache Kafka: whatever a record holds, and whatever its dead-letter topic accepts, one letter is written."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from ecdctr.events.decoder import to_json_messages
from ecdctr.streams.dead_letters import DeadLetter, DeadLetters
from ecdctr.streams.dead_letters import lane as lane_module
from ecdctr.streams.topics import partition_counts
from tests.support.apache_kafka import ApacheKafka
from tests.support.intakes import MemoryIntake, Streams, event, running
from tests.support.raw_records import GZIP, Record, send_raw
from tests.support.sites import Site, frame
from tests.support.waiting import allowance, until

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

MB = 1 << 20
NOT_TAKEN_S = 5.0
"""Within this time a worker says that a dead-letter topic takes no letters."""

ODD: dict[str, Record] = {
    "tombstone without a key": (None, None, []),
    "tombstone": (b"k", None, []),
    "null header": (b"k", b"no json", [(b"trace", None), (b"trace", b"\x00\xff")]),
    "name that is not UTF-8": (b"k", b"no json", [(b"\xff\xfe", b"v")]),
    "empty name": (b"", b"no json", [(b"", b"")]),
    "nothing but headers": (None, b"", [(b"h%d" % i, b"v") for i in range(300)]),
    "name of a letter": (b"k", b"no json", [(b"ecdctr-offset", b"9" * 5_000), (b"ecdctr-crc32", None)]),
    "large": (b"key-of-large", b"x" * 900_000, [(b"h", b"v")]),
    "near the limit": (b"key-of-limit", b"y" * 1_048_400, []),
    "large headers": (b"key-of-headers", b"no json", [(b"h%d" % i, b"z" * 10_000) for i in range(90)]),
}


def set_up(kafka: ApacheKafka, **dead_letter_config: str) -> Streams:
    """Topics of a test; the configuration is that of their dead-letter topics."""
    streams = Streams(kafka.address)
    for topic in streams.topics.domains:
        if dead_letter_config:
            kafka.configure_topic(streams.topics.dead_letter(topic), **dead_letter_config)
    return streams


def origins(records: list) -> Counter[tuple[int, int]]:
    """How many letters there are for each partition and offset."""
    headers = [dict(record.headers) for record in records]
    return Counter((int(h["ecdctr-partition"]), int(h["ecdctr-offset"])) for h in headers)


@asynccontextmanager
async def sink(streams: Streams, said: list[str | None] | None = None):
    letters = DeadLetters(
        streams.connection, streams.topics, on_waiting=(lambda _: None) if said is None else said.append
    )
    await letters.start({})
    try:
        yield letters
    finally:
        await letters.stop()


async def equal(read, expected) -> None:
    """Wait in a thread until the value is the expected one."""

    async def found() -> bool:
        return (await asyncio.to_thread(read)) == expected

    await until(found, f"become {expected}", every_s=0.2)


@dataclass
class Limit:
    config: dict[str, str]
    shortened: set[str]


LIMITS = {
    "default": Limit({}, {"near the limit"}),
    "200 kB": Limit({"max_message_bytes": "200000"}, {"large", "near the limit", "large headers"}),
    "1 kB": Limit(
        {"max_message_bytes": "1024"}, {"large", "near the limit", "large headers", "nothing but headers"}
    ),
    "compacted": Limit({"cleanup_policy": "compact"}, {"near the limit"}),
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("compression", [0, GZIP], ids=["plain", "gzip"])
def test_case_a12_whatever_a_record_holds_one_letter_is_written_and_the_rest_is_learned(
    limit, compression, apache_broker
):
    if compression and limit != "default":
        pytest.skip("the codec of the click topic does not change the letters")
    streams = set_up(apache_broker, **LIMITS[limit].config)
    topic = streams.topics.natural
    good: Record = (b"u", event(1), [(b"\xff\xfe", b"v"), (b"trace", None)])
    offsets = {}
    for name, record in ODD.items():
        send_raw(streams.connection, topic, 0, [good], compression=compression)
        offsets[name] = send_raw(streams.connection, topic, 0, [record], compression=compression)
    intake = MemoryIntake()

    async def main():
        async with sink(streams) as letters:
            async with running(streams.app(intake, letters)) as until_true:
                await until_true(lambda: intake.positions[(topic, 0)] == 2 * len(ODD))
            return letters.counts

    counts = asyncio.run(main())
    assert intake.rows == len(ODD)
    assert sum(counts.values()) == len(ODD)
    dead = streams.read(streams.topics.dead_letter(topic))
    assert origins(dead) == {(0, offset): 1 for offset in offsets.values()}
    by_offset = {int(dict(r.headers)["ecdctr-offset"]): r for r in dead}
    for name, (key, value, _) in ODD.items():
        letter = by_offset[offsets[name]]
        own = dict(letter.headers)
        assert own["ecdctr-topic"] == topic.encode()
        assert letter.value is not None
        if key is not None:
            assert letter.key == key, name
        else:
            made = f"{topic}/0/{offsets[name]}".encode() if limit == "compacted" else None
            assert letter.key == made, name
        shortened = name in LIMITS[limit].shortened
        assert (letter.value == (value or b"") and not shortened) or shortened, name
        if shortened or value is None:
            assert own["ecdctr-changed"], name


def test_case_a12_a_letter_of_70_megabytes_of_headers_is_shortened(apache_broker):
    streams = set_up(apache_broker)
    headers = tuple((f"h{i}", b"z" * MB) for i in range(70))
    letter = DeadLetter(streams.topics.ad, 1, 5, "json", "d", b"value", b"key", headers)

    async def main():
        async with sink(streams) as letters:
            await letters.send([letter])

    asyncio.run(main())
    (found,) = streams.read(streams.topics.dead_letter(streams.topics.ad))
    assert (found.key, found.value) == (b"key", b"value")
    assert dict(found.headers)["ecdctr-changed"] == b"headers left out: 70"


def test_case_a12_a_topic_too_small_for_any_letter_is_named_and_nothing_is_dropped(
    apache_broker, monkeypatch
):
    monkeypatch.setattr(lane_module, "_RETRY_S", 0.1)
    streams = set_up(apache_broker, max_message_bytes="100")
    dead, said = streams.topics.dead_letter(streams.topics.ad), []

    async def main():
        async with sink(streams, said) as letters:
            sending = asyncio.ensure_future(
                letters.send([DeadLetter(streams.topics.ad, 0, 5, "json", "d", b"v")])
            )
            await until(lambda: _is(bool(said)), "say that the topic is too small")
            assert not sending.done()
            assert f'"{dead}" does not take letters: its max.message.bytes is less than' in said[0]
            apache_broker.configure_topic(dead, max_message_bytes="1000000")
            assert await sending == 1

    asyncio.run(main())
    assert said[-1] is None
    assert origins(streams.read(dead)) == {(0, 5): 1}


async def _is(value: bool) -> bool:
    return value


def test_case_a13_a_missing_dead_letter_topic_is_named_and_waited_for(apache_broker):
    streams = set_up(apache_broker)
    dead = streams.topics.dead_letter(streams.topics.ad)
    said: list[str | None] = []
    first, second = (DeadLetter(streams.topics.ad, 0, i, "json", "d", b"v") for i in (1, 2))

    async def main():
        async with sink(streams, said) as letters:
            await letters.send([first])
            with apache_broker.admin() as admin:
                admin.delete_topics([dead])
            began = time.monotonic()
            sending = asyncio.ensure_future(letters.send([first, second]))
            await until(lambda: _is(bool(said)), "say that it is missing")
            assert time.monotonic() - began < allowance(NOT_TAKEN_S)
            assert f'topic "{dead}" does not exist' in said[0]
            assert partition_counts(streams.connection, [dead]) == {}
            await asyncio.to_thread(apache_broker.create_topic, dead)
            assert await sending == 1

    asyncio.run(main())
    assert said[-1] is None
    assert origins(streams.read(dead)) == {(0, 2): 1}


@pytest.fixture
def site(apache_broker, tmp_path) -> Iterator[Site]:
    made = Site(tmp_path / "site", apache_broker.address)
    yield made
    made.end()


def test_case_k1_a_worker_learns_all_good_rows_among_odd_records_over_kill_9(site):
    topics = site.settings.topics
    rows = frame(400)
    natural = rows.filter(rows["domain"] == "natural")
    messages = list(to_json_messages(natural))
    sent: Counter[int] = Counter()
    odd = list(ODD.values())
    for i, (key, value) in enumerate(messages):
        bad = [odd[i % len(odd)]] if i % 7 == 0 else []
        headers = [(b"\xff", None)] if i % 3 == 0 else []
        send_raw(site.settings.kafka, topics.natural, 0, [(key, value, headers)])
        if bad:
            sent[send_raw(site.settings.kafka, topics.natural, 0, bad)] += 1
        if i == len(messages) // 2:
            worker = site.start()
            site.train(i, worker)
            site.kill(worker)
    worker = site.start()
    total = len(messages) + sum(sent.values())
    site.train(total, worker)
    assert site.terminate(worker)[0] == 0
    assert site.books() == (0, 0)
    assert site.rebuild().identical
    assert origins(site.read(topics.dead_letter(topics.natural))) == {(0, o): 1 for o in sent}
    assert "Traceback" not in site.log()
