"""``DecayedCounts``: impressions and clicks of a key, decayed by event time, and the moments of its first and last ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["IMPRESSION_CLICK", "DecayedCounts"]

Floats = NDArray[np.float64]

EPOCH = 64
"""Length of an epoch, in half-lives."""
IMPRESSION_CLICK = 2
"""Number of kinds of events: 0 impression, 1 click."""
_NEVER = -np.inf
_SMALLEST = 2.0**-24
"""Smaller counts are read as 0."""


class DecayedCounts:
    r"""The layout of a key's state, and the functions that update and read it.

    The count with half-life ``h`` at time ``t`` is ``sum_j 2^(-(t - t_j) / h)`` over the key's events of one domain and kind. It is
    stored as ``sum_j 2^((t_j - a) / h)``, where ``a`` is the beginning of the current epoch, so that an event is one addition.
    In a later epoch the sum is multiplied by a power of two, which is exact. Events are added one after the other in their order.
    The state of a key is therefore the same, bit for bit, however the events are divided into calls of :meth:`add`, and whatever
    other keys there are.

    Parameters
    ----------
    half_lives
        Half-lives in ms; infinity: no decay.

    Attributes
    ----------
    width
        Number of float64 values of a key: per half-life four sums (domain x kind) and the number of the epoch; the last time (ms)
        of each domain and kind; the first time.
    """

    def __init__(self, half_lives: Sequence[float]) -> None:
        self.half_lives = tuple(float(h) for h in half_lives)
        self._epochs = 4 * len(self.half_lives)
        self._last = self._epochs + len(self.half_lives)
        self.width = self._last + 5
        self._initial = np.zeros(self.width)
        self._initial[self._last : -1] = _NEVER
        self._initial[-1] = np.inf

    def new(self, n: int) -> Floats:
        """The state of ``n`` keys without events, ``(n, width)``."""
        return np.tile(self._initial, (n, 1))

    def add(
        self, state: Floats, at: NDArray[np.int64], ts: NDArray[np.int64], column: NDArray[np.int64]
    ) -> None:
        """Add events to the state of their keys, in place.

        Parameters
        ----------
        state
            ``(m, width)``.
        at
            Row of ``state`` of each event, ``(n,)``.
        ts
            Time of each event, ms, ``(n,)``.
        column
            ``2 * domain + kind`` of each event, ``(n,)``.
        """
        if not len(at):
            return
        for i, half_life in enumerate(self.half_lives):
            epoch, weight = _weight(ts, half_life)
            epochs = state[:, self._epochs + i]
            before = epochs.copy()
            np.maximum.at(epochs, at, epoch)
            moved = np.flatnonzero(epochs != before)
            if len(moved):
                # A key without earlier events moves, too, but its sums are 0.
                scale = np.exp2(-EPOCH * (epochs[moved] - before[moved]))
                state[moved, 4 * i : 4 * i + 4] *= scale[:, None]
            weight *= np.exp2(-EPOCH * (epochs[at] - epoch))
            np.add.at(state, (at, 4 * i + column), weight)
        np.maximum.at(state, (at, self._last + column), ts.astype(np.float64))
        np.minimum.at(state[:, -1], at, ts.astype(np.float64))

    def counts(self, state: Floats, half_life: int, ts: Floats) -> Floats:
        """Decayed counts at times ``ts``, by domain and kind, ``(n, 4)``; ``half_life``: its index."""
        h = self.half_lives[half_life]
        sums = state[:, 4 * half_life : 4 * half_life + 4]
        if np.isinf(h):
            return sums.copy()
        age = ts / h - EPOCH * state[:, self._epochs + half_life]
        out: Floats = sums * np.exp2(-np.maximum(age, 0.0))[:, None]
        out[out < _SMALLEST] = 0.0  # float32 products of denormal numbers are slow
        return out

    def last(self, state: Floats) -> Floats:
        """Time of the last event by domain and kind, ms, ``(n, 4)``; minus infinity if there is none."""
        return state[:, self._last : -1]

    def first(self, state: Floats) -> Floats:
        """Time of the first event, ms, ``(n,)``; infinity if there is none."""
        return state[:, -1]


def _weight(ts: NDArray[np.int64], half_life: float) -> tuple[Floats, Floats]:
    """Epoch of each event, and its weight relative to the beginning of that epoch."""
    if np.isinf(half_life):
        return np.zeros(len(ts)), np.ones(len(ts))
    length = EPOCH * half_life
    epoch = np.floor(ts / length)
    return epoch, np.exp2((ts - epoch * length) / half_life)
