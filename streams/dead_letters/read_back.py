"""``Tail``: which dead letters a topic already holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from ecdctr.events.kafka import (
    codec_error,
    naming_partitions,
    partition_offsets,
    stating_the_reason,
    true_ends,
)
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError
from ecdctr.streams.dead_letters.letter import Identity, identity_of
from ecdctr.streams.topics import partition_counts

__all__ = ["Tail"]

_READ_S = 120.0
_POLL_MS = 500
_OFFSETS_S = 10.0
_BOOTSTRAP_MS = _REQUEST_MS = 10_000
_METADATA_AGE_MS = 5_000
"""As for the click topics: longest time until a new leader is known, in place of one that does not answer."""


class Tail:
    """Reads the identities of the letters of one dead-letter topic, from a position that advances.

    Parameters
    ----------
    connection, topic
        Brokers and dead-letter topic.
    longest
        Letters per partition that the first reading reads at most.
    """

    def __init__(self, connection: KafkaSettings, topic: str, longest: int) -> None:
        self._connection, self._topic, self._longest = connection, topic, longest
        self._next: dict[int, int] = {}

    def passed(self, partition: int, offset: int) -> None:
        """Record that the letters up to this offset are known, so that they are not read again."""
        self._next[partition] = offset + 1

    def read(self, stop_requested: Callable[[], bool] = lambda: False) -> set[Identity]:
        """Identities of the letters since the last reading; records of other programs are passed over.

        Raises
        ------
        BrokerUnavailableError
            The letters could not be read now.
        BrokerRefusedError
            They may not be read.
        DataError
            They are compressed with a codec that cannot be read.
        """
        partitions = range(partition_counts(self._connection, [self._topic]).get(self._topic, 0))
        if not partitions:
            return set()
        with (
            naming_partitions(self._connection, [self._topic]),
            stating_the_reason(self._connection, [self._topic], probe_first=False),
        ):
            # Letters are not part of transactions, and an open one of another program would hide those after it.
            options = {**self._connection.kafka_python(), "isolation_level": "read_uncommitted"}
            consumer = KafkaConsumer(
                **options,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=100,
                bootstrap_timeout_ms=_BOOTSTRAP_MS,
                request_timeout_ms=_REQUEST_MS,
                metadata_max_age_ms=_METADATA_AGE_MS,
            )
            try:
                return self._read(
                    consumer, [TopicPartition(self._topic, p) for p in partitions], stop_requested
                )
            except KafkaError as error:
                unreadable = codec_error(error, self._topic)
                if unreadable is None:
                    raise
                raise unreadable from error
            finally:
                consumer.close()

    def _read(
        self, consumer: Any, tps: list[TopicPartition], stop_requested: Callable[[], bool]
    ) -> set[Identity]:
        ends = true_ends(consumer, tps, _OFFSETS_S)
        beginning = partition_offsets(consumer, tps, "beginning", _OFFSETS_S)
        first = {}
        for tp, end in ends.items():
            wanted = self._next.get(tp.partition, end - self._longest)
            # Below the end: the topic was created again.
            first[tp] = max(beginning[tp], wanted if wanted <= end else end - self._longest)
        unread = {tp: end for tp, end in ends.items() if end > first[tp]}
        consumer.assign(list(unread))
        for tp in unread:
            consumer.seek(tp, first[tp])
        out: set[Identity] = set()
        deadline = time.monotonic() + _READ_S
        while unread:
            if time.monotonic() > deadline or stop_requested():
                raise BrokerUnavailableError(
                    f'the letters of "{self._topic}" were not read within {_READ_S:.0f} s, so it is not known which of them were '
                    "written before"
                )
            for records in consumer.poll(timeout_ms=_POLL_MS, max_records=5_000).values():
                out.update(identity for r in records if (identity := identity_of(r)) is not None)
            for tp in [tp for tp, end in unread.items() if _position(consumer, tp) >= end]:
                del unread[tp]
        self._next.update({tp.partition: end for tp, end in ends.items()})
        return out


def _position(consumer: Any, tp: TopicPartition) -> int:
    try:
        return int(consumer.position(tp))
    except KafkaError:  # not known yet; polled again
        return -1
