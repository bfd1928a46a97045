"""A missing right is one sentence with right, resource and user, whatever the client's error holds."""

from types import SimpleNamespace

import pytest
from aiokafka import errors as aio
from kafka import TopicPartition
from kafka import errors as python

from ecdctr.events.kafka import in_one_sentence, partition_offsets, short_text, true_ends
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerRefusedError, BrokerUnavailableError

SETTINGS = KafkaSettings(brokers="k:1", security="sasl_ssl", username="trainer", password="x")
DUMP = "Request 'CreateTopicsRequest(topics=[...\n...])' failed with response 'CreateTopicsResponse(...)'."


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (python.TopicAuthorizationFailedError({"b", "a"}), 'right Write on topics "a", "b"'),
        (python.TopicAuthorizationFailedError("a"), 'right Write on topic "a"'),
        (python.TopicAuthorizationFailedError(DUMP), 'right Write on topic "asked"'),
        (python.TopicAuthorizationFailedError(), 'right Write on topic "asked"'),
        (aio.TopicAuthorizationFailedError("a"), 'right Write on topic "a"'),
        (python.GroupAuthorizationFailedError("g"), "right Read on the consumer group"),
        (python.KafkaError("Unexpected error in InitProducerIdResponse: [Error 31] ClusterAuthorizationFailedError"), 'Write on topic "asked"'),
    ],
)  # fmt: skip
def test_case_a18_a_missing_right_is_named_with_resource_and_user(error, said):
    found = in_one_sentence(error, SETTINGS, "Write", ["asked"])
    assert isinstance(found, BrokerRefusedError)
    assert str(found).startswith('the user "trainer" does not have the right') and said in str(found)
    assert "\n" not in str(found) and "Request" not in str(found)


@pytest.mark.parametrize("error", [python.PolicyViolationError(DUMP), python.KafkaTimeoutError("x" * 2000)])
def test_other_errors_are_short_and_may_pass(error):
    found = in_one_sentence(error, SETTINGS)
    assert isinstance(found, BrokerUnavailableError)
    assert len(str(found)) < 300 and "\n" not in str(found) and "Request" not in str(found)
    assert short_text(error) in str(found)


class Refusing:
    """A consumer that may not read its topic."""

    config = SimpleNamespace(get={"sasl_plain_username": "trainer"}.get)

    def beginning_offsets(self, tps, timeout_ms):
        raise python.TopicAuthorizationFailedError({tp.topic for tp in tps})


@pytest.mark.parametrize("ask", [lambda c, tps: partition_offsets(c, tps, "beginning"), true_ends])
def test_case_a18_offsets_of_a_topic_that_may_not_be_read(ask):
    with pytest.raises(
        BrokerRefusedError, match='the user "trainer" does not have the right Read on topic "t"'
    ):
        ask(Refusing(), [TopicPartition("t", 0)])
