"""``GaussianFactors``: a Gaussian distribution over the bias and the factors of every id of one feature."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecdctr.models.nets import DirtyRows, IdMap
from ecdctr.models.settings import FactorPriorSettings
from ecdctr.state.hashing import mix64

__all__ = ["GaussianFactors", "Places"]

Floats = NDArray[np.float64]

MAX_STEP = 2.0
"""Maximum change of a bias or a factor in one chunk."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Positions of a chunk's ids in the tables of a :class:`GaussianFactors`.

    Attributes
    ----------
    rows
        Table row of each distinct id, ``(m,)``.
    inverse
        Position within ``rows`` of the id of each row of the chunk, ``(n,)``.
    order, starts
        Rows of the chunk sorted by id, ``(n,)``, and the position of each id's first one, ``(m,)``.
    """

    rows: NDArray[np.int64]
    inverse: NDArray[np.intp]
    order: NDArray[np.intp]
    starts: NDArray[np.intp]


class GaussianFactors:
    """For every id a mean and a precision of its parameters in natural rows, and of the difference in ad rows.

    The precision is ``A + diag(1 / variance)``. Rows with gradient ``g`` and curvature ``h`` of the loss with respect to
    the logit, whose derivative with respect to the id's parameters is ``a``, add ``A += h a a^T`` and then move the mean
    by ``-(A + diag(1 / variance))^-1 g a``: online Laplace (Ritter, Botev and Barber, NeurIPS 2018, equation 9), here
    with the whole block of each id instead of a Kronecker approximation. Steps shrink as 1 / n, where those of Adagrad
    shrink as 1 / sqrt(n): rare ids do not fluctuate, frequent ids converge. The precision that natural rows added decays
    with the hours of event time.

    Parameters
    ----------
    settings
        Prior variances and decay.
    factors
        Number of parameters of an id in addition to its bias.
    sd
        Standard deviation of the initial factors: with 0 no product would ever change.
    seed
        Seed of the initial factors.
    """

    def __init__(self, settings: FactorPriorSettings, *, factors: int, sd: float, seed: int) -> None:
        s, size = settings, 1 + factors
        self.size, self._sd, self._seed = size, sd, seed
        tail = np.ones(factors)
        self._prior = 1.0 / np.stack(
            [np.append(s.bias, s.factor * tail), np.append(s.ad_bias, s.ad_factor * tail)]
        )
        self._decay = np.append(s.bias_memory, s.factor_memory * tail)
        self.ids = IdMap()
        self._changed = DirtyRows(0)
        self._hour = np.zeros(0, np.int64)
        self._mean = np.zeros((0, 2, size))
        self._curvature = np.zeros((0, 2, size, size))

    def look_up(self, values: NDArray[np.int32], ad: Floats) -> Floats:
        """Parameters of each row's id, ``(n, size)``; 0 for ids without learned rows."""
        unique, inverse = np.unique(values, return_inverse=True)
        at = self.ids.find(unique.astype(np.uint64))
        mean = np.zeros((len(unique), 2, self.size))
        mean[at >= 0] = self._mean[at[at >= 0]]
        return _combine(mean, inverse, ad)

    def place(self, values: NDArray[np.int32], hour: int) -> Places:
        """Find the ids of a chunk, add new ones at their prior, and decay the precision of all of them up to the hour."""
        unique, inverse = np.unique(values, return_inverse=True)
        before = len(self.ids)
        rows = self.ids.add(unique.astype(np.uint64))
        if len(self.ids) > before:
            self._begin(before, len(self.ids), hour)
        elapsed = np.maximum(hour - self._hour[rows], 0)
        if (self._decay < 1.0).any() and elapsed.any():
            factor = self._decay ** (
                elapsed[:, None] / 48.0
            )  # square root of a day's decay: A is multiplied on both sides
            self._curvature[rows, 0] *= factor[:, :, None] * factor[:, None, :]
        self._hour[rows] = np.maximum(self._hour[rows], hour)
        self._changed.mark(rows)
        order = np.argsort(inverse, kind="stable")
        return Places(rows, inverse, order, np.searchsorted(inverse[order], np.arange(len(rows))))

    def vectors(self, place: Places, ad: Floats) -> Floats:
        """As :meth:`look_up`, for ids that :meth:`place` found."""
        return _combine(self._mean[place.rows], place.inverse, ad)

    def learn(self, place: Places, part: int, along: Floats, gradient: Floats, curve: Floats) -> None:
        """One Newton step for every id that has rows of this part.

        Parameters
        ----------
        place
            Ids of the chunk.
        part
            0: natural, 1: difference in ads.
        along
            Derivative of each row's logit with respect to the parameters of its id, ``(n, size)``.
        gradient, curve
            First and second derivative of each row's loss with respect to its logit, ``(n,)``; both are 0 for rows without
            information about this part.
        """
        a, size = along[place.order], self.size
        g, h = gradient[place.order], curve[place.order]
        sums = np.add.reduceat(g[:, None] * a, place.starts, axis=0)
        outer = (a[:, :, None] * (h[:, None] * a)[:, None, :]).reshape(-1, size * size)
        curves = np.add.reduceat(outer, place.starts, axis=0).reshape(-1, size, size)
        informed = curves[:, 0, 0] > 0.0
        rows = place.rows[informed]
        precision = self._curvature[rows, part] + curves[informed]
        self._curvature[rows, part] = precision
        at = np.arange(size)
        precision[:, at, at] += self._prior[part]
        step = (
            sums[informed] / precision[:, 0]
            if size == 1
            else np.linalg.solve(precision, sums[informed][:, :, None])[:, :, 0]
        )
        # Where thousands of equal rows contradict everything learned before, a full Newton step overshoots by far.
        step /= np.maximum(np.abs(step).max(axis=1, keepdims=True) / MAX_STEP, 1.0)
        self._mean[rows, part] -= step

    def _begin(self, first: int, end: int, hour: int) -> None:
        if end > len(self._mean):
            more = max(end, 2 * len(self._mean), 1024) - len(self._mean)
            for name in ("_hour", "_mean", "_curvature"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros((more, *old.shape[1:]), old.dtype)]))
            self._changed.grow(len(self._mean))
        self._hour[first:end] = hour
        state = self.ids.ids()[first:end] ^ mix64(np.full(1, self._seed, np.uint64))
        for j in range(1, self.size):
            state = mix64(state + np.uint64(j))
            unit = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5
            self._mean[first:end, 0, j] = unit * (np.sqrt(12.0) * self._sd)

    # -- state

    def take(self) -> tuple[NDArray[np.int64], NDArray[np.uint64], Floats]:
        """Rows changed since the previous call, ascending, their ids ``(m, 1)``, and their payload."""
        rows = self._changed.take()
        return rows, self.ids.ids()[rows].reshape(-1, 1), self._payload(rows)

    def _payload(self, rows: NDArray[np.int64]) -> Floats:
        m, size = len(rows), self.size
        parts = [
            self._hour[rows].reshape(m, 1),
            self._mean[rows].reshape(m, 2 * size),
            self._curvature[rows].reshape(m, 2 * size * size),
        ]
        return np.concatenate([part.astype(np.float64) for part in parts], axis=1)

    def load(self, ids: NDArray[np.uint64], payload: Floats) -> None:
        """Set an empty table to all rows ever taken."""
        self.ids.add(ids)
        n, size = len(ids), self.size
        self._begin(0, n, 0)
        self._hour[:n] = payload[:, 0].astype(np.int64)
        self._mean[:n] = payload[:, 1 : 1 + 2 * size].reshape(n, 2, size)
        self._curvature[:n] = payload[:, 1 + 2 * size :].reshape(n, 2, size, size)

    def digest(self, into: hashlib.blake2b) -> None:
        """Add every bit of the state to a hash."""
        into.update(self.ids.ids().tobytes())
        into.update(self._payload(np.arange(len(self.ids))).tobytes())


def _combine(mean: Floats, inverse: NDArray[np.intp], ad: Floats) -> Floats:
    out: Floats = mean[inverse, 0] + mean[inverse, 1] * ad[:, None]
    return out
