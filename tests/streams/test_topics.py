import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import describe_topics, ensure_topics, partition_counts

pytestmark = pytest.mark.broker


def test_topics_are_made_once_and_kept(streams, caplog):
    topics = streams.topics
    wanted = {topics.natural: 2, topics.ad: 2, f"{topics.natural}.dlq": 1, f"{topics.ad}.dlq": 1}
    assert partition_counts(streams.connection, [*wanted, "absent"]) == wanted
    more = topics.model_copy(update={"partitions": 5})
    assert ensure_topics(streams.connection, more) == wanted
    assert f'"{topics.natural}" exists with 2 partitions' in caplog.text


def test_ends_and_lag_are_the_true_ones(streams, kit):
    topic = streams.topics.ad
    streams.send(topic, [kit.event(i) for i in range(70)], partition=0)
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
