"""``OpenTransactions``: partitions whose records cannot be read, because a transaction before them stays open."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

__all__ = ["OpenTransactions"]

Key = tuple[str, int]

OPEN_S = 60.0
"""Producers close a transaction within ``transaction.timeout.ms``, by default a minute."""


class OpenTransactions:
    """Remembers since when the last stable offset of each partition has stood still before records that are written.

    Examples
    --------
    >>> open_ones = OpenTransactions(wall=lambda: 1_700_000_000.0)
    >>> open_ones.sentence(0.0, {("ads", 0): 7}, {("ads", 0): 2})
    >>> open_ones.sentence(70.0, {("ads", 0): 7}, {("ads", 0): 40})
    'ads[0]: 40 records come after a transaction that has been open for 70 s (since 22:12:10 UTC); they are learned when its producer commits or aborts it'
    >>> open_ones.sentence(80.0, {("ads", 0): 9}, {("ads", 0): 40})
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._since: dict[Key, tuple[int, float]] = {}

    def sentence(self, now: float, ends: Mapping[Key, int], held: Mapping[Key, int]) -> str | None:
        """The sentence of the reason, of the partition with most records; None if there is none. Called about once per second.

        Parameters
        ----------
        now
            Monotonic seconds.
        ends
            Last stable offset of each partition.
        held
            Records of each partition that come after it.
        """
        since: dict[Key, tuple[int, float]] = {}
        for key in held:
            end = ends[key]
            before, at = self._since.get(key, (end, now))
            since[key] = (end, at if end == before else now)
        self._since = since
        long = {key: n for key, n in held.items() if now - since[key][1] > OPEN_S}
        if not long:
            return None
        key = max(long, key=lambda k: long[k])
        open_s = now - since[key][1]
        begun = time.strftime("%H:%M:%S", time.gmtime(self._wall() - open_s))
        more = f"; {len(long) - 1} more partitions wait for the same" if len(long) > 1 else ""
        return (
            f"{key[0]}[{key[1]}]: {long[key]:,} records come after a transaction that has been open for {open_s:.0f} s (since {begun} "
            f"UTC); they are learned when its producer commits or aborts it{more}"
        )
