"""``StallWatch``: recognises a consumer that brings nothing although the brokers report records that there is room for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["StallWatch"]

Key = tuple[str, int]

STALLED_S = 10.0
"""A partition that could be read and is not for this long is stalled."""
LONGEST_S = 80.0
"""The time doubles up to this, until the partition is read again: building the consumer again may not be what helps."""
FRESH_S = 6.0
"""Ends that were reported longer ago are no proof: the brokers do not answer, and new connections would not be answered either."""


@dataclass(slots=True)
class _Waiting:
    """A partition whose records wait at ``position`` since ``since``."""

    position: int
    since: float
    patience: float = STALLED_S


class StallWatch:
    """Finds partitions of which records wait, and that the consumer could read, but does not.

    aiokafka's consumer can stand still for reasons that it does not report. What always helps is a new one, with new connections.

    A partition is not stalled while the intake has no room for it, while its records are on their way through the agents, or
    while the brokers do not answer.
    """

    def __init__(self) -> None:
        self._waiting: dict[Key, _Waiting] = {}

    def check(
        self,
        now: float,
        ends: Mapping[Key, int],
        reported_at: Mapping[Key, float],
        position: Callable[[str, int], int | None],
        could_read: Callable[[str, int], bool],
    ) -> str | None:
        """Why the consumer has to be built again; None if it has not. Called about once a second.

        Parameters
        ----------
        now
            Monotonic seconds.
        ends
            Where each partition ends, as the brokers reported it.
        reported_at
            When they did, monotonic seconds.
        position
            Next offset to read of a partition; None if it is not read here.
        could_read
            Whether there is room for its records, and none of them are on their way.

        Returns
        -------
        str or None
            A sentence without a full stop. The partitions that it names are not reported again before twice the time.
        """
        stalled: list[str] = []
        longest = 0.0
        for key, end in sorted(ends.items()):
            at = position(*key)
            if at is None or at >= end:
                self._waiting.pop(key, None)
                continue
            known = self._waiting.get(key)
            if known is None or known.position != at:
                self._waiting[key] = _Waiting(at, now)
                continue
            if not could_read(*key) or now - reported_at.get(key, -FRESH_S) > FRESH_S:
                known.since = now
            elif now - known.since >= known.patience:
                longest = max(longest, now - known.since)
                stalled.append(f"{key[0]}[{key[1]}] (read up to {at}, ends at {end})")
                known.since, known.patience = now, min(2 * known.patience, LONGEST_S)
        if not stalled:
            return None
        for waiting in self._waiting.values():
            waiting.since = now
        return f"records wait and the consumer has brought none for {longest:.0f} s, although the brokers answer: {', '.join(stalled)}"
