"""``StreamGaps``: how long ago was a user last seen in either stream? Natural rows are mostly not scored, so rows are watched."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD, Batch
from ecdctr.models.nets import IdMap
from ecdctr.state.errors import StateError

__all__ = ["StreamGaps"]

_NEVER = -(2**62)


class _LastMoments:
    """Each user's last moment, and the one before it: rows of one moment do not count for each other."""

    def __init__(self) -> None:
        self._ids = IdMap()
        self._last, self._before = (np.full(1024, _NEVER, np.int64) for _ in range(2))

    def gaps(self, user: NDArray[np.uint64], ts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ms since the user's youngest older row, -1 where there is none; rows stand in the order of time."""
        n = len(ts)
        number = self._numbers(user)
        # Users together, each one's rows in order: a sort of numbers that carry their place is the cheapest there is.
        bits = n.bit_length()
        key = number << bits
        key |= np.arange(n)
        key.sort()
        order = key & ((1 << bits) - 1)
        key >>= bits
        t = ts[order]
        begins = np.empty(n, np.bool_)
        begins[:1] = True
        np.not_equal(key[1:], key[:-1], out=begins[1:])
        moves = begins.copy()
        moves[1:] |= t[1:] != t[:-1]
        moment = np.flatnonzero(moves)  # the first row of each user's each moment
        u, at, first = key[moment], t[moment], begins[moment]
        last, before = self._last[u], self._before[u]
        older = np.where(last == at, before, last)
        older[1:] = np.where(first[1:], older[1:], at[:-1])
        gap = np.where(older == _NEVER, -1, np.maximum(at - older, 0))
        end = np.roll(
            first, -1
        )  # the first moment of all is a user's first, so the last one is a user's last
        self._last[u[end]], self._before[u[end]] = np.maximum(at, last)[end], older[end]
        out = np.empty(n, np.int64)
        out[order] = np.repeat(gap, np.diff(np.append(moment, n)))
        return out

    def _numbers(self, user: NDArray[np.uint64]) -> NDArray[np.int64]:
        number = self._ids.find(user)
        new = number < 0
        if new.any():
            met, inverse = np.unique(user[new], return_inverse=True)
            number[new] = self._ids.add(met)[inverse]
            more = len(self._ids) - len(self._last)
            if more > 0:
                room = np.full(max(more, len(self._last)), _NEVER, np.int64)
                self._last, self._before = (np.concatenate([x, room]) for x in (self._last, self._before))
        return number


class StreamGaps:
    """Watches the rows of a replay in event order, and says of ad rows how old their user's last row was.

    All ad rows are scored, in the order in which they are read: so they are asked for in that order, too. Memory: two
    numbers a user, and the ad rows that were read and not yet asked for.

    Examples
    --------
    >>> user, ts = np.array([7, 7, 7], np.uint64), np.array([10, 15, 15])
    >>> rows = Batch(ts, np.array([0, 1, 1], np.uint8), user, user, np.zeros((3, 0), np.int32),
    ...              np.zeros((3, 0), np.float32), np.zeros(3, np.float32))
    >>> gaps = StreamGaps()
    >>> gaps.observe(rows)
    >>> gaps.take(user[1:])
    array([5, 5])
    """

    def __init__(self) -> None:
        self._moments = _LastMoments()
        self._skip = 0
        self._waiting: deque[tuple[NDArray[np.uint64], NDArray[np.int64]]] = deque()

    def skip(self, ads: int) -> None:
        """The first ad rows that are read will not be asked for: an earlier run has scored them."""
        self._skip = ads

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, looked at on their way."""
        for batch in batches:
            self.observe(batch)
            yield batch

    def observe(self, batch: Batch) -> None:
        """Rows of both domains, in event order."""
        gaps = self._moments.gaps(batch.user, batch.ts)
        ads = np.flatnonzero(batch.domain == AD)
        skipped = min(self._skip, len(ads))
        self._skip -= skipped
        ads = ads[skipped:]
        if len(ads):
            self._waiting.append((batch.user[ads], gaps[ads]))

    def take(self, user: NDArray[Any]) -> NDArray[np.int64]:
        """Gaps of the next ad rows, ms; -1 where the user was never seen before.

        Raises
        ------
        StateError
            These are not the next ad rows.
        """
        users, gaps = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        wanted = len(user)
        while wanted and self._waiting:
            found, gap = self._waiting.popleft()
            if len(found) > wanted:
                self._waiting.appendleft((found[wanted:], gap[wanted:]))
            users.append(found[:wanted])
            gaps.append(gap[:wanted])
            wanted -= len(users[-1])
        if not np.array_equal(np.concatenate(users), user):
            raise StateError(
                "ad rows were not scored in the order in which they were read: play the log anew"
            )
        return np.concatenate(gaps)
