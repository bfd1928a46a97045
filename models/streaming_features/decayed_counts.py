"""``DecayedCounts``: impressions and clicks of a key, decayed by event time, and the moments of its first and last ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["DecayedCounts", "Weights"]

Floats = NDArray[np.float64]
Weights = list[tuple[Floats, Floats]]

EPOCH = 64
"""Length of an epoch, in half-lives."""
_NEVER = -np.inf
_SMALLEST = 2.0**-24
"""Smaller counts are read as 0."""


class DecayedCounts:
    r"""The layout of a key's state, and the functions that update and read it.

    Kinds of events are 0 impression, 1 click. The count with half-life ``h`` at time ``t`` is ``sum_j 2^(-(t - t_j) / h)`` over the key's events of one domain and kind. It is
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

    def weights(self, ts: NDArray[np.int64]) -> Weights:
        """For each half-life the epoch of each event, and its weight relative to the beginning of that epoch."""
        return [_weight(ts, half_life) for half_life in self.half_lives]

    def add(
        self,
        state: Floats,
        at: NDArray[np.int64],
        ts: NDArray[np.int64],
        column: NDArray[np.int64],
        weights: Weights | None = None,
    ) -> None:
        """Add events to the state of their keys, in place.

        Parameters
        ----------
        state
            ``(m, width)``, contiguous.
        at
            Row of ``state`` of each event, ``(n,)``.
        ts
            Time of each event, ms, ``(n,)``.
        column
            ``2 * domain + kind`` of each event, ``(n,)``.
        weights
            Their :meth:`weights`, if they are known.
        """
        if not len(at):
            return
        flat, begin = state.reshape(-1), at * self.width
        for i, (epoch, weight) in enumerate(self.weights(ts) if weights is None else weights):
            moved = self._enter_epochs(state, i, at, epoch, weight)
            np.add.at(flat, begin + (4 * i) + column, moved)
        times = ts.astype(np.float64)
        np.maximum.at(flat, begin + self._last + column, times)
        np.minimum.at(flat, begin + (self.width - 1), times)

    def _enter_epochs(
        self, state: Floats, i: int, at: NDArray[np.int64], epoch: Floats, weight: Floats
    ) -> Floats:
        """Let the keys of events enter the events' epochs; returns the weights relative to the keys' epochs."""
        epochs = state[:, self._epochs + i]
        if (epochs[at] == epoch).all():
            return weight
        latest = epochs.copy()
        np.maximum.at(latest, at, epoch)
        self._scale(state, i, latest)
        out: Floats = weight * np.exp2(-EPOCH * (latest[at] - epoch))
        return out

    def _scale(self, state: Floats, i: int, latest: Floats) -> None:
        epochs = state[:, self._epochs + i]
        moved = np.flatnonzero(epochs != latest)
        # A key without events has epoch 0 and sums that are 0.
        scale = np.exp2(-EPOCH * (latest[moved] - epochs[moved]))
        state[moved, 4 * i : 4 * i + 4] *= scale[:, None]
        epochs[moved] = latest[moved]

    def enter(self, state: Floats, ts: int) -> None:
        """Let all keys enter the epoch of a time, in place, so that adding events of that epoch is fast. Counts stay the same."""
        for i, half_life in enumerate(self.half_lives):
            if not np.isinf(half_life):
                epoch = np.floor(ts / (EPOCH * half_life))
                self._scale(state, i, np.maximum(state[:, self._epochs + i], epoch))

    def counts(self, state: Floats, half_life: int, ts: Floats) -> Floats:
        """Decayed counts at times ``ts``, by domain and kind, ``(n, 4)``; ``half_life``: its index."""
        h = self.half_lives[half_life]
        sums = state[:, 4 * half_life : 4 * half_life + 4]
        if np.isinf(h):
            return sums.copy()
        age = ts - (EPOCH * h) * state[:, self._epochs + half_life]
        # At least 2^-1000: a key without events has epoch 0.
        out: Floats = sums * np.exp2(-np.minimum(age / h, 1000.0))[:, None]
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
