"""``Lanes``: the event time up to which all partitions have been read, and the decisions to go on without one that is silent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import DataError

__all__ = ["BEGINNING", "END", "IdleDecision", "Lane", "Lanes"]

BEGINNING, END = -(2**62), 2**62
"""Event times before and after all others."""


@dataclass(frozen=True, slots=True)
class IdleDecision:
    """From ``offset`` on, no event of this partition counts as earlier than ``until`` (ms).

    It is a fact about the partition, like an event at this offset: a replay that applies the recorded decisions at their offsets gives the
    same rows in the same order.
    """

    topic: str
    partition: int
    offset: int
    until: int


@dataclass(slots=True)
class Lane:
    """One partition.

    Attributes
    ----------
    high
        Latest event time so far.
    floor
        Of the last idle decision.
    offset
        The next one.
    active
        When it delivered last, by the caller's clock (ms); None before the first question.
    """

    high: int = BEGINNING
    floor: int = BEGINNING
    offset: int = 0
    active: int | None = None

    def mark(self, lateness: int) -> int:
        """No later event of this partition counts as earlier."""
        return max(self.high - lateness, self.floor)


class Lanes:
    """The partitions that are joined.

    The event time at which an event *counts* is a function of its own partition: its ``ts``, but not earlier than the latest ``ts``
    before it in its partition minus the lateness, and not before the partition's last idle decision. So no event counts as earlier than
    the mark of its partition, and the watermark, the least mark of all partitions, is final: whatever arrives later counts later.

    Parameters
    ----------
    partitions
        ``(topic, partition)``, in any order.
    lateness
        ms.
    idle_after
        ms of the caller's clock.
    tick
        Grid of the times of idle decisions, ms.
    """

    def __init__(
        self, partitions: Iterable[tuple[str, int]], lateness: int, idle_after: int, tick: int
    ) -> None:
        self.lateness, self.idle_after, self.tick = lateness, idle_after, tick
        self.lanes = {key: Lane() for key in sorted(partitions)}
        self.number = {key: number for number, key in enumerate(self.lanes)}
        if not self.lanes:
            raise DataError("a join needs at least one partition")

    def counts_at(
        self, key: tuple[str, int], ts: NDArray[np.int64], offset: NDArray[np.int64], now: int | None
    ) -> NDArray[np.int64]:
        """The times at which the next events of a partition count.

        Raises
        ------
        DataError
            The partition is none of these, or an offset is lower than the next one.
        """
        lane = self._lane(key)
        if len(ts):
            if offset[0] < lane.offset or (np.diff(offset) <= 0).any():
                raise DataError(
                    f"{key[0]} [{key[1]}]: offset {int(offset[0]):,} was delivered, but the next one is {lane.offset:,}"
                )
            high = np.maximum.accumulate(np.concatenate([[lane.high], ts]))
            out: NDArray[np.int64] = np.maximum(ts, np.maximum(high[:-1] - self.lateness, lane.floor))
            lane.high, lane.offset = int(high[-1]), int(offset[-1]) + 1
            lane.active = lane.active if now is None else now
            return out
        return ts

    def watermark(self) -> int:
        """Every event that counts as earlier has been read."""
        return min(lane.mark(self.lateness) for lane in self.lanes.values())

    def decide(self, now: int, behind: Iterable[tuple[str, int]] = ()) -> list[IdleDecision]:
        """Go on without the partitions that have delivered nothing for ``idle_after``: to the least mark of the others, or to the
        latest mark if none delivers. The caller records the decisions before it uses rows that were emitted after them.

        Parameters
        ----------
        now
            The caller's clock, ms.
        behind
            Partitions whose log is known to hold more: they are slow, not silent.
        """
        for key in behind:
            self._lane(key).active = now
        for lane in self.lanes.values():
            lane.active = now if lane.active is None else lane.active
        silent = {k for k, lane in self.lanes.items() if now - (lane.active or 0) >= self.idle_after}
        marks = {k: lane.mark(self.lateness) for k, lane in self.lanes.items()}
        others = [mark for k, mark in marks.items() if k not in silent]
        until = min(others) if others else max(marks.values())
        until -= until % self.tick
        decisions = [
            IdleDecision(*k, self.lanes[k].offset, until)
            for k in self.lanes
            if k in silent and marks[k] < until
        ]
        for decision in decisions:
            self.apply(decision)
        return decisions

    def apply(self, decision: IdleDecision) -> None:
        """Apply a decision, or a recorded one.

        Raises
        ------
        DataError
            Not all events before its offset have been delivered, or later ones have.
        """
        lane = self._lane((decision.topic, decision.partition))
        if lane.offset != decision.offset:
            raise DataError(
                f"{decision.topic} [{decision.partition}]: an idle decision is for offset {decision.offset:,}, but the next one is {lane.offset:,}"
            )
        lane.floor = max(lane.floor, decision.until)

    def finish(self) -> None:
        """Nothing follows in any partition."""
        for lane in self.lanes.values():
            lane.floor = END

    def export(self) -> list[list[Any]]:
        """Partition and next event of each, as JSON; without the caller's clock."""
        return [[*key, lane.high, lane.floor, lane.offset] for key, lane in self.lanes.items()]

    def restore(self, lanes: list[list[Any]]) -> None:
        """Continue from an export of the same partitions."""
        found = {(topic, partition): Lane(*values) for topic, partition, *values in lanes}
        if found.keys() != self.lanes.keys():
            raise DataError(f"the saved join has the partitions {sorted(found)}, expected {list(self.lanes)}")
        self.lanes = {key: found[key] for key in self.lanes}

    def _lane(self, key: tuple[str, int]) -> Lane:
        if key not in self.lanes:
            raise DataError(f"{key[0]} [{key[1]}] is none of the joined partitions")
        return self.lanes[key]
