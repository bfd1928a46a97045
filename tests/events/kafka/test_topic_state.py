"""What a broker's metadata shows of topics, read in one place."""

from types import SimpleNamespace

from aiokafka import errors

from ecdctr.events.kafka.topic_state import TopicState, name_keys

BROKERS = [(1, "kafka-1", 9092, None), (2, "kafka-2", 9092, None)]


def partition(number: int, leader: int, replicas: int = 2, in_sync: int = 2):
    """As in aiokafka's response: error, number, leader, replicas, replicas in sync, offline replicas."""
    return (0, number, leader, list(range(replicas)), list(range(in_sync)), [])


def test_each_state_of_topics_and_partitions_is_told_apart():
    metadata = SimpleNamespace(
        brokers=BROKERS,
        topics=[
            (0, "ads", False, [partition(1, 2, in_sync=1), partition(0, 1), partition(2, -1)]),
            (0, "far", False, [partition(0, 7)]),  # its leader is no broker that can be addressed
            (errors.UnknownTopicOrPartitionError.errno, "gone", False, []),
            (errors.LeaderNotAvailableError.errno, "new", False, []),
            (errors.TopicAuthorizationFailedError.errno, "secret", False, []),
        ],
    )
    found = TopicState.of(metadata)
    assert found.brokers == {1: ("kafka-1", 9092), 2: ("kafka-2", 9092)}
    assert found.shown == {
        "ads": frozenset({("ads", 0), ("ads", 1), ("ads", 2)}),
        "far": frozenset({("far", 0)}),
    }
    assert found.led_by == {1: [("ads", 0)], 2: [("ads", 1)]}
    assert found.leaderless == [("ads", 2), ("far", 0)]
    assert found.behind == {("ads", 1): (1, 2)}
    assert found.absent == {"gone": 3, "new": 5}
    assert found.hidden == ["secret"]


def test_of_many_partitions_the_first_are_named():
    keys = [("ads", number) for number in range(10)]
    assert name_keys(reversed(keys)) == ", ".join(f"ads[{n}]" for n in range(8)) + " and 2 more"
