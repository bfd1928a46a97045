"""The rows of the last messages of a topic, whatever their fields are."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from ecdctr.events.kafka import partition_offsets, stating_the_reason
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import StreamError
from ecdctr.streams.doctor.fields import rows_of
from ecdctr.streams.doctor.sample import read_last

__all__ = ["TopicRows", "topic_rows"]


@dataclass(frozen=True, eq=False)
class TopicRows:
    """Rows of a topic.

    Attributes
    ----------
    rows
        One dictionary for each row of the sampled messages, partition by partition.
    messages
        Number of sampled messages.
    held
        Number of messages that the topic holds, by its offsets.
    """

    rows: list[dict[str, Any]]
    messages: int
    held: int


def topic_rows(settings: KafkaSettings, topic: str, messages: int, timeout_s: float = 20.0) -> TopicRows:
    """Read about ``messages`` of the last messages of a topic, outside of any group.

    Raises
    ------
    StreamError
        No broker can be used, or the topic does not exist or cannot be read.
    """
    with stating_the_reason(settings, [topic]):
        consumer = KafkaConsumer(**settings.kafka_python(), group_id=None, allow_auto_create_topics=False)
        with closing(consumer):
            numbers = sorted(consumer.partitions_for_topic(topic) or ())
            if not numbers:
                raise StreamError(f'topic "{topic}" does not exist, or this client may not see it')
            tps = [TopicPartition(topic, number) for number in numbers]
            first = partition_offsets(consumer, tps, "beginning", timeout_s)
            end = partition_offsets(consumer, tps, "end", timeout_s)
    records = read_last(settings, topic, numbers, messages, timeout_s)
    found = [record for partition in sorted(records) for record in records[partition]]
    return TopicRows(list(map(dict, rows_of(found))), len(found), sum(end[tp] - first[tp] for tp in tps))
