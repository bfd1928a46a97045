"""Checks of the topics: partitions, leaders, replicas, retention, clean-up, time stamps and message sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ecdctr.streams.doctor.checks import Check, failed, ok, skipped, warning
from ecdctr.streams.doctor.cluster import ClusterView, TopicView
from ecdctr.streams.settings import TopicSettings

__all__ = ["check_topics"]

_DAY_MS = 86_400_000
_CREATE = "create it with `ecdctr topics --create`"


def check_topics(
    view: ClusterView, topics: TopicSettings, alerts: str, journal_days: float, months: str
) -> Iterator[Check]:
    """Checks of the click topics, their dead-letter topics and the alerts topic.

    Parameters
    ----------
    journal_days
        Days that `ecdctr replay --journal` is expected to reach back.
    months
        What TPM reads from the topics, as a sentence part; empty: nothing that retention could delete.
    """
    dead = {name: topics.dead_letter(name) for name in topics.domains}
    for name in [*topics.domains, *dead.values(), *([alerts] if alerts else [])]:
        found = view.topics.get(name)
        if found is None or not found.shown:
            yield skipped(f'topic "{name}"', "it is not shown to this client: see the rights")
        elif not found.exists:
            yield _missing(found, required=name != alerts)
        else:
            yield from _partitions(found, written=name not in topics.domains, required=name != alerts)
            if name in topics.domains:
                yield from _kept(found, journal_days, months)
    for name, letters in dead.items():
        yield from _sizes(view.topics.get(name), view.topics.get(letters))


def _missing(topic: TopicView, required: bool) -> Check:
    name = f'topic "{topic.name}"'
    if not topic.creation:
        verb = "creates" if topic.creation == "" else "tries to create"
        when = f"the worker {verb} it {'at its start' if required else 'with the first alert'}"
        return warning(name, f"it does not exist; {when}", f"nothing, or {_CREATE}" if required else "")
    report = failed if required else warning
    return report(
        name,
        f"it does not exist, and this client cannot create it ({topic.creation})",
        "create it as an administrator, grant the right Create on it, or correct topics.replication",
    )


def _partitions(topic: TopicView, written: bool, required: bool) -> Iterator[Check]:
    name = f'topic "{topic.name}"'
    replicas = min((len(p.replicas) for p in topic.partitions), default=0)
    leaderless = [p.number for p in topic.partitions if p.leader < 0]
    least = int((topic.config or {}).get("min.insync.replicas", "1"))
    short = [p.number for p in topic.partitions if len(p.in_sync) < least]
    report = failed if required else warning
    if leaderless:
        yield report(
            name,
            f"partitions {_numbers(leaderless)} have no leader: they can be neither read nor written",
            "start the brokers that hold them",
        )
    elif written and short:
        yield report(
            name,
            f"partitions {_numbers(short)} have fewer than min.insync.replicas = {least} replicas in sync: nothing can be "
            "written there, and training waits at the first message that has to be",
            "start the brokers that hold the replicas, or lower min.insync.replicas",
        )
    else:
        count = len(topic.partitions)
        yield ok(
            name,
            f"{count} {'partition' if count == 1 else 'partitions'}, {replicas} {'replica' if replicas == 1 else 'replicas'} each, all with a leader",
        )


def _numbers(found: list[int]) -> str:
    return ", ".join(map(str, found[:10])) + ("" if len(found) <= 10 else f" and {len(found) - 10} more")


def _kept(topic: TopicView, journal_days: float, months: str) -> Iterator[Check]:
    name = f'contents of topic "{topic.name}"'
    if topic.config is None:
        yield skipped(
            name,
            "retention, clean-up and message size cannot be read: this needs the right DescribeConfigs on the topic, which a "
            "worker does not need",
        )
        return
    policy = topic.config.get("cleanup.policy", "delete")
    if "compact" in policy:
        yield warning(
            f'clean-up of topic "{topic.name}"',
            f"cleanup.policy = {policy}: older records of a key are deleted, so that a restart or an audit may miss rows that "
            "were learned",
            "set cleanup.policy = delete",
        )
    days = _retention_days(topic.config) if "delete" in policy else None
    size = topic.config.get("retention.bytes", "-1")
    kind = topic.config.get("message.timestamp.type", "CreateTime")
    codec = topic.config.get("compression.type", "producer")
    found = (
        f"kept {'for ever' if days is None else f'for {days:.3g} days'}"
        + ("" if size == "-1" else f" and up to {int(size):,} bytes a partition")
        + f"; time stamps: {kind}; compression: {codec}"
    )
    if days is not None and days < 1:
        yield warning(
            name,
            f"{found}: a worker that stands still for longer loses records",
            "raise retention.ms of the topic",
        )
    elif days is not None and days < journal_days:
        yield warning(
            name,
            f"{found}: `ecdctr replay --journal` reaches back {days:.3g} days, and state.journal_keep_days is {journal_days:g}",
            f"raise retention.ms of the topic to {int(journal_days * _DAY_MS)}, or lower state.journal_keep_days",
        )
    else:
        yield ok(name, found)
    if months and days is not None and days < _MONTH_DAYS:
        yield warning(
            f'months in topic "{topic.name}"',
            f"{months}, and the topic keeps {days:.3g} days, less than a month",
            "raise retention.ms of the topic, set tpm.live, or train TPM from files",
        )


_MONTH_DAYS = 31


def _retention_days(config: Mapping[str, str]) -> float | None:
    """Days until records are deleted; None: they are kept for ever."""
    text = config.get("retention.ms", "-1")
    return None if text == "-1" else int(text) / _DAY_MS


def _sizes(topic: TopicView | None, letters: TopicView | None) -> Iterator[Check]:
    if topic is None or letters is None or topic.config is None or letters.config is None:
        return
    most, takes = (
        int(t.config.get("max.message.bytes", "1048588")) for t in (topic, letters) if t.config is not None
    )
    name = f'message size of "{letters.name}"'
    if takes < most:
        yield warning(
            name,
            f"it takes {takes:,} bytes, and {topic.name} takes {most:,}: a larger message that is rejected is kept there without "
            "its content",
            f"set max.message.bytes of {letters.name} to {most + 10_000} or more",
        )
    else:
        yield ok(name, f"it takes {takes:,} bytes, {topic.name} {most:,}")
