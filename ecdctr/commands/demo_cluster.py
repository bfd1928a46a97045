"""``DemoCluster``: the Kafka of a demo, which is the embedded broker or one that is there, and the topics that the demo makes."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ecdctr.overrides import key_of
from ecdctr.settings import load_settings
from ecdctr.state.errors import ConfigError, EcdctrError, StreamError
from ecdctr.streams.topics import broker_count, delete_topics, partition_counts

__all__ = ["DemoCluster", "demo_cluster"]

log = logging.getLogger("ecdctr.demo")

REPLICAS = 3
"""Replicas of the demo's topics, at most: as many as there are brokers."""
_ALLOWED = ("kafka.", "topics.replication=", "topics.partitions=")


@dataclass(frozen=True, slots=True)
class DemoCluster:
    """Brokers that the demo uses.

    Attributes
    ----------
    title
        For the output.
    overrides
        Keys of the configuration that differ from those of another demo, as ``key=value``.
    """

    title: str
    overrides: tuple[str, ...]


@contextmanager
def demo_cluster(
    folder: Path, brokers: str | None, overrides: Sequence[str], prefix: str | None, *, keep_topics: bool
) -> Iterator[DemoCluster]:
    """Start the embedded broker, or check that the brokers hold none of the demo's topics; delete these at the end.

    Parameters
    ----------
    folder
        Of the demo, for the log of the embedded broker.
    brokers
        ``host:port`` with commas; None: the embedded broker.
    overrides
        Keys of the section ``kafka``, ``topics.replication`` and ``topics.partitions``, as ``key=value``.
    prefix
        Begin of the names of topics and group; None: a random one.
    keep_topics
        Do not delete the topics.

    Raises
    ------
    ConfigError
        An override of another key, or options without ``brokers``.
    StreamError
        A topic of this name exists.
    """
    if brokers is None:
        if overrides or prefix or keep_topics:
            raise ConfigError("--set, --topic-prefix and --keep-topics of a demo need --brokers")
        from ecdctr.streams.embedded import EmbeddedBroker

        with EmbeddedBroker(log_file=folder / "broker.log") as broker:
            yield DemoCluster(
                f"embedded broker on {broker.address}",
                (f'kafka.brokers=["{broker.address}"]',),
            )
        return
    prefix = prefix or f"ecdctr-demo-{secrets.token_hex(4)}"
    made = _overrides(brokers, overrides, prefix)
    settings = load_settings(None, made, environ={}).settings
    topics = settings.topics
    names = [
        *topics.domains,
        *(topics.dead_letter(name) for name in topics.domains),
        settings.monitor.alerts_topic,
    ]
    there = partition_counts(settings.kafka, names)
    if there:
        raise StreamError(
            f"{', '.join(sorted(there))} exist at {', '.join(settings.kafka.addresses)}, and a demo uses only topics that it makes: "
            "choose another --topic-prefix, or leave it out"
        )
    if not any(text.startswith("topics.replication=") for text in overrides):
        made.append(f"topics.replication={min(REPLICAS, broker_count(settings.kafka))}")
    try:
        yield DemoCluster(f"Kafka at {', '.join(settings.kafka.addresses)}, topics {prefix}-*", tuple(made))
    finally:
        if not keep_topics:
            try:
                delete_topics(settings.kafka, names, settings.worker.group)
            except EcdctrError as error:
                log.warning("the topics %s were not deleted: %s", ", ".join(names), error)


def _overrides(brokers: str, overrides: Sequence[str], prefix: str) -> list[str]:
    for text in overrides:
        if not text.startswith(_ALLOWED):
            raise ConfigError(
                f"--set {key_of(text)}...: a demo accepts keys of the section kafka, topics.replication and topics.partitions"
            )
    return [
        f"topics.natural={prefix}-natural",
        f"topics.ad={prefix}-ad",
        f"monitor.alerts_topic={prefix}-alerts",
        f"worker.group={prefix}",
        *overrides,
        f'kafka.brokers="{brokers}"',
    ]
