"""Records of topics."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer, TopicPartition

from ecdctr.events.kafka import true_ends
from ecdctr.events.settings import KafkaSettings


def read_topic(connection: KafkaSettings, topic: str) -> list[Any]:
    """All records of a topic, each partition in order; none where there is no such topic."""
    consumer = KafkaConsumer(**connection.kafka_python(), group_id=None, auto_offset_reset="earliest")
    try:
        tps = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        if not tps:
            return []
        ends = true_ends(consumer, tps)
        consumer.assign(tps)
        consumer.seek_to_beginning()
        found: list[Any] = []
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            for records in consumer.poll(timeout_ms=200).values():
                found += records
        return found
    finally:
        consumer.close()
