import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaTimeoutError
from kafka.structs import OffsetAndMetadata

from ecdctr.events.kafka import KafkaLog
from ecdctr.state.errors import BrokerUnavailableError
from ecdctr.streams import topics as topics_module
from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import describe_topics, ensure_topic, ensure_topics, partition_counts
from tests.support.intakes import event

pytestmark = pytest.mark.broker


def test_topics_are_made_once_and_kept(streams, caplog):
    topics = streams.topics
    wanted = {topics.natural: 2, topics.ad: 2, f"{topics.natural}.dlq": 1, f"{topics.ad}.dlq": 1}
    assert partition_counts(streams.connection, [*wanted, "absent"]) == wanted
    more = topics.model_copy(update={"partitions": 5})
    assert ensure_topics(streams.connection, more) == wanted
    assert f'"{topics.natural}" exists with 2 partitions' in caplog.text


def test_ends_and_lag_are_the_true_ones(streams):
    topic = streams.topics.ad
    streams.send(topic, [event(i) for i in range(70)], partition=0)
    consumer = KafkaConsumer(**streams.connection.kafka_python(), group_id=streams.worker.group)
    consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(40, "", -1)})
    consumer.close()
    found = {
        (p.topic, p.partition): (p.beginning, p.end, p.committed, p.lag)
        for p in describe_topics(streams.connection, streams.topics, streams.worker.group)
    }
    assert found[(topic, 0)] == (0, 70, 40, 30)
    assert found[(topic, 1)] == (0, 0, None, 0)
    assert len(found) == 6


def test_topics_that_do_not_exist_are_left_out(streams):
    absent = TopicSettings(natural="absent-natural", ad="absent-ad")
    assert describe_topics(streams.connection, absent, "nobody") == []


def test_a_new_topic_has_leaders_when_it_is_returned(streams, monkeypatch):
    """Another process may create a topic, with partitions of its own, between the look and the creation."""
    created = TopicSettings(natural="raced-natural", ad="raced-ad", partitions=2)
    asked = []
    counts, wait = topics_module._counts, KafkaAdminClient.wait_for_topics

    def raced(admin, names):
        found = counts(admin, names)
        if not asked:
            admin.create_topics([NewTopic(created.ad, num_partitions=3, replication_factor=1)])
        return found

    def waited(admin, names, timeout_ms):
        asked.append(sorted(names))
        return wait(admin, names, timeout_ms)

    monkeypatch.setattr(topics_module, "_counts", raced)
    monkeypatch.setattr(KafkaAdminClient, "wait_for_topics", waited)
    found = ensure_topics(streams.connection, created)
    assert asked == [["raced-ad", "raced-ad.dlq", "raced-natural", "raced-natural.dlq"]]
    assert found == {"raced-natural": 2, "raced-ad": 3, "raced-natural.dlq": 1, "raced-ad.dlq": 1}


def test_a_new_topic_without_leaders_is_an_error_that_names_it(streams, monkeypatch):
    def never(admin, names, timeout_ms):
        raise KafkaTimeoutError("no leader")

    monkeypatch.setattr(KafkaAdminClient, "wait_for_topics", never)
    with pytest.raises(
        BrokerUnavailableError, match="leaderless: created, but not every partition has a leader"
    ):
        ensure_topic(streams.connection, "leaderless", 1)


def test_a_log_with_one_empty_topic_answers_again_and_again(streams):
    """After its true ends were read, a client's metadata holds the topics with records only."""
    streams.send(streams.topics.natural, [event(i) for i in range(4)])
    with KafkaLog(streams.connection, streams.decoder, streams.topics.domains) as log:
        keys = log.partitions()
        for _ in range(20):
            ends = log.end(keys)
            assert sum(ends.values()) == 4
            assert set(log.beginning(keys).values()) == {0}
            assert log.end(keys) == ends
