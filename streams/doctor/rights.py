"""Checks of the client's rights on topics and on the group."""

from __future__ import annotations

from collections.abc import Iterator

from ecdctr.events.settings import KafkaSettings
from ecdctr.streams.doctor.checks import Check, failed, ok, skipped, warning
from ecdctr.streams.doctor.cluster import ClusterView
from ecdctr.streams.settings import TopicSettings

__all__ = ["check_rights", "needed_rights"]


def needed_rights(topics: TopicSettings, alerts: str) -> list[tuple[str, str, str, bool]]:
    """The least rights of a worker: topic, right, what for, and whether it cannot run without.

    >>> for topic, right, _, _ in needed_rights(TopicSettings(), "ecdctr-alerts"):
    ...     print(right, topic)
    Read natural-clicks
    Read ad-clicks
    Write natural-clicks.dlq
    Read natural-clicks.dlq
    Write ad-clicks.dlq
    Read ad-clicks.dlq
    Write ecdctr-alerts
    """
    out = [(name, "Read", "to learn from it", True) for name in topics.domains]
    for name in topics.domains:
        dead = topics.dead_letter(name)
        out.append((dead, "Write", "to send rejected messages there", True))
        out.append((dead, "Read", "to find after a restart which were sent already", True))
    if alerts:
        out.append((alerts, "Write", "to send alerts there", False))
    return out


def check_rights(
    view: ClusterView, settings: KafkaSettings, topics: TopicSettings, alerts: str, group: str
) -> Iterator[Check]:
    """One check for each right: all that are missing, at once."""
    for topic, right, purpose, required in needed_rights(topics, alerts):
        name = f'{right} on topic "{topic}"'
        found = view.topics.get(topic)
        if found is None or (found.shown and not found.exists):
            yield skipped(name, "the topic does not exist")
        elif found.rights is None:
            tested = topic in topics.domains
            yield skipped(
                name,
                "the broker does not report rights; "
                + ("reading is tested below" if tested else "it is not tested"),
            )
        elif right.upper() in found.rights:
            yield ok(name, f"{settings.principal} has it")
        else:
            hidden = "" if found.shown else "; the topic is not shown to it"
            report = failed if required else warning
            yield report(
                name,
                f"{settings.principal} needs it {purpose}, and does not have it{hidden}",
                _grant(settings, right, "topic", topic),
            )
    name = f'Read on group "{group}"'
    if view.group_rights is None:
        yield skipped(name, "the broker does not report rights on groups")
    elif "READ" in view.group_rights:
        yield ok(name, f"{settings.principal} has it")
    else:
        yield warning(
            name,
            f"{settings.principal} does not have it: the worker runs, but publishes no offsets, so lag tools show nothing",
            _grant(settings, "Read", "group", group),
        )


def _grant(settings: KafkaSettings, right: str, kind: str, name: str) -> str:
    """The command with which an administrator grants it; the principal is known only where it is a user's name."""
    user = settings.username if settings.uses_sasl and not settings.uses_tokens else None
    who = f"User:{user}" if user is not None else "User:NAME"
    return (
        f"kafka-acls.sh --bootstrap-server {settings.addresses[0]} --command-config admin.properties --add "
        f"--allow-principal {who} --operation {right} --{kind} {name}"
    )
