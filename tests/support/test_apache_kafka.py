"""The harness itself: what a test sees when Apache Kafka does not start, and when nodes end."""

import socket

import pytest

from tests.support.apache_kafka import ApacheKafka, missing

pytestmark = [pytest.mark.slow, pytest.mark.broker, pytest.mark.timeout(400)]


@pytest.fixture(autouse=True)
def _available():
    if (reason := missing()) is not None:
        pytest.skip(reason)


def test_a_start_that_fails_shows_the_log_and_leaves_no_process(tmp_path):
    kafka = ApacheKafka(tmp_path)
    with (
        socket.create_server(("127.0.0.1", kafka.nodes[0].ports["PLAINTEXT"])),
        pytest.raises(RuntimeError, match="Address already in use"),
    ):
        kafka.start()
    assert not kafka.nodes[0].running


def test_a_node_that_was_killed_starts_again_with_its_topics(tmp_path):
    with ApacheKafka(tmp_path) as kafka:
        kafka.create_topic("kept", 3)
        (node,) = kafka.nodes
        node.kill()
        assert not node.running
        kafka.start_node(node)
        assert kafka.leader("kept", 2) is node
    assert not node.running
