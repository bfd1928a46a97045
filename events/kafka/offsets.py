"""First and end offsets of partitions, verified against brokers that report wrong ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from kafka import TopicPartition
from kafka.errors import KafkaError
from kafka.protocol.consumer import IsolationLevel

from ecdctr.events.kafka.client_errors import is_damage, missing_right, short_text, user_of
from ecdctr.state.errors import BrokerUnavailableError

__all__ = ["partition_offsets", "stable_ends", "true_ends"]

RETRY_S = 0.05


def partition_offsets(
    consumer: Any,
    partitions: Sequence[TopicPartition],
    which: Literal["beginning", "end"],
    timeout_s: float = 30.0,
) -> dict[TopicPartition, int]:
    """The broker's answer to ``beginning_offsets`` or ``end_offsets``, for every partition.

    If the leaders of some partitions are unknown, kafka-python 3.0 omits these partitions and then raises a bare
    ``KeyError``. This happens right after a topic was created, while a broker restarts, and after ``assign`` has
    restricted the metadata to other topics. The request also updates the metadata, so it is sent again until every
    partition has an answer.

    Parameters
    ----------
    consumer
        A kafka-python consumer.
    partitions
        Any number, of any topics.
    which
        The first offset that a partition still has, or its end as the broker reports it (see :func:`true_ends`).
    timeout_s
        Limit for the whole call.

    Raises
    ------
    BrokerRefusedError
        A topic may not be read.
    BrokerUnavailableError
        A partition had no leader, or no broker answered, for ``timeout_s``.
    """
    tps = list(partitions)
    request = consumer.beginning_offsets if which == "beginning" else consumer.end_offsets
    deadline = time.monotonic() + timeout_s
    while True:
        left_ms = max(1, int(1000 * (deadline - time.monotonic())))
        try:
            return {tp: int(offset) for tp, offset in request(tps, timeout_ms=left_ms).items()}
        except KeyError as error:
            unknown = error.args[0]
            if unknown not in tps:
                raise
        except KafkaError as error:
            raise missing_right(error, user_of(consumer)) or BrokerUnavailableError(
                f"no broker reports where {_names(tps)} {which}s ({short_text(error)})"
            ) from error
        if time.monotonic() > deadline:
            raise BrokerUnavailableError(
                f"no leader is known for {_names([unknown])} after {timeout_s:.0f} s"
            )
        time.sleep(RETRY_S)


def true_ends(
    consumer: Any, partitions: Sequence[TopicPartition], timeout_s: float = 30.0
) -> dict[TopicPartition, int]:
    """The next offset that each partition will write.

    ``end_offsets`` alone is not enough, because some brokers return the first offset of the last batch + 1. The
    high watermark in a fetch response is correct on all brokers, so one fetch is made from that offset.

    Parameters
    ----------
    consumer
        A kafka-python consumer that is not used elsewhere at the same time: its assignment and positions are changed.
    partitions
        Any number, of any topics.
    timeout_s
        Limit for the whole call.

    Raises
    ------
    BrokerRefusedError
        A topic may not be read.
    BrokerUnavailableError
        A partition had no leader, or no broker answered, for ``timeout_s``.
    """
    tps = list(partitions)
    deadline = time.monotonic() + timeout_s
    beginning = partition_offsets(consumer, tps, "beginning", timeout_s)
    ends = partition_offsets(consumer, tps, "end", max(0.0, deadline - time.monotonic()))
    filled = [tp for tp in tps if ends[tp] > beginning[tp]]
    try:
        consumer.assign(filled)
        for tp in filled:
            consumer.seek(tp, ends[tp] - 1)
        # Wait for a response, not for records: the last offset may be a transaction marker, or removed by compaction.
        while waiting := [tp for tp in filled if consumer.highwater(tp) is None]:
            if time.monotonic() > deadline:
                raise BrokerUnavailableError(
                    f"no answer in {timeout_s:.0f} s about the end of {_names(waiting)}"
                )
            try:
                consumer.poll(timeout_ms=200, max_records=1)
            except KafkaError as error:
                # The last batch may be damaged; the response tells the end nevertheless.
                if not is_damage(error):
                    raise
        return {
            tp: max(end, consumer.highwater(tp) or 0) if tp in filled else end for tp, end in ends.items()
        }
    except KafkaError as error:
        raise missing_right(error, user_of(consumer)) or BrokerUnavailableError(
            f"the broker does not report where its partitions end: {short_text(error)}"
        ) from error


def stable_ends(
    consumer: Any, written: Mapping[TopicPartition, int], timeout_s: float = 30.0
) -> dict[TopicPartition, int]:
    """The last stable offset of each partition: every transaction before it has ended; readers of committed records reach it.

    Brokers that return the first offset of the last batch + 1 for an end (see :func:`true_ends`) do so for both kinds of end.
    An end that is lower than what was written before it was asked for is therefore believed only of a broker that then
    reports at least as much as was written.

    Parameters
    ----------
    consumer
        A kafka-python consumer that is not used elsewhere at the same time.
    written
        What :func:`true_ends` has just returned.
    timeout_s
        Limit for each of at most two requests.

    Raises
    ------
    BrokerRefusedError
        A topic may not be read.
    BrokerUnavailableError
        A partition had no leader, or no broker answered, for ``timeout_s``.
    """
    with _read_committed(consumer):
        stable = partition_offsets(consumer, list(written), "end", timeout_s)
    lower = [tp for tp, end in written.items() if stable[tp] < end]
    if lower:
        reported = partition_offsets(consumer, lower, "end", timeout_s)
        stable |= {tp: written[tp] for tp in lower if reported[tp] < written[tp]}
    return stable


@contextmanager
def _read_committed(consumer: Any) -> Iterator[None]:
    """Let the consumer ask for last stable offsets: kafka-python takes the isolation level of a request from its fetcher."""
    fetcher = consumer._fetcher
    before = fetcher._isolation_level
    fetcher._isolation_level = IsolationLevel.READ_COMMITTED
    try:
        yield
    finally:
        fetcher._isolation_level = before


def _names(partitions: Sequence[TopicPartition]) -> str:
    return ", ".join(f"{tp.topic}[{tp.partition}]" for tp in partitions)
