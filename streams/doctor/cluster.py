"""``ClusterView``: what the brokers tell about topics, rights and the group, by requests that change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ACLOperation, ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from kafka.protocol.admin import DescribeGroupsRequest

from ecdctr.events.kafka import short_text
from ecdctr.events.settings import KafkaSettings

__all__ = ["ClusterView", "PartitionView", "TopicView", "view_cluster"]

_MOST_BROKERS = 16
"""Brokers that are asked about the group."""
_NOT_NOW = "Coordinator"
"""In the names of the errors of a broker that is not the coordinator of the group, or not yet."""

Rights = frozenset[str]
"""Names of ``kafka.admin.ACLOperation``: ``READ``, ``WRITE``, ..."""


@dataclass(frozen=True, slots=True)
class PartitionView:
    """Leader (-1: none), replicas and in-sync replicas of a partition, as numbers of brokers."""

    number: int
    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TopicView:
    """One topic.

    Attributes
    ----------
    shown
        False: the client may not see it, and nobody can tell whether it exists.
    exists
        Whether it exists, as far as is shown.
    rights
        The client's rights; None: the broker does not report them.
    config
        Its configuration; None: it may not be read.
    creation
        For one that does not exist: why it could not be created; empty: it could; None: this was not tested.
    """

    name: str
    shown: bool = True
    exists: bool = True
    partitions: tuple[PartitionView, ...] = ()
    rights: Rights | None = None
    config: Mapping[str, str] | None = None
    creation: str | None = None


@dataclass(frozen=True, slots=True)
class ClusterView:
    """All topics by name, and the rights on the group; None: the broker does not report them."""

    topics: Mapping[str, TopicView] = field(default_factory=dict)
    group_rights: Rights | None = None


class _Admin(KafkaAdminClient):  # type: ignore[misc]
    """Describes groups and rights as the checks need it."""

    def _describe_groups_request(self, group_ids: Sequence[str]) -> Any:
        # From version 6 on, the answer for a group that does not exist yet leaves out the rights on it.
        return DescribeGroupsRequest(
            groups=list(group_ids), include_authorized_operations=True, max_version=5
        )

    def _process_acl_operations(self, obj: dict[str, Any]) -> dict[str, Any]:
        found = obj.get("authorized_operations")
        known = {operation.value for operation in ACLOperation}
        if found is not None and not known.issuperset(found):
            found = None  # all bits are set, for example: a broker that does not know rights
        obj["authorized_operations"] = None if found is None else [ACLOperation(n).name for n in found]
        return obj


def view_cluster(
    settings: KafkaSettings, topics: Mapping[str, int], replication: int, group: str, timeout_s: float
) -> ClusterView:
    """Ask for the topics, their configurations, and the client's rights.

    1. Metadata of the topics with the operations that the client may do.
    2. The configuration of those that are shown.
    3. The description of the group with the operations that the client may do. The group is not joined.
    4. For topics that do not exist: a request to create them that is only validated. It is not sent to a broker that does
       not report rights, because such a one (the embedded broker) may create the topic all the same.

    Parameters
    ----------
    topics
        ``{topic: partitions}``; the number is that with which a missing topic would be created.
    replication
        Replicas with which it would be created.
    timeout_s
        Limit of each request.

    Raises
    ------
    KafkaError
        A request failed or was not answered in time.
    """
    limit_ms = int(1000 * timeout_s)
    options = settings.kafka_python()
    with closing(_Admin(**options, bootstrap_timeout_ms=limit_ms, request_timeout_ms=limit_ms)) as admin:
        shown = [_topic(found) for found in admin.describe_topics(list(topics))]
        configs = _configs(admin, [topic.name for topic in shown if topic.shown and topic.exists])
        group_rights, reports_rights = _group_rights(admin, group)
        views = {}
        for topic in shown:
            creation = None
            if topic.shown and not topic.exists and reports_rights:
                creation = _creation(admin, topic.name, topics[topic.name], replication)
            views[topic.name] = TopicView(
                topic.name, topic.shown, topic.exists, topic.partitions, topic.rights,
                configs.get(topic.name), creation,
            )  # fmt: skip
        return ClusterView(views, group_rights)


def _topic(found: Mapping[str, Any]) -> TopicView:
    error = for_code(found["error_code"])
    if error is TopicAuthorizationFailedError:
        return TopicView(found["name"], shown=False, exists=False, rights=frozenset())
    if error is UnknownTopicOrPartitionError:
        return TopicView(found["name"], exists=False)
    partitions = tuple(
        PartitionView(
            p["partition_index"], p["leader_id"], tuple(p["replica_nodes"] or ()), tuple(p["isr_nodes"] or ())
        )
        for p in sorted(found["partitions"], key=lambda p: int(p["partition_index"]))
    )
    return TopicView(found["name"], partitions=partitions, rights=_rights(found.get("authorized_operations")))


def _rights(names: Sequence[str] | None) -> Rights | None:
    return None if not names else frozenset(names)


def _configs(admin: Any, names: Sequence[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    try:
        found = admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in names], config_filter="all"
        )
    except KafkaError:  # not supported by every broker
        return {}
    # A topic whose configuration may not be read has no entries.
    return {
        name: {key: str(entry["value"]) for key, entry in entries.items()}
        for name, entries in found.get("topic", {}).items()
        if entries
    }


def _creation(admin: Any, name: str, partitions: int, replication: int) -> str:
    try:
        answer = admin.create_topics(
            [NewTopic(name, num_partitions=partitions, replication_factor=replication)],
            validate_only=True, raise_errors=False,
        )  # fmt: skip
    except KafkaError as error:
        return short_text(error)
    found = answer["topics"][0]
    if not found["error_code"]:
        return ""
    return f"{for_code(found['error_code']).__name__}: {found.get('error_message') or 'without a reason'}"


def _group_rights(admin: Any, group: str) -> tuple[Rights | None, bool]:
    """The rights on the group (None: not known), and whether the brokers report rights at all.

    Each broker is asked until the coordinator of the group answers. A request for the coordinator would create the topic of
    offsets on a cluster that has none.
    """
    reports = False
    for broker in admin.describe_cluster()["brokers"][:_MOST_BROKERS]:
        try:
            found = admin.describe_groups([group], group_coordinator_id=broker["broker_id"])[group]
        except (KafkaError, KeyError):  # one that is down, or does not describe groups
            continue
        error = found.get("error") or ""
        if GroupAuthorizationFailedError.__name__ in error:
            return frozenset(), True
        reports = reports or _NOT_NOW in error
        rights = _rights(found.get("authorized_operations"))
        if not error and rights is not None:
            return rights, True
    return None, reports
