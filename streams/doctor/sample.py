"""Reads the last messages of a topic, outside any consumer group."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from ecdctr.events.kafka import codec_error, in_one_sentence, partition_offsets, true_ends
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError

__all__ = ["Records", "read_last"]

Records = dict[int, list[Any]]
"""Records of each partition, in offset order."""

MOST_BYTES = 64 << 20
"""No more is read: messages may have any size."""
_IDLE_S = 2.0


def read_last(
    settings: KafkaSettings, topic: str, partitions: Sequence[int], messages: int, timeout_s: float
) -> Records:
    """About ``messages`` of the last messages of a topic, evenly from its partitions.

    Fewer are returned if there are no more, after :data:`MOST_BYTES`, and when the time is over. Of a transaction that
    was aborted nothing is returned, as a worker does not learn it.

    Raises
    ------
    StreamError
        The topic cannot be read.
    DataError
        The records are compressed with a codec that cannot be read here.
    """
    limit_ms = int(1000 * timeout_s)
    try:
        consumer = KafkaConsumer(
            **settings.kafka_python(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            isolation_level="read_committed",
            bootstrap_timeout_ms=limit_ms,
            request_timeout_ms=limit_ms,
            fetch_max_wait_ms=200,
            metrics_enabled=False,
        )
        with closing(consumer):
            return _read(consumer, topic, partitions, messages, timeout_s)
    except KafkaError as error:
        raise (codec_error(error, topic) or in_one_sentence(error, settings)) from error


def _read(consumer: Any, topic: str, partitions: Sequence[int], messages: int, timeout_s: float) -> Records:
    deadline = time.monotonic() + timeout_s
    tps = [TopicPartition(topic, p) for p in partitions]
    beginning = partition_offsets(consumer, tps, "beginning", timeout_s)
    ends = true_ends(consumer, tps, timeout_s)
    each = math.ceil(messages / max(1, len(tps)))
    left = {tp: end for tp, end in ends.items() if end > beginning[tp]}
    consumer.assign(list(left))
    for tp, end in left.items():
        consumer.seek(tp, max(beginning[tp], end - each))
    out: Records = {}
    size, heard = 0, time.monotonic()
    while left and size < MOST_BYTES:
        now = time.monotonic()
        # What is left may be a transaction that is still open.
        if now - heard > _IDLE_S:
            break
        if now > deadline:
            if not out:
                raise BrokerUnavailableError(
                    f'no message of topic "{topic}" arrived within {timeout_s:.0f} s'
                )
            break
        for tp, records in consumer.poll(timeout_ms=200, max_records=2 * messages).items():
            found = [record for record in records if record.offset < ends[tp]]
            out.setdefault(tp.partition, []).extend(found)
            size += sum(len(record.value or b"") for record in found)
            heard = time.monotonic()
        for tp in [tp for tp, end in left.items() if consumer.position(tp) >= end]:
            del left[tp]
    return out
