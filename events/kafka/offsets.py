"""Where partitions begin and truly end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError

from ecdctr.state.errors import BrokerUnavailableError

__all__ = ["true_ends"]


def true_ends(
    consumer: Any, partitions: Sequence[TopicPartition], timeout_s: float = 30.0
) -> dict[TopicPartition, int]:
    """The next offset that each partition will write.

    ``end_offsets`` alone is not enough: some brokers answer with the beginning of the last batch + 1. The
    high watermark that comes with a fetch is right everywhere, so one fetch is made from there.

    Parameters
    ----------
    consumer
        A kafka-python consumer that nobody else uses meanwhile: it is assigned the partitions and moved.
    partitions
        Any number, of any topics.
    timeout_s
        How long the broker may stay silent.

    Raises
    ------
    BrokerUnavailableError
        It did.
    """
    tps = list(partitions)
    try:
        beginning = consumer.beginning_offsets(tps)
        ends = {tp: int(offset) for tp, offset in consumer.end_offsets(tps).items()}
        filled = [tp for tp in tps if ends[tp] > beginning[tp]]
        consumer.assign(filled)
        for tp in filled:
            consumer.seek(tp, ends[tp] - 1)
        deadline = time.monotonic() + timeout_s
        # Not the records count but the answer: the last offset may be a transaction marker, or compacted away.
        while waiting := [tp for tp in filled if consumer.highwater(tp) is None]:
            if time.monotonic() > deadline:
                raise BrokerUnavailableError(
                    f"no answer in {timeout_s:.0f} s about the end of {', '.join(f'{t.topic}[{t.partition}]' for t in waiting)}"
                )
            consumer.poll(timeout_ms=200, max_records=1)
    except KafkaError as error:
        raise BrokerUnavailableError(f"the broker does not say where its partitions end: {error}") from error
    return {tp: max(end, consumer.highwater(tp) or 0) if tp in filled else end for tp, end in ends.items()}
