"""``GaussianFactors``: a Gaussian distribution over the bias and the factors of every id of one feature."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecdctr.models.nets import DirtyRows, IdMap
from ecdctr.models.settings import FactorPriorSettings
from ecdctr.state.hashing import mix64

__all__ = ["ChunkIds", "GaussianFactors"]

Floats = NDArray[np.float64]

MAX_STEP = 2.0
"""Maximum change of a bias or a factor in one chunk."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkIds:
    """The ids of a chunk and their rows in the tables of a :class:`GaussianFactors`.

    Attributes
    ----------
    rows
        Table row of each distinct id, ``(m,)``.
    inverse
        For each row of the chunk, the index of its id in ``rows``, ``(n,)``.
    order, starts
        Indices of the chunk's rows sorted by id, ``(n,)``, and for each id the position in ``order`` at which its rows begin,
        ``(m,)``.
    """

    rows: NDArray[np.int64]
    inverse: NDArray[np.intp]
    order: NDArray[np.intp]
    starts: NDArray[np.intp]


class GaussianFactors:
    """Stores for every id the mean and the precision of its natural parameters, and of the difference that ad rows add to them.

    The precision is ``A + diag(1 / variance)``, where ``A`` is the accumulated curvature and ``variance`` the prior variance.
    Let ``g`` and ``h`` be the first and second derivative of a row's loss with respect to its logit, and ``a`` the derivative
    of the logit with respect to the parameters of the id. The rows of a chunk first update ``A += sum h a a^T`` and then the
    mean by ``-(A + diag(1 / variance))^-1 sum g a``: online Laplace (Ritter, Botev and Barber, NeurIPS 2018, equation 9), with
    the full curvature matrix of each id instead of a Kronecker-factored approximation. The step size decreases as 1 / n in the
    number of rows of an id, whereas that of Adagrad decreases as 1 / sqrt(n). The prior keeps rare ids from overfitting, and
    frequent ids converge. The precision added by natural rows is multiplied by the configured factor per day of event time
    (``bias_memory``, ``factor_memory``), at a resolution of hours.

    Parameters
    ----------
    settings
        Prior variances and decay.
    factors
        Number of parameters of an id in addition to its bias.
    sd
        Standard deviation of the initial factors. It must be above 0: if both factors of a product are 0, its gradient is 0 and
        it would never change.
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
        self._daily_factor = np.append(s.bias_memory, s.factor_memory * tail)
        self.ids = IdMap()
        self._changed = DirtyRows(0)
        self._hour = np.zeros(0, np.int64)
        self._mean = np.zeros((0, 2, size))
        self._curvature = np.zeros((0, 2, size, size))

    def look_up(self, values: NDArray[np.int32], ad: Floats) -> Floats:
        """Mean parameters of each row's id, ``(n, size)``: natural, plus the difference in ad rows; 0 for unknown ids."""
        unique, inverse = np.unique(values, return_inverse=True)
        at = self.ids.find(unique.astype(np.uint64))
        mean = np.zeros((len(unique), 2, self.size))
        mean[at >= 0] = self._mean[at[at >= 0]]
        return _combine(mean, inverse, ad)

    def find_or_add(self, values: NDArray[np.int32], hour: int) -> ChunkIds:
        """Find the ids of a chunk and add new ones with their prior. The natural precision of these ids is decayed to ``hour``."""
        unique, inverse = np.unique(values, return_inverse=True)
        before = len(self.ids)
        rows = self.ids.add(unique.astype(np.uint64))
        if len(self.ids) > before:
            self._initialise(before, len(self.ids), hour)
        elapsed = np.maximum(hour - self._hour[rows], 0)
        if (self._daily_factor < 1.0).any() and elapsed.any():
            # elapsed / 24 days, halved: rows and columns of A are both multiplied by the factor.
            factor = self._daily_factor ** (elapsed[:, None] / 48.0)
            self._curvature[rows, 0] *= factor[:, :, None] * factor[:, None, :]
        self._hour[rows] = np.maximum(self._hour[rows], hour)
        self._changed.mark(rows)
        order = np.argsort(inverse, kind="stable")
        return ChunkIds(rows, inverse, order, np.searchsorted(inverse[order], np.arange(len(rows))))

    def vectors(self, ids: ChunkIds, ad: Floats) -> Floats:
        """As :meth:`look_up`, for ids that :meth:`find_or_add` returned."""
        return _combine(self._mean[ids.rows], ids.inverse, ad)

    def learn(self, ids: ChunkIds, part: int, inputs: Floats, gradient: Floats, curve: Floats) -> None:
        """One Newton step for every id that has rows of this part.

        Parameters
        ----------
        ids
            Ids of the chunk.
        part
            0: natural, 1: difference in ads.
        inputs
            Derivative of each row's logit with respect to the parameters of its id, ``(n, size)``.
        gradient, curve
            First and second derivative of each row's loss with respect to its logit, ``(n,)``; both are 0 for rows that do
            not depend on this part (natural rows if ``part`` is 1).
        """
        a, size = inputs[ids.order], self.size
        g, h = gradient[ids.order], curve[ids.order]
        sums = np.add.reduceat(g[:, None] * a, ids.starts, axis=0)
        outer = (a[:, :, None] * (h[:, None] * a)[:, None, :]).reshape(-1, size * size)
        curves = np.add.reduceat(outer, ids.starts, axis=0).reshape(-1, size, size)
        has_rows = curves[:, 0, 0] > 0.0
        rows = ids.rows[has_rows]
        precision = self._curvature[rows, part] + curves[has_rows]
        self._curvature[rows, part] = precision
        at = np.arange(size)
        precision[:, at, at] += self._prior[part]
        step = (
            sums[has_rows] / precision[:, 0]
            if size == 1
            else np.linalg.solve(precision, sums[has_rows][:, :, None])[:, :, 0]
        )
        # If thousands of similar rows contradict what was learned before, a full Newton step would overshoot.
        step /= np.maximum(np.abs(step).max(axis=1, keepdims=True) / MAX_STEP, 1.0)
        self._mean[rows, part] -= step

    def _initialise(self, first: int, end: int, hour: int) -> None:
        """Set rows ``first .. end`` to their prior; grow the arrays if needed."""
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
        """Fill an empty table with all rows that :meth:`take` has returned so far, in the order of their row numbers."""
        self.ids.add(ids)
        n, size = len(ids), self.size
        self._initialise(0, n, 0)
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
