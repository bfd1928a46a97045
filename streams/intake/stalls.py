"""``StallWatch``: recognises partitions whose records wait, and of which the consumer brings nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["StallWatch"]

Key = tuple[str, int]

STALLED_S = 10.0
"""After this time without anything of a partition, the consumer is built again."""
LONGEST_S = 80.0
"""The time doubles up to this, until the partition is read again: building the consumer again may not be what helps."""
REPORTED_S = 30.0
"""After this time the partition is reported as stalled."""
FRESH_S = 6.0
"""Ends that were reported longer ago are no proof: the brokers do not answer, and new connections would not be answered either."""


@dataclass(slots=True)
class _Waiting:
    """A partition whose records wait at ``position``.

    Attributes
    ----------
    silent_since
        When something of it last came, or could not have come.
    tried_since
        When the consumer began to read it from there; later than ``silent_since`` after it was built again.
    patience
        How long this consumer has.
    """

    position: int | None
    silent_since: float
    tried_since: float
    waiting: int = 0
    patience: float = STALLED_S


class StallWatch:
    """Finds partitions of which records wait, and that the consumer could read, but does not.

    aiokafka's consumer can stand still for reasons that it does not report. What always helps is a new one, with new connections.

    A partition is not stalled while the intake has no room for it or while the brokers do not answer. No new consumer is needed while
    its records are on their way through the agents.

    Parameters
    ----------
    wall
        Seconds since the epoch, for the sentence.
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._waiting: dict[Key, _Waiting] = {}

    def check(
        self,
        now: float,
        ends: Mapping[Key, int],
        reported_at: Mapping[Key, float],
        position: Callable[[str, int], int | None],
        has_room: Callable[[str, int], bool],
        is_read: Callable[[str, int], bool],
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
            Next offset that the consumer will deliver; None for a partition that is not read yet.
        has_room
            Whether the intake would take its records.
        is_read
            Whether there is a consumer, and none of the partition's records are on their way.

        Returns
        -------
        str or None
            A sentence without a full stop. The partitions that it names are not reported again before twice the time.
        """
        stalled: list[str] = []
        longest = 0.0
        self._waiting = {key: known for key, known in self._waiting.items() if key in ends}
        for key, end in sorted(ends.items()):
            at = position(*key)
            if at is not None and at >= end:
                self._waiting.pop(key, None)
                continue
            known = self._waiting.get(key)
            if known is None or known.position != at:
                known = self._waiting[key] = _Waiting(at, now, now)
            known.waiting = end - (at or 0)
            could_come = now - reported_at.get(key, -FRESH_S) <= FRESH_S and (at is None or has_room(*key))
            if not could_come:
                known.silent_since = known.tried_since = now
            elif at is None or not is_read(*key):
                known.tried_since = now
            elif now - known.tried_since >= known.patience:
                longest = max(longest, now - known.tried_since)
                stalled.append(f"{key[0]}[{key[1]}] (read up to {at}, ends at {end})")
                known.patience = min(2 * known.patience, LONGEST_S)
        if not stalled:
            return None
        for waiting in self._waiting.values():
            waiting.tried_since = now
        return f"records wait and the consumer has brought none for {longest:.0f} s, although the brokers answer: {', '.join(stalled)}"

    def sentence(self, now: float) -> str | None:
        """For the report of health, after :meth:`check`: the partition of which most records wait, and of which nothing has come for
        :data:`REPORTED_S`; None if there is none."""
        stuck = {k: known for k, known in self._waiting.items() if now - known.silent_since > REPORTED_S}
        if not stuck:
            return None
        (topic, partition), known = max(stuck.items(), key=lambda found: found[1].waiting)
        silent_s = now - known.silent_since
        since_text = time.strftime("%H:%M:%S", time.gmtime(self._wall() - silent_s))
        more = f"; so have {len(stuck) - 1} more partitions" if len(stuck) > 1 else ""
        return (
            f"{topic}[{partition}] has delivered nothing for {silent_s:.0f} s (since {since_text} UTC), although {known.waiting:,} "
            f"records wait there{more}"
        )
