"""Requests about the identity of a log: ids of topics, ends of leader epochs, and topics that are compacted."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from kafka.errors import (
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    UnsupportedVersionError,
)
from kafka.protocol.admin import DescribeConfigsRequest
from kafka.protocol.consumer import OffsetForLeaderEpochRequest
from kafka.protocol.metadata import MetadataRequest

from ecdctr.state.errors import BrokerUnavailableError

__all__ = ["compacted_topics", "epoch_ends", "topic_ids"]

log = logging.getLogger("ecdctr.kafka")

Key = tuple[str, int]

_TOPIC = 2
"""Kafka's number of the resource type "topic"."""
_CLEANUP = "cleanup.policy"
_REQUEST_MS = 5_000
"""Limit of one request; a broker that hangs is left for another one."""
_RETRY_S = 0.2
_UNKNOWN_TO_THE_BROKER = (IncompatibleBrokerVersion, UnsupportedVersionError)


def topic_ids(consumer: Any, topics: Iterable[str]) -> dict[str, str]:
    """``{topic: id}`` of the topics that the broker shows with an id (Kafka 2.8 and later).

    Parameters
    ----------
    consumer
        A kafka-python consumer.

    Raises
    ------
    BrokerUnavailableError
        No broker answered.
    """
    wanted = list(topics)
    try:
        answer = consumer._manager.run(_metadata, consumer._manager, wanted)
    except KafkaError as error:
        raise BrokerUnavailableError(
            f"no broker reports the ids of {', '.join(wanted)} ({type(error).__name__}: {error})"
        ) from error
    return {
        topic.name: str(topic.topic_id)
        for topic in answer.topics
        if not topic.error_code and isinstance(topic.topic_id, uuid.UUID) and topic.topic_id.int
    }


def epoch_ends(consumer: Any, epochs: Mapping[Key, int], timeout_s: float = 30.0) -> dict[Key, int]:
    """Where leader epochs end: the offset at which the next epoch begins, or the end of the log.

    What was read in an epoch at or after its end was removed by an unclean leader election (KIP-101, KIP-320).

    Parameters
    ----------
    consumer
        A kafka-python consumer.
    epochs
        ``{(topic, partition): leader epoch}``.
    timeout_s
        Limit for the whole call.

    Returns
    -------
    dict
        Without the epochs that the leader of the partition does not know; empty if the brokers do not have the request.

    Raises
    ------
    BrokerUnavailableError
        A partition had no leader that answered, for ``timeout_s``.
    """
    open_, found = dict(epochs), {}
    deadline = time.monotonic() + timeout_s
    while open_:
        reason = "no leader"
        try:
            answers = consumer._manager.run(_ask_leaders, consumer._manager, open_)
        except _UNKNOWN_TO_THE_BROKER as error:
            log.debug("the brokers do not report leader epochs: %r", error)
            return {}
        except KafkaError as error:
            answers, reason = {}, f"{type(error).__name__}: {error}"
        found.update({key: end for key, end in answers.items() if end >= 0})
        open_ = {key: epoch for key, epoch in open_.items() if key not in answers}
        if open_ and time.monotonic() > deadline:
            names = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(open_))
            raise BrokerUnavailableError(f"no broker reports the leader epochs of {names} ({reason})")
        if open_:
            time.sleep(_RETRY_S)
    return found


def compacted_topics(consumer: Any, topics: Iterable[str]) -> set[str]:
    """The topics whose ``cleanup.policy`` contains ``compact``; without those whose configuration this user may not read."""
    resource = DescribeConfigsRequest.DescribeConfigsResource
    request = DescribeConfigsRequest(
        resources=[
            resource(resource_type=_TOPIC, resource_name=topic, configuration_keys=[_CLEANUP])
            for topic in topics
        ]
    )

    async def ask(manager: Any) -> Any:
        return await manager.wait_for(manager.send(request), _REQUEST_MS)

    try:
        answer = consumer._manager.run(ask, consumer._manager)
    except KafkaError as error:
        log.debug("cleanup.policy cannot be read: %r", error)
        return set()
    return {
        result.resource_name
        for result in answer.results
        for entry in result.configs or ()
        if entry.name == _CLEANUP and "compact" in (entry.value or "")
    }


async def _metadata(manager: Any, topics: Iterable[str]) -> Any:
    wanted = [MetadataRequest.MetadataRequestTopic(name=topic) for topic in topics]
    with suppress(KafkaTimeoutError, KafkaConnectionError):
        return await manager.wait_for(manager.send(_request(wanted)), _REQUEST_MS)
    # The client prefers a broker with which no request is open, so that this one goes to another broker.
    return await manager.wait_for(manager.send(_request(wanted)), _REQUEST_MS)


def _request(topics: list[Any]) -> Any:
    return MetadataRequest(topics=topics, allow_auto_topic_creation=False)


async def _ask_leaders(manager: Any, epochs: Mapping[Key, int]) -> dict[Key, int]:
    """The ends that the present leaders report; -1: the leader does not know the epoch."""
    metadata = await _metadata(manager, sorted({topic for topic, _ in epochs}))
    by_node: dict[int, dict[str, list[Any]]] = {}
    for topic in metadata.topics:
        for p in topic.partitions:
            epoch = epochs.get((topic.name, p.partition_index))
            if epoch is not None and p.leader_id >= 0:
                partition = OffsetForLeaderEpochRequest.OffsetForLeaderTopic.OffsetForLeaderPartition(
                    partition=p.partition_index, current_leader_epoch=-1, leader_epoch=epoch
                )
                by_node.setdefault(p.leader_id, {}).setdefault(topic.name, []).append(partition)
    found: dict[Key, int] = {}
    sent = [
        manager.send(OffsetForLeaderEpochRequest(replica_id=-1, topics=list(topics.items())), node_id=node)
        for node, topics in by_node.items()
    ]
    failure: KafkaError | None = None
    # All are sent before the first answer is waited for, and a leader that hangs does not hide what the others report.
    for future in sent:
        try:
            answer = await manager.wait_for(future, _REQUEST_MS)
        except _UNKNOWN_TO_THE_BROKER:
            raise
        except KafkaError as error:
            failure = error
            continue
        for result in answer.topics:
            for p in result.partitions:
                if not p.error_code:
                    found[(result.topic, p.partition)] = int(p.end_offset)
    if failure is not None and not found:
        raise failure
    return found
