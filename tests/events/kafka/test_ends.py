"""Where partitions end, as each leader reports it, and why some of them cannot say."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest
from aiokafka.errors import KafkaError
from kafka import KafkaConsumer, KafkaProducer

from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka import (
    BrokerProblem,
    Cause,
    EndsReader,
    KafkaLog,
    LogEnds,
    LogProblem,
    LogProblemKind,
)
from ecdctr.events.settings import KafkaSettings, default_features
from ecdctr.streams.embedded import free_port
from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import ensure_topics
from tests.support.apache_kafka import ApacheKafka
from tests.support.waiting import PATIENCE_S, until

_numbers = itertools.count()


@pytest.fixture(params=["embedded_broker", "apache_broker"])
def connection(request) -> KafkaSettings:
    """Both kinds of broker."""
    return KafkaSettings(brokers=request.getfixturevalue(request.param).address)


@pytest.fixture
def topic() -> str:
    return f"ends-{next(_numbers)}"


def make(connection: KafkaSettings, topic: str, partitions: int = 2) -> None:
    settings = TopicSettings(natural=topic, ad=f"{topic}-ad", partitions=partitions)
    ensure_topics(connection, settings)


def send(connection: KafkaSettings, topic: str, partition: int, count: int) -> None:
    """One batch of several records: some brokers list its first offset + 1 as the end."""
    producer = KafkaProducer(**connection.kafka_python(), linger_ms=200)
    try:
        sent = [producer.send(topic, b"x", partition=partition) for _ in range(count)]
        producer.flush()
        for one in sent:
            one.get(timeout=PATIENCE_S)
    finally:
        producer.close()


def read(
    connection: KafkaSettings, *topics: str, wanted: Callable[[LogEnds], bool] = lambda found: True
) -> LogEnds:
    """The first answer that satisfies the condition, of one reader."""

    async def main() -> LogEnds:
        reader = EndsReader(connection, topics)

        async def next_answer() -> LogEnds | None:
            found = await reader.read()
            return found if wanted(found) else None

        try:
            return await until(next_answer, "give the answer that the test waits for")
        finally:
            await reader.close()

    return asyncio.run(main())


def test_every_partition_has_its_true_end(connection, topic):
    make(connection, topic)
    send(connection, topic, 1, 50)
    found = read(connection, topic, wanted=lambda found: len(found.ends) == 2)
    assert found.answered and found.problems == ()
    assert found.ends == found.written == {(topic, 0): 0, (topic, 1): 50}
    send(connection, topic, 1, 7)
    send(connection, topic, 0, 30)
    assert read(connection, topic).ends == {(topic, 0): 30, (topic, 1): 57}


def test_a_missing_topic_is_named_is_not_created_and_does_not_hide_the_other(connection, topic):
    make(connection, topic)
    for _ in range(2):
        found = read(connection, topic, "not-there", wanted=lambda found: len(found.ends) == 2)
        assert set(found.shown) == {topic}
        [problem] = found.problems
        assert problem.kind is LogProblemKind.TOPIC_MISSING
        assert 'topic "not-there" does not exist' in problem.text


def test_no_broker():
    address = f"127.0.0.1:{free_port()}"
    found = read(KafkaSettings(brokers=address), "any")
    assert not found.answered and not found.ends
    [problem] = found.problems
    assert problem.kind is LogProblemKind.NO_BROKER and f"nothing listens at {address}" in problem.text


def test_a_password_file_that_cannot_be_read_is_named(tmp_path):
    settings = KafkaSettings(
        brokers=f"127.0.0.1:{free_port()}",
        security="sasl_plaintext",
        username="u",
        password_file=tmp_path / "absent",
    )
    [problem] = read(settings, "any").problems
    assert problem.kind is LogProblemKind.PASSWORD and str(tmp_path / "absent") in problem.text


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_that_waiting_does_not_help_is_a_refusal(cause):
    found = LogProblem.of(BrokerProblem(cause, "kafka-1:9092", "detail", KafkaSettings()))
    refused = (LogProblemKind.RIGHT, LogProblemKind.PASSWORD, LogProblemKind.CERTIFICATE)
    may_pass = BrokerProblem(cause, "kafka-1:9092", "detail", KafkaSettings()).may_pass
    assert (found.kind in refused) == (not may_pass) or cause is Cause.ADVERTISED


def test_case_a1_the_end_is_the_last_stable_offset_and_open_transactions_come_after_it(
    apache_broker: ApacheKafka, topic
):
    connection = apache_broker.connection()
    make(connection, topic, partitions=1)
    key = (topic, 0)
    producer = KafkaProducer(**connection.kafka_python(), transactional_id=f"t-{topic}", acks="all")
    try:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(topic, b"x").get(timeout=PATIENCE_S)
        found = read(connection, topic, wanted=lambda found: found.written.get(key) == 1)
        assert found.ends[key] == 0
        producer.commit_transaction()
        found = read(connection, topic, wanted=lambda found: found.ends.get(key) == 2)
        assert found.written[key] == 2, "the record and the marker"
    finally:
        producer.close()


def test_case_a5_new_partitions_are_shown_at_once(apache_broker: ApacheKafka, topic):
    connection = apache_broker.connection()
    make(connection, topic, partitions=1)

    async def main() -> None:
        reader = EndsReader(connection, [topic])

        async def shown(count: int) -> bool:
            return len((await reader.read()).ends) == count

        await until(lambda: shown(1), "show the partition")
        with apache_broker.admin() as admin:
            admin.create_partitions({topic: 3})
        await until(lambda: shown(3), "show the new partitions")
        await reader.close()

    asyncio.run(main())


def test_members_of_a_group(apache_broker: ApacheKafka, topic):
    connection = apache_broker.connection()
    make(connection, topic, partitions=1)

    async def members(group: str):
        reader = EndsReader(connection, [topic])
        try:
            await reader.read()
            return await reader.members(group)
        finally:
            await reader.close()

    consumer = KafkaConsumer(topic, **connection.kafka_python(), group_id=f"g-{topic}", client_id="another")
    try:

        async def joined():
            consumer.poll(timeout_ms=100)
            try:
                return await members(f"g-{topic}")
            except KafkaError:  # the coordinator of a new cluster is still loading
                return ()

        [member] = asyncio.run(until(joined, "join the group"))
        assert member.client == "another" and "127.0.0.1" in str(member)
        assert asyncio.run(members(f"nobody-{topic}")) == ()
    finally:
        consumer.close()


def test_a_client_that_is_made_when_all_configured_addresses_have_moved_uses_those_that_brokers_advertise(
    connection, topic
):
    make(connection, topic)
    read(connection, topic)
    moved = connection.model_copy(update={"brokers": ("127.0.0.1:1",)})  # nothing listens there any more
    with KafkaLog(moved, EventDecoder(default_features()), {topic: 0}, timeout_s=PATIENCE_S) as log:
        assert log.partitions() == [(topic, 0), (topic, 1)]
    assert read(moved, topic).answered


@pytest.mark.parametrize(
    ("leader", "said", "not_said"),
    [
        (("kafka-7.wrong.invalid", 9092), "advertised.listeners", "kafka.brokers"),
        (("kafka-1.wrong.invalid", 9092), '"kafka.brokers"', "advertised.listeners"),
    ],
)
def test_an_address_that_the_brokers_advertise_is_not_to_be_corrected_in_the_configuration(
    leader, said, not_said
):
    async def main() -> LogProblem:
        reader = EndsReader(KafkaSettings(brokers="kafka-1.wrong.invalid:9092"), ["ads"])
        try:
            [problem] = (await reader._ask_leader(leader, [("ads", 0)])).problems
            return problem
        finally:
            await reader.close()

    problem = asyncio.run(main())
    assert problem.kind is LogProblemKind.NO_BROKER and "It leads ads[0]" in problem.text
    assert f"the name of {leader[0]}:9092 does not resolve" in problem.text
    assert said in problem.text and not_said not in problem.text
