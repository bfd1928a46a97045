"""``Belief``: a Gaussian over the bias and the factors of every id of one feature."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecdctr.models.nets import IdMap, TouchedRows
from ecdctr.models.settings import BeliefSettings
from ecdctr.state.hashing import mix64

__all__ = ["Belief", "Places"]

Floats = NDArray[np.float64]

MAX_STEP = 2.0
"""How far a chunk may move a bias or a factor."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Which ids a chunk's rows hold.

    Attributes
    ----------
    rows
        Row of each distinct id, ``(m,)``.
    inverse
        Which of them each row of the chunk holds, ``(n,)``.
    order, starts
        Rows of the chunk by id, and where each id's begin.
    """

    rows: NDArray[np.int64]
    inverse: NDArray[np.intp]
    order: NDArray[np.intp]
    starts: NDArray[np.intp]


class Belief:
    """Of every id a mean and a precision for natural rows, and the same for what ads differ by.

    The precision is ``A + diag(1 / variance)``. Rows with gradient ``g`` and curvature ``h`` of the loss by the logit,
    along ``a``, add ``A += h a a^T`` and then move the mean by ``-(A + diag(1 / variance))^-1 g a``: online Laplace
    (Ritter, Botev and Barber, NeurIPS 2018, equation 9), here with the whole block of each id instead of a Kronecker
    approximation. Steps shrink as 1 / n where Adagrad's shrink as 1 / sqrt(n): ids met rarely are not thrown about,
    ids met often come to rest. What natural rows added fades with the hours of event time.

    Parameters
    ----------
    settings
        Prior variances and memory.
    factors
        Numbers beside the bias.
    sd
        Standard deviation of first factors: at 0 no product would ever move.
    seed
        Names the first factors.
    """

    def __init__(self, settings: BeliefSettings, *, factors: int, sd: float, seed: int) -> None:
        s, size = settings, 1 + factors
        self.size, self._sd, self._seed = size, sd, seed
        tail = np.ones(factors)
        self._prior = 1.0 / np.stack(
            [np.append(s.bias, s.factor * tail), np.append(s.ad_bias, s.ad_factor * tail)]
        )
        self._memory = np.append(s.bias_memory, s.factor_memory * tail)
        self.ids = IdMap()
        self._changed = TouchedRows(0)
        self._hour = np.zeros(0, np.int64)
        self._mean = np.zeros((0, 2, size))
        self._seen = np.zeros((0, 2, size, size))

    def look_up(self, values: NDArray[np.int32], ad: Floats) -> Floats:
        """What each row's id stands for, ``(n, size)``; 0 where it was never met."""
        unique, inverse = np.unique(values, return_inverse=True)
        at = self.ids.find(unique.astype(np.uint64))
        mean = np.zeros((len(unique), 2, self.size))
        mean[at >= 0] = self._mean[at[at >= 0]]
        return _stand(mean, inverse, ad)

    def place(self, values: NDArray[np.int32], hour: int) -> Places:
        """Find a chunk's ids, new ones at their prior, and let what is known of them fade up to the hour."""
        unique, inverse = np.unique(values, return_inverse=True)
        before = len(self.ids)
        rows = self.ids.add(unique.astype(np.uint64))
        if len(self.ids) > before:
            self._begin(before, len(self.ids), hour)
        gone = np.maximum(hour - self._hour[rows], 0)
        if (self._memory < 1.0).any() and gone.any():
            keep = self._memory ** (gone[:, None] / 48.0)  # a day's memory, half of it on either side
            self._seen[rows, 0] *= keep[:, :, None] * keep[:, None, :]
        self._hour[rows] = np.maximum(self._hour[rows], hour)
        self._changed.mark(rows)
        order = np.argsort(inverse, kind="stable")
        return Places(rows, inverse, order, np.searchsorted(inverse[order], np.arange(len(rows))))

    def vectors(self, place: Places, ad: Floats) -> Floats:
        """As :meth:`look_up`, of ids found before."""
        return _stand(self._mean[place.rows], place.inverse, ad)

    def learn(self, place: Places, part: int, along: Floats, gradient: Floats, curve: Floats) -> None:
        """One Newton step of every id that rows speak of.

        Parameters
        ----------
        place
            Ids of the chunk.
        part
            0: natural, 1: what ads differ by.
        along
            Derivative of each row's logit by its id's numbers, ``(n, size)``.
        gradient, curve
            First and second derivative of each row's loss by its logit, ``(n,)``; both 0: the row does not speak.
        """
        a, size = along[place.order], self.size
        g, h = gradient[place.order], curve[place.order]
        sums = np.add.reduceat(g[:, None] * a, place.starts, axis=0)
        outer = (a[:, :, None] * (h[:, None] * a)[:, None, :]).reshape(-1, size * size)
        curves = np.add.reduceat(outer, place.starts, axis=0).reshape(-1, size, size)
        met = curves[:, 0, 0] > 0.0
        rows = place.rows[met]
        seen = self._seen[rows, part] + curves[met]
        self._seen[rows, part] = seen
        at = np.arange(size)
        seen[:, at, at] += self._prior[part]
        step = sums[met] / seen[:, 0] if size == 1 else np.linalg.solve(seen, sums[met][:, :, None])[:, :, 0]
        # Thousands of like rows against everything learned before: a Newton step from there would land far beyond.
        step /= np.maximum(np.abs(step).max(axis=1, keepdims=True) / MAX_STEP, 1.0)
        self._mean[rows, part] -= step

    def _begin(self, first: int, end: int, hour: int) -> None:
        if end > len(self._mean):
            more = max(end, 2 * len(self._mean), 1024) - len(self._mean)
            for name in ("_hour", "_mean", "_seen"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros((more, *old.shape[1:]), old.dtype)]))
            self._changed.grow(len(self._mean))
        self._hour[first:end] = hour
        state = self.ids.ids()[first:end] ^ mix64(np.full(1, self._seed, np.uint64))
        for j in range(1, self.size):
            state = mix64(state + np.uint64(j))
            unit = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5
            self._mean[first:end, 0, j] = unit * (np.sqrt(12.0) * self._sd)

    # -- keep

    def take(self) -> tuple[NDArray[np.int64], NDArray[np.uint64], Floats]:
        """Rows changed since the last call, ascending, their ids ``(m, 1)``, and all that is known of them."""
        rows = self._changed.take()
        return rows, self.ids.ids()[rows].reshape(-1, 1), self._payload(rows)

    def _payload(self, rows: NDArray[np.int64]) -> Floats:
        m, size = len(rows), self.size
        parts = [
            self._hour[rows].reshape(m, 1),
            self._mean[rows].reshape(m, 2 * size),
            self._seen[rows].reshape(m, 2 * size * size),
        ]
        return np.concatenate([part.astype(np.float64) for part in parts], axis=1)

    def load(self, ids: NDArray[np.uint64], payload: Floats) -> None:
        """Set an untouched belief to what all rows ever taken say."""
        self.ids.add(ids)
        n, size = len(ids), self.size
        self._begin(0, n, 0)
        self._hour[:n] = payload[:, 0].astype(np.int64)
        self._mean[:n] = payload[:, 1 : 1 + 2 * size].reshape(n, 2, size)
        self._seen[:n] = payload[:, 1 + 2 * size :].reshape(n, 2, size, size)

    def digest(self, into: hashlib.blake2b) -> None:
        """Add every bit to a hash."""
        into.update(self.ids.ids().tobytes())
        into.update(self._payload(np.arange(len(self.ids))).tobytes())


def _stand(mean: Floats, inverse: NDArray[np.intp], ad: Floats) -> Floats:
    out: Floats = mean[inverse, 0] + mean[inverse, 1] * ad[:, None]
    return out
