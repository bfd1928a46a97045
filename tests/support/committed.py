"""Offsets that were committed to a worker's group, as tools show them."""

from __future__ import annotations

from kafka import KafkaConsumer, TopicPartition

from ecdctr.events.settings import KafkaSettings
from tests.support.sites import Site

__all__ = ["committed"]


def committed(site: Site, connection: KafkaSettings | None = None) -> dict[tuple[str, int], int]:
    """The committed offset of every partition that has one; ``connection``: default, that of the site."""
    consumer = KafkaConsumer(
        **(connection or site.settings.kafka).kafka_python(),
        group_id=site.settings.worker.group,
        enable_auto_commit=False,
    )
    try:
        keys = [
            (topic, p)
            for topic in site.settings.topics.domains
            for p in sorted(consumer.partitions_for_topic(topic) or ())
        ]
        found = {key: consumer.committed(TopicPartition(*key)) for key in keys}
    finally:
        consumer.close(autocommit=False)
    return {key: offset for key, offset in found.items() if offset is not None and offset >= 0}
