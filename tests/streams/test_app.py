import asyncio
import random
from collections import Counter
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaConsumer

from ecdctr.events.decoder import ARROW_CONTENT_TYPE, CONTENT_TYPE_HEADER, to_arrow_message
from ecdctr.state.errors import BrokerUnavailableError, OffsetsLostError
from ecdctr.streams.app import StreamApp
from ecdctr.streams.dead_letters import DeadLetters, MemoryDeadLetters
from ecdctr.streams.embedded import EmbeddedBroker
from ecdctr.streams.intake import OffsetPublisher, RecordList
from tests.support.intakes import MemoryIntake, Streams, event, frame, running
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.broker


def broken(rng: random.Random, event, i: int) -> tuple[str, bytes]:
    """A random broken message and the reason it has to get."""
    good = event(i)
    return rng.choice(
        [
            ("json", good[: rng.randrange(1, len(good) - 1)]),
            ("json", bytes(rng.randrange(128, 256) for _ in range(rng.randrange(1, 40)))),
            (
                "missing",
                event(i, **{rng.choice(["event_id", "ts", "user_id", "item_id", "label", "site"]): ...}),
            ),
            (
                "type",
                event(i, **{rng.choice(["user_id", "site", "label", "ts"]): rng.choice([[], {}])}),
            ),
            ("type", event(i, **{rng.choice(["user_id", "item_id", "ts"]): True})),
            ("label", event(i, label=rng.choice([2, -1, 0.5, 10**9]))),
            ("nan", event(i, price=rng.choice([1e300, -1e39]))),
            ("ts", event(i, ts=rng.choice([0, 1_700_000_000, 10**15, -5]))),
            ("long", event(i, user_id="x" * rng.randrange(41, 5000))),
        ]
    )


def test_broken_messages_end_in_the_dead_letter_topic_and_good_ones_arrive(streams):
    rng = random.Random(20)
    sent: dict[str, list[tuple[str | None, bytes]]] = {topic: [] for topic in streams.topics.domains}
    for topic, messages in sent.items():
        messages += [broken(rng, event, i) for i in range(500)]
        messages += [(None, event(i)) for i in range(700)]
        rng.shuffle(messages)
        streams.send(topic, [value for _, value in messages])
    intake = MemoryIntake()
    letters = DeadLetters(streams.connection, streams.topics)

    async def main():
        await letters.start({})
        async with running(streams.app(intake, letters)) as until:
            await until(lambda: sum(intake.positions.values()) == 2400)
        await letters.stop()

    asyncio.run(main())
    assert intake.rows == 1400
    reasons = Counter(reason for messages in sent.values() for reason, _ in messages if reason)
    assert letters.counts == reasons
    for topic, messages in sent.items():
        dead = streams.read(streams.topics.dead_letter(topic))
        assert Counter(
            (r.headers_text["ecdctr-reason"], r.value) for r in map(with_headers, dead)
        ) == Counter((reason, value) for reason, value in messages if reason)
        origin = {(r.partition, r.offset): r.value for r in streams.read(topic)}
        for record in map(with_headers, dead):
            assert record.headers_text["ecdctr-topic"] == topic
            where = int(record.headers_text["ecdctr-partition"]), int(record.headers_text["ecdctr-offset"])
            assert origin[where] == record.value
            assert record.headers_text["ecdctr-detail"]


def with_headers(record) -> SimpleNamespace:
    return SimpleNamespace(value=record.value, headers_text={k: v.decode() for k, v in record.headers})


def test_reading_goes_on_from_the_intakes_positions_whatever_the_group_committed(streams):
    topic = streams.topics.natural
    streams.send(topic, [event(i) for i in range(600)])
    first = MemoryIntake({(topic, 0): 100, (topic, 1): 0})

    async def run(intake):
        async with running(streams.app(intake)) as until:
            await until(lambda: all(intake.positions[(topic, p)] == 300 for p in range(2)))

    asyncio.run(run(first))
    publisher = OffsetPublisher(streams.connection, streams.worker.group)
    publisher.put(first.positions)
    assert publisher.close(PATIENCE_S)
    assert first.offsets(topic) == {0: list(range(100, 300)), 1: list(range(300))}
    # The group has committed 300 and 300; a checkpoint from before still gets everything after it.
    second = MemoryIntake({(topic, 0): 250, (topic, 1): 299})
    asyncio.run(run(second))
    assert second.offsets(topic) == {0: list(range(250, 300)), 1: [299]}


def test_members_of_the_group_take_nothing_from_the_worker(streams):
    topics = list(streams.topics.domains)
    intake = MemoryIntake()
    for topic in topics:
        streams.send(topic, [event(i) for i in range(400)])

    async def main():
        foreign = AIOKafkaConsumer(
            *topics,
            **streams.connection.aiokafka(),
            group_id=streams.worker.group,
            session_timeout_ms=10_000,
            heartbeat_interval_ms=200,
            enable_auto_commit=False,
        )
        await foreign.start()
        try:
            async with running(streams.app(intake)) as until:
                await until(lambda: len(foreign.assignment()) == 4)
                await until(lambda: sum(intake.positions.values()) == 800)
        finally:
            await foreign.stop()

    asyncio.run(main())
    for topic in topics:
        assert intake.offsets(topic) == {0: list(range(200)), 1: list(range(200))}


def test_a_full_partition_is_not_fetched_until_there_is_room(streams):
    topic = streams.topics.natural
    streams.send(topic, [event(i) for i in range(4000)])
    intake = MemoryIntake()
    limit = 300
    intake.full = lambda t, p: p == 1 and sum(len(c.batch) for c in intake.chunks[(t, p)]) >= limit

    async def main():
        nonlocal limit
        async with running(streams.app(intake)) as until:
            await until(lambda: intake.positions[(topic, 0)] == 2000)
            await until(lambda: intake.positions[(topic, 1)] >= 300)
            # what arrives elsewhere meanwhile shows that the consumer has polled on
            await asyncio.get_running_loop().run_in_executor(
                None, lambda: streams.send(topic, [event(i) for i in range(100)], partition=0)
            )
            await until(lambda: intake.positions[(topic, 0)] == 2100)
            assert intake.positions[(topic, 1)] < 300 + streams.worker.poll_records
            assert intake.ends[(topic, 1)] == 2000  # known to the aligner all the same
            limit = 10**9
            await until(lambda: intake.positions[(topic, 1)] == 2000)

    asyncio.run(main())
    assert intake.offsets(topic) == {0: list(range(2100)), 1: list(range(2000))}


def test_json_and_packed_messages_mix_on_one_topic(streams):
    topic = streams.topics.ad
    rows = frame(60, ad_every=1)
    packed = [(CONTENT_TYPE_HEADER, ARROW_CONTENT_TYPE)]
    streams.send(topic, [event(0), event(1)], partition=0)
    streams.send(topic, [to_arrow_message(rows[:40])], partition=0, headers=packed)
    streams.send(topic, [event(2)], partition=0)
    streams.send(
        topic,
        [b"no arrow", to_arrow_message(rows[40:].with_columns(label=rows["label"][40:] * 3))],
        0,
        packed,
    )
    streams.send(topic, [event(3)], partition=0)
    intake, dead = MemoryIntake(), MemoryDeadLetters()

    async def main():
        async with running(streams.app(intake, dead)) as until:
            await until(lambda: intake.positions[(topic, 0)] == 7)

    asyncio.run(main())
    kept = [o for o, label in zip([5] * 20, rows["label"][40:], strict=True) if label == 0]
    assert intake.offsets(topic)[0] == [0, 1, *[2] * 40, 3, *kept, 6]
    whole, some = sorted(dead.letters, key=lambda letter: letter.offset)
    assert (whole.offset, whole.reason, whole.rows, whole.events) == (4, "arrow", (), 1)
    assert (some.offset, some.reason) == (5, "label")
    assert list(some.rows) == [i for i, label in enumerate(rows["label"][40:]) if label == 1]
    assert dead.counts == {"arrow": 1, "label": len(some.rows)}


def test_dead_letters_are_not_doubled_by_a_restart(streams):
    topic = streams.topics.natural
    rng = random.Random(5)
    streams.send(topic, [broken(rng, event, i)[1] if i % 3 else event(i) for i in range(90)])

    async def run(intake, count):
        letters = DeadLetters(streams.connection, streams.topics)
        await letters.start(intake.positions)
        async with running(streams.app(intake, letters)) as until:
            await until(lambda: sum(intake.positions.values()) == count)
        await letters.stop()
        return letters

    first = asyncio.run(run(MemoryIntake(), 90))
    assert sum(first.counts.values()) == 60
    # It died before anything was counted: all comes again, and 30 more messages after it.
    streams.send(topic, [broken(rng, event, i)[1] for i in range(30)])
    second = asyncio.run(run(MemoryIntake(), 120))
    assert (second.already_there, sum(second.counts.values())) == (60, 30)
    dead = [with_headers(r).headers_text for r in streams.read(streams.topics.dead_letter(topic))]
    origins = Counter((h["ecdctr-partition"], h["ecdctr-offset"]) for h in dead)
    assert len(origins) == 90
    assert set(origins.values()) == {1}


class LossyApp(StreamApp):
    """Loses the second list of each partition on the way to the agent."""

    async def _handle(self, together: list[RecordList], domain: int) -> None:
        seen = self.__dict__.setdefault("seen", Counter())
        arrived = []
        for records in together:
            seen[records.tp] += 1
            if seen[records.tp] == 2:
                self.consumer.done(records)
            else:
                arrived.append(records)
        await super()._handle(arrived, domain)


@pytest.mark.parametrize("messages", [2000, 800], ids=["more after it", "the last one"])
def test_a_list_lost_on_the_way_is_fetched_again(streams, messages):
    topic = streams.topics.natural
    for partition in range(2):
        streams.send(topic, [event(i) for i in range(messages // 2)], partition)
    intake = MemoryIntake()
    app = streams.app(intake, kind=LossyApp)

    async def main():
        async with running(app) as until:
            await until(lambda: sum(intake.positions.values()) == messages)

    asyncio.run(main())
    assert all(seen >= 2 for seen in app.seen.values())
    assert intake.offsets(topic) == {0: list(range(messages // 2)), 1: list(range(messages // 2))}


def test_an_agents_failure_ends_the_app_with_its_own_error(streams):
    class FullDisk(MemoryIntake):
        async def put(self, chunk):
            raise OSError("no space left")

    streams.send(streams.topics.natural, [event(0)])

    async def main():
        async with running(streams.app(FullDisk())) as until:
            await until(lambda: False)

    with pytest.raises(OSError, match="no space left"):
        asyncio.run(main())


def test_a_broker_that_is_stopped_for_a_while_loses_and_doubles_nothing(own_broker):
    streams = Streams(own_broker)
    topic = streams.topics.natural
    streams.send(topic, [event(i) for i in range(1000)])
    intake = MemoryIntake()

    async def main():
        loop = asyncio.get_running_loop()
        async with running(streams.app(intake)) as until:
            await until(lambda: intake.rows > 0)
            own_broker.suspend()
            try:
                await asyncio.sleep(1.5)  # the fault is a pause in the midst of reading
            finally:
                own_broker.resume()
            await loop.run_in_executor(None, lambda: streams.send(topic, [event(i) for i in range(1000)]))
            await until(lambda: sum(intake.positions.values()) == 2000)

    asyncio.run(main())
    assert intake.offsets(topic) == {0: list(range(1000)), 1: list(range(1000))}


def test_no_broker_at_start_is_said_so(monkeypatch):
    with EmbeddedBroker() as own:
        streams = Streams(own.address)

    async def main():
        async with running(streams.app(MemoryIntake())) as until:
            await until(lambda: False)

    with pytest.raises(BrokerUnavailableError, match=own.address):
        asyncio.run(main())


# -- gaps, with a stand-in for the consumer: the embedded broker neither compacts nor deletes


class StandIn:
    def __init__(self, beginning: int) -> None:
        self.beginning = beginning

    async def earliest_offsets(self, tp):
        return {tp: self.beginning}


def take(streams, *, position, asked, offsets, beginning=0, end=None):
    tp = SimpleNamespace(topic=streams.topics.natural, partition=0)

    class Tp(tuple):
        topic, partition = tp.topic, tp.partition

    key = Tp((tp.topic, tp.partition))
    intake = MemoryIntake({(tp.topic, 0): position})
    app = streams.app(intake)
    app.faust.consumer = StandIn(beginning)
    records = [SimpleNamespace(offset=o, value=event(o), key=None, headers=()) for o in offsets]

    found = RecordList(key, asked, records, (offsets[-1] + 1 if offsets else asked) if end is None else end)
    asyncio.run(app._take([found], 0) if offsets else app._pass_over(found))
    return intake


def test_a_gap_in_the_log_is_valid(streams):
    intake = take(streams, position=10, asked=10, offsets=[13, 14, 20])
    assert intake.offsets(streams.topics.natural) == {0: [13, 14, 20]}
    (chunk,) = intake.chunks[(streams.topics.natural, 0)]
    assert (chunk.first, chunk.end) == (10, 21)  # the gap is counted


def test_offsets_after_the_last_record_belong_to_its_chunk(streams):
    intake = take(streams, position=10, asked=10, offsets=[10, 11], end=13)  # a transaction marker at 12
    (chunk,) = intake.chunks[(streams.topics.natural, 0)]
    assert (chunk.first, chunk.end, chunk.offset.tolist()) == (10, 13, [10, 11])


@pytest.mark.parametrize(
    ("position", "asked", "end", "moved"),
    [(10, 10, 13, (10, 13)), (12, 10, 13, (12, 13)), (13, 10, 13, None), (20, 10, 13, None)],
)
def test_offsets_without_records_move_the_position_forward_only(streams, position, asked, end, moved):
    intake = take(streams, position=position, asked=asked, offsets=[], end=end)
    chunks = intake.chunks[(streams.topics.natural, 0)]
    assert [(c.first, c.end, len(c.batch)) for c in chunks] == ([] if moved is None else [(*moved, 0)])


def test_records_deleted_unread_are_an_error(streams):
    with pytest.raises(OffsetsLostError, match=r"begins at offset 13, training needs 10: 3 offsets"):
        take(streams, position=10, asked=10, offsets=[13, 14], beginning=13)


def test_a_log_that_was_created_again_is_an_error(streams):
    with pytest.raises(OffsetsLostError, match="for a fetch from 10"):
        take(streams, position=10, asked=10, offsets=[0, 1])


def test_a_redelivered_head_is_skipped(streams):
    intake = take(streams, position=10, asked=5, offsets=list(range(5, 15)))
    assert intake.offsets(streams.topics.natural) == {0: [10, 11, 12, 13, 14]}


def test_rows_whose_position_was_passed_while_their_letters_were_written_are_left_to_the_next_list(streams):
    class Tp(tuple):
        topic, partition = streams.topics.natural, 0

    key = Tp((streams.topics.natural, 0))
    intake = MemoryIntake({key: 10})
    app = streams.app(intake)
    app.faust.consumer = StandIn(0)

    class Letters(MemoryDeadLetters):
        async def send(self, letters):
            await app._pass_over(RecordList(key, 10, [], 12))
            return await super().send(letters)

    app.dead_letters = Letters()
    values = {10 + i: value for i, value in enumerate([b"broken", event(1), event(2), event(3)])}
    records = [SimpleNamespace(offset=o, value=v, key=None, headers=()) for o, v in values.items()]

    async def main():
        await app._take([RecordList(key, 10, records, 14)], 0)
        await app._take([RecordList(key, 12, records[2:], 14)], 0)

    asyncio.run(main())
    assert [(c.first, c.end, c.offset.tolist()) for c in intake.chunks[key]] == [
        (10, 12, []),
        (12, 14, [12, 13]),
    ]
