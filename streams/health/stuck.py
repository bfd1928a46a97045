"""``StuckPartitions``: partitions whose records wait, and of which the consumer brings nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

__all__ = ["StuckPartitions"]

Key = tuple[str, int]

STUCK_S = 30.0


class StuckPartitions:
    """Remembers when each partition last delivered something, or had nothing to deliver.

    Examples
    --------
    >>> stuck = StuckPartitions(wall=lambda: 1_700_000_000.0)
    >>> stuck.sentence(0.0, [(("ads", 0), 9)], lambda key: 4)
    >>> stuck.sentence(40.0, [(("ads", 0), 9)], lambda key: 4)
    'ads[0] has delivered nothing for 40 s (since 22:12:40 UTC), although 5 records wait there'
    >>> stuck.sentence(50.0, [(("ads", 0), 9)], lambda key: 5)
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._at: dict[Key, tuple[int | None, float]] = {}

    def sentence(
        self,
        now: float,
        ends: Iterable[tuple[Key, int]],
        fetched: Callable[[Key], int | None],
    ) -> str | None:
        """The sentence of the reason; None while all partitions deliver. Called about once per second.

        Parameters
        ----------
        now
            Monotonic seconds.
        ends
            The partitions whose ends are known and that should be fetched, each with its end.
        fetched
            Next offset that the consumer will deliver; None for a partition that is not read yet.
        """
        seen: dict[Key, tuple[int | None, float]] = {}
        stuck = []
        for key, end in ends:
            at = fetched(key)
            before, since = self._at.get(key, (at, now))
            waiting = end - (at or 0)
            seen[key] = (at, now if at != before or waiting <= 0 else since)
            if waiting > 0 and now - seen[key][1] > STUCK_S:
                stuck.append((key, waiting, now - seen[key][1]))
        self._at = seen
        if not stuck:
            return None
        (topic, partition), waiting, silent_s = max(stuck, key=lambda found: found[1])
        since_text = time.strftime("%H:%M:%S", time.gmtime(self._wall() - silent_s))
        more = f"; so have {len(stuck) - 1} more partitions" if len(stuck) > 1 else ""
        return (
            f"{topic}[{partition}] has delivered nothing for {silent_s:.0f} s (since {since_text} UTC), although {waiting:,} records "
            f"wait there{more}"
        )
