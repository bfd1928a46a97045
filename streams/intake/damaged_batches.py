"""``DamagedBatches``: partitions of which the next batch is damaged, and when each is fetched again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from faust.types import TP

from ecdctr.events.kafka import damaged_records

__all__ = ["DamagedBatches"]

PAUSE_S = 2.0
"""A partition is fetched again after this time: another replica may have become its leader, or the file may be mended."""


@dataclass(slots=True)
class _Damaged:
    sentence: str
    found_at: float
    fetched_again: bool = False


class DamagedBatches:
    """Remembers the partitions whose next batch is damaged, until it can be read.

    Such a partition waits, because nothing is skipped; the others are read. The methods are called in the consumer's thread, but for
    :meth:`sentences` and :meth:`wants`.
    """

    def __init__(self) -> None:
        self._found: dict[TP, _Damaged] = {}

    def add(
        self, tp: TP, offset: int, error: BaseException, now: float, *, fetched_again: bool = False
    ) -> None:
        """Record that the batch at ``offset`` is damaged.

        Parameters
        ----------
        error
            With which the client has refused it.
        now
            Monotonic seconds.
        fetched_again
            Whether the client fetches it again by itself.
        """
        self._found[tp] = _Damaged(
            str(damaged_records(error, tp.topic, tp.partition, offset) or error), now, fetched_again
        )

    def discard(self, tp: TP) -> None:
        """Record that records of the partition could be read."""
        self._found.pop(tp, None)

    def wants(self, tp: TP, now: float) -> bool:
        """Whether the partition is to be fetched: False for :data:`PAUSE_S` after its damage was found."""
        found = self._found.get(tp)
        return found is None or found.fetched_again or now - found.found_at >= PAUSE_S

    def begin_again(self, partitions: Iterable[TP]) -> list[TP]:
        """Those of the partitions that must be sought, because the client still holds what it has refused; each once."""
        due = [tp for tp in partitions if tp in self._found and not self._found[tp].fetched_again]
        for tp in due:
            self._found[tp].fetched_again = True
        return due

    def sentences(self) -> dict[tuple[str, int], str]:
        """A sentence for each of the partitions, without a full stop."""
        return {(tp.topic, tp.partition): found.sentence for tp, found in dict(self._found).items()}
