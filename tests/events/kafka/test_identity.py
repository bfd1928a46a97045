"""Requests about the identity of a log, where one of the brokers hangs."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from kafka.errors import KafkaTimeoutError

from ecdctr.events.kafka.identity import epoch_ends, topic_ids
from ecdctr.state.errors import BrokerUnavailableError

GOOD, HANGS = 1, 2


class Manager:
    """Partition 0 is led by a broker that hangs, until ``elected`` requests for metadata were made; partition 1 by another one.

    ``silent``: the number of requests for metadata that are not answered first.
    """

    def __init__(self, elected: float = float("inf"), silent: int = 0) -> None:
        self.elected, self.silent = elected, silent
        self.asked: list[int | None] = []

    def run(self, work, *arguments):
        return asyncio.run(work(*arguments))

    def send(self, request, node_id=None):
        self.asked.append(node_id)
        return request, node_id

    async def wait_for(self, sent, _limit_ms):
        request, node = sent
        if node is None:
            return self._metadata()
        if node == HANGS:
            raise KafkaTimeoutError("Timed out after 5000 ms")
        partitions = [
            SimpleNamespace(partition=p.partition, error_code=0, end_offset=10 + p.partition)
            for _, asked in request.topics
            for p in asked
        ]
        return SimpleNamespace(topics=[SimpleNamespace(topic="ads", partitions=partitions)])

    def _metadata(self):
        if self.silent:
            self.silent -= 1
            raise KafkaTimeoutError("Timed out after 5000 ms")
        first = GOOD if self.asked.count(None) > self.elected else HANGS
        partitions = [
            SimpleNamespace(partition_index=p, leader_id=leader) for p, leader in enumerate((first, GOOD))
        ]
        return SimpleNamespace(topics=[SimpleNamespace(name="ads", partitions=partitions)])


def test_a_leader_that_hangs_is_asked_beside_the_others_and_its_successor_alone():
    manager = Manager(elected=1)
    found = epoch_ends(SimpleNamespace(_manager=manager), {("ads", 0): 3, ("ads", 1): 3})
    assert found == {("ads", 0): 10, ("ads", 1): 11}
    assert manager.asked == [None, HANGS, GOOD, None, GOOD]


def test_only_the_partition_whose_leader_hangs_is_named():
    with pytest.raises(BrokerUnavailableError, match=r"leader epochs of ads\[0\] "):
        epoch_ends(SimpleNamespace(_manager=Manager()), {("ads", 0): 3, ("ads", 1): 3}, timeout_s=0.3)


def test_metadata_is_asked_for_a_second_time():
    manager = Manager(elected=0, silent=1)
    assert epoch_ends(SimpleNamespace(_manager=manager), {("ads", 1): 3}) == {("ads", 1): 11}
    with pytest.raises(BrokerUnavailableError, match="no broker reports the ids of ads"):
        topic_ids(SimpleNamespace(_manager=Manager(silent=2)), ["ads"])
