"""Creates and describes the click topics and their dead-letter topics."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    KafkaTimeoutError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from ecdctr.events.kafka import naming_partitions, partition_offsets, stating_the_reason, true_ends
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerRefusedError, BrokerUnavailableError, StreamError
from ecdctr.streams.settings import TopicSettings

__all__ = [
    "PartitionState",
    "broker_count",
    "delete_topics",
    "describe_topics",
    "ensure_topic",
    "ensure_topics",
    "partition_counts",
]

log = logging.getLogger("ecdctr.topics")

BOOTSTRAP_MS = 10_000
_REQUEST_MS = 10_000
OFFSETS_S = 10.0
LEADERS_MS = 10_000
"""Maximum time until every partition of a new topic must have a leader."""


@dataclass(frozen=True, slots=True)
class PartitionState:
    """State of one partition at the broker.

    Attributes
    ----------
    beginning, end
        First offset of the log, and the next one that will be written.
    committed
        Next offset of the worker's last checkpoint; None before the first.
    """

    topic: str
    partition: int
    beginning: int
    end: int
    committed: int | None

    @property
    def lag(self) -> int:
        """Records that are not part of a checkpoint yet."""
        return self.end - (self.beginning if self.committed is None else max(self.committed, self.beginning))


def ensure_topics(connection: KafkaSettings, topics: TopicSettings) -> dict[str, int]:
    """Create those of the click topics and their dead-letter topics that do not exist.

    Existing topics are not changed, whatever their number of partitions. A dead-letter topic that is created here has one partition,
    so that its records have one order.

    Returns
    -------
    dict
        Number of partitions of each of the four topics.

    Raises
    ------
    BrokerUnavailableError
        No broker answers, or a new topic has no leaders.
    StreamError
        The broker refuses to create a topic.
    """
    wanted = dict.fromkeys(topics.domains, topics.partitions) | {
        topics.dead_letter(name): 1 for name in topics.domains
    }
    with _admin(connection) as admin:
        there = _counts(admin, list(wanted))
        absent = [name for name in wanted if name not in there]
        for name, partitions in wanted.items():
            if name not in there:
                _create(admin, name, partitions, topics.replication, connection.principal)
                there[name] = partitions
            elif name in topics.domains and there[name] != partitions:
                log.warning(
                    'topic "%s" exists with %d partitions; topics.partitions = %d is for new topics only',
                    name,
                    there[name],
                    partitions,
                )
        if absent:
            _wait_for_leaders(admin, absent)
            there |= _counts(admin, absent)  # another process may have created one with other partitions
    return {name: there[name] for name in wanted}


def ensure_topic(connection: KafkaSettings, name: str, replication: int) -> None:
    """Create a topic with one partition, so that its records have one order, unless it exists."""
    with _admin(connection) as admin:
        if not _counts(admin, [name]):
            _create(admin, name, 1, replication, connection.principal)
            _wait_for_leaders(admin, [name])


def partition_counts(connection: KafkaSettings, names: list[str]) -> dict[str, int]:
    """Number of partitions of each of the topics that exists."""
    with _admin(connection) as admin:
        return _counts(admin, names)


def broker_count(connection: KafkaSettings) -> int:
    """Number of brokers of the cluster that are alive."""
    with _admin(connection) as admin:
        return len(admin.describe_cluster()["brokers"])


def delete_topics(connection: KafkaSettings, names: Sequence[str], group: str) -> None:
    """Delete those of the topics that exist, and the group, if it has no members.

    Raises
    ------
    StreamError
        A topic cannot be deleted.
    """
    with _admin(connection) as admin:
        there = sorted(_counts(admin, list(names)))
        found = admin.delete_topics(there, raise_errors=False)["topics"] if there else []
        errors = [(t["name"], for_code(t["error_code"])) for t in found if t["error_code"]]
        with suppress(
            KafkaError
        ):  # only the lag that tools show depends on it, and there may be no such group
            admin.delete_groups([group])
    left = [
        f"{name} ({error.__name__})" for name, error in errors if error is not UnknownTopicOrPartitionError
    ]
    if left:
        raise StreamError(f"not deleted: {', '.join(left)}; delete them yourself")


def describe_topics(connection: KafkaSettings, topics: TopicSettings, group: str) -> list[PartitionState]:
    """State of every partition of the existing click and dead-letter topics, with the offsets that the group has committed."""
    names = [*topics.domains, *(topics.dead_letter(name) for name in topics.domains)]
    tps = [
        TopicPartition(name, p)
        for name, count in partition_counts(connection, names).items()
        for p in range(count)
    ]
    with naming_partitions(connection, names), stating_the_reason(connection, names, probe_first=False):
        consumer = KafkaConsumer(
            **connection.kafka_python(),
            group_id=group,  # to read its commits; nothing is subscribed, so the group is not joined
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        )
        try:
            beginning = partition_offsets(consumer, tps, "beginning", OFFSETS_S)
            committed = _committed(consumer, [tp for tp in tps if tp.topic in topics.domains], group)
            end = true_ends(consumer, tps, OFFSETS_S)
        finally:
            consumer.close(autocommit=False)
    return [
        PartitionState(tp.topic, tp.partition, beginning[tp], end[tp], _offset(committed.get(tp)))
        for tp in tps
    ]


def _committed(consumer: Any, tps: list[TopicPartition], group: str) -> dict[TopicPartition, Any]:
    try:
        return {tp: consumer.committed(tp) for tp in tps}
    except GroupAuthorizationFailedError:
        log.warning(
            'the offsets of group "%s" cannot be read: this needs the right Describe on the group, which a worker does not need',
            group,
        )
        return {}


def _offset(committed: Any) -> int | None:
    found = getattr(committed, "offset", committed)
    return None if found is None or found < 0 else int(found)


def _counts(admin: Any, names: list[str]) -> dict[str, int]:
    there = set(admin.list_topics())
    known = [name for name in names if name in there]
    if not known:
        return {}
    return {t["name"]: len(t["partitions"]) for t in admin.describe_topics(known)}


def _create(admin: Any, name: str, partitions: int, replication: int, who: str) -> None:
    found = admin.create_topics(
        [NewTopic(name, num_partitions=partitions, replication_factor=replication)], raise_errors=False
    )["topics"][0]
    error = for_code(found["error_code"])
    if error is TopicAlreadyExistsError:
        return  # created by another process meanwhile
    if error in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
        raise BrokerRefusedError(
            f'topic "{name}" does not exist or is not shown to {who}, which does not have the right Create: grant the rights on '
            f"it if it exists (`ecdctr doctor` lists those that are missing), or create it with {partitions} partitions"
        )
    if error is not NoError:
        raise StreamError(
            f'topic "{name}" ({partitions} partitions, {replication} replicas) cannot be created: {error.__name__}: '
            f"{found.get('error_message') or 'without a reason'}; create it yourself, or change topics.replication"
        )
    log.info('created topic "%s" with %d partitions', name, partitions)


def _wait_for_leaders(admin: Any, names: list[str]) -> None:
    """Wait until each partition of a new topic has a leader: before, it can be neither written nor read."""
    try:
        admin.wait_for_topics(names, timeout_ms=LEADERS_MS)
    except KafkaTimeoutError as error:
        raise BrokerUnavailableError(
            f"{', '.join(names)}: created, but not every partition has a leader after {LEADERS_MS // 1000} s: {error}"
        ) from error


@contextmanager
def _admin(connection: KafkaSettings) -> Iterator[Any]:
    with stating_the_reason(connection):
        admin = KafkaAdminClient(
            **connection.kafka_python(), bootstrap_timeout_ms=BOOTSTRAP_MS, request_timeout_ms=_REQUEST_MS
        )
        try:
            yield admin
        finally:
            admin.close()
