"""``StreamGaps``: the time since a user's last row in either stream, whether that row was scored or not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.models.nets import IdMap

__all__ = ["StreamGaps"]

_NEVER = -(2**62)


class _LastMoments:
    """Each user's last event time, and the one before it: rows with the same event time do not count for each other."""

    def __init__(self) -> None:
        self._ids = IdMap()
        self._last, self._before = (np.full(1024, _NEVER, np.int64) for _ in range(2))

    def gaps(self, user: NDArray[np.uint64], ts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Milliseconds since the user's youngest older row, -1 where there is none; rows in event order."""
        n = len(ts)
        number = self._numbers(user)
        # Group by user and keep each user's rows in order: sorting integers that contain the row index is fastest.
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
        moment = np.flatnonzero(moves)  # the first row of each pair of user and event time
        u, at, first = key[moment], t[moment], begins[moment]
        last, before = self._last[u], self._before[u]
        older = np.where(last == at, before, last)
        older[1:] = np.where(first[1:], older[1:], at[:-1])
        gap = np.where(older == _NEVER, -1, np.maximum(at - older, 0))
        # The very first entry is some user's first, so after the roll the last one is some user's last.
        end = np.roll(first, -1)
        self._last[u[end]], self._before[u[end]] = np.maximum(at, last)[end], older[end]
        out = np.empty(n, np.int64)
        out[order] = np.repeat(gap, np.diff(np.append(moment, n)))
        return out

    def _numbers(self, user: NDArray[np.uint64]) -> NDArray[np.int64]:
        number = self._ids.find(user)
        new = number < 0
        if new.any():
            users, inverse = np.unique(user[new], return_inverse=True)
            number[new] = self._ids.add(users)[inverse]
            more = len(self._ids) - len(self._last)
            if more > 0:
                room = np.full(max(more, len(self._last)), _NEVER, np.int64)
                self._last, self._before = (np.concatenate([x, room]) for x in (self._last, self._before))
        return number


class StreamGaps:
    """Computes for each row of a replay how old its user's last row is, from all rows in event order.

    Most natural rows are not scored, so the score log does not suffice. Memory: two numbers a user.

    Examples
    --------
    >>> user, ts = np.array([7, 7, 7], np.uint64), np.array([10, 15, 15])
    >>> rows = Batch(ts, np.array([0, 1, 1], np.uint8), user, user, np.zeros((3, 0), np.int32),
    ...              np.zeros((3, 0), np.float32), np.zeros(3, np.float32))
    >>> StreamGaps().observe(rows)
    array([-1,  5,  5])
    """

    def __init__(self) -> None:
        self._moments = _LastMoments()

    def observe(self, batch: Batch) -> NDArray[np.int64]:
        """Gaps of the next rows, milliseconds ``(n,)``; -1 where the user has no earlier row.

        Parameters
        ----------
        batch
            Rows of both domains, in event order, none of them older than those of earlier calls.
        """
        return self._moments.gaps(batch.user, batch.ts)
