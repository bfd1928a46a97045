"""``EpochGuard``: records of a new leader are learned only if none that were read before have been cut."""

from __future__ import annotations

import math
from collections.abc import Callable

from ecdctr.events.kafka import SECOND_LOOK_S, KafkaLog, LeaderEpochs
from ecdctr.state.errors import OffsetsLostError
from ecdctr.streams.retry import MENDED_LATER, StopRequestedError, call_until_available

__all__ = ["EpochGuard"]

_LIMIT_S = 5.0
"""Limit for one comparison, after which a stop is noticed."""


class EpochGuard:
    """Compares what was read in earlier leader epochs with the broker, before the first record of a new epoch is learned.

    A leader changes rarely, so that a connection of its own for each comparison costs nothing.

    Parameters
    ----------
    epochs
        Observes the fetched batches.
    make_log
        Connects to the click topics.
    stop_requested
        Ends the wait for a broker that answers.
    """

    def __init__(
        self, epochs: LeaderEpochs, make_log: Callable[[], KafkaLog], stop_requested: Callable[[], bool]
    ) -> None:
        self.epochs = epochs
        self._make_log, self._stop_requested = make_log, stop_requested

    def is_due(self, topic: str, partition: int, last: int) -> bool:
        """Whether the record at offset ``last`` was written in an epoch before which nothing was compared yet."""
        return bool(self.epochs.unchecked(topic, partition, last))

    def check(self, topic: str, partition: int, last: int) -> None:
        """Compare; waits while no broker answers, or those that do refuse this client, so that it is called in a thread.

        Raises
        ------
        OffsetsLostError
            An unclean leader election has removed records that were read, and the records that follow are others.
        StopRequestedError
            A stop was requested before a broker answered.
        """
        call_until_available(
            lambda: self._compare(topic, partition, last),
            math.inf,
            self._stop_requested,
            errors=MENDED_LATER,
        )

    def _compare(self, topic: str, partition: int, last: int) -> None:
        with self._make_log() as kafka:
            kafka.timeout_s, kafka.on_wait = _LIMIT_S, self._raise_if_stopping
            for epoch, read in self.epochs.unchecked(topic, partition, last):
                end = kafka.epoch_ends({(topic, partition): epoch}).get((topic, partition))
                if end is not None and end < read:
                    # A broker that has just started may report an old state: a second look decides.
                    kafka.pause(SECOND_LOOK_S)
                    end = kafka.epoch_ends({(topic, partition): epoch}).get((topic, partition))
                if end is not None and end < read:
                    raise OffsetsLostError(
                        f"{topic}[{partition}] was cut at offset {end} by an unclean leader election: leader epoch {epoch} was read "
                        f"up to offset {read}, ends there, and the records from offset {end} on are others. Start again: the worker then "
                        "reports what --reset-offsets earliest, latest or checkpoint would lose or double"
                    )
        self.epochs.set_checked(topic, partition, last)

    def _raise_if_stopping(self) -> None:
        if self._stop_requested():
            raise StopRequestedError
