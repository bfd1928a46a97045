"""``BayesFm``: a factorization machine learned by online Laplace steps; what ads know begins as what natural clicks say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.time import HOUR_MS
from ecdctr.models.arms.gaussian_factors import MAX_STEP, Belief
from ecdctr.models.probability import sigmoid
from ecdctr.models.settings import BayesFmSettings
from ecdctr.state.checkpoints import Rows

__all__ = ["BayesFm"]

Floats = NDArray[np.float64]

MIN_CURVE = 1e-3
"""Least ``p (1 - p)`` of a row: one that was predicted with certainty still counts when it is wrong."""
CLIP = 5.0
"""Numbers count up to so many standard deviations."""
MAX_LOGIT = 12.0
"""Predictions stay inside (6e-6, 1 - 6e-6)."""
_LARGE = 1e6


class BayesFm:
    r"""Clicks as a factorization machine with a Gaussian belief about every id.

    A row has the logit ``z = b . n + sum_f w_f + sum_(f<g) v_f . v_g`` (Rendle, ICDM 2010): numbers ``n`` and a
    constant, a bias of every categorical feature, products of the features that TPM reads too. In an ad row every id
    stands for ``natural + difference``, and so does ``b``. Natural rows teach the first, ad rows both; an id that ads
    have hardly met is believed to be what natural clicks say of it, one that they have met often is what ads say:
    the transfer is the prior.

    Rows are learned in chunks: first ``b`` takes a Newton step, then, from what is left, each id one of its own, see
    :class:`Belief`. (One feature after the other, each from what the ones before it left, was measured: the order then
    decides who explains what, and every order was worse.)

    Nothing is drawn at random and no step can fail: curvatures have a floor, numbers are clipped, the systems are
    definite, no step is longer than :data:`MAX_STEP`. The state is a function of the settings and of the rows in their order.

    Parameters
    ----------
    schema
        The features; bags are not read.
    settings
        Size, chunk, beliefs.
    name
        Under which its rows stand in checkpoints.
    seed
        Names the first factors.
    natural
        False: natural rows are not for it (the control that ads alone teach).
    """

    def __init__(
        self,
        schema: FeatureSchema,
        settings: BayesFmSettings,
        *,
        name: str,
        seed: int = 0,
        natural: bool = True,
    ) -> None:
        self.name, self._settings, self._seed, self._natural = name, settings, seed, natural
        single = [group for group in schema.categorical if not group.is_bag]
        plain = [group for group in single if not group.tpm]
        keyed = [group for group in single if group.tpm]
        self._groups, self._n_plain, self._n_dense = (*plain, *keyed), len(plain), schema.n_dense
        self.reset()

    def reset(self) -> None:
        """Know nothing."""
        s = self._settings
        kinds = {"user_id": s.user, "item_id": s.item}
        self._beliefs = [
            Belief(
                kinds.get(group.spec.field, s.other),
                factors=0 if i < self._n_plain else s.dim,
                sd=s.init,
                seed=self._seed + i,
            )
            for i, group in enumerate(self._groups)
        ]
        self._b = np.zeros(2 * (self._n_dense + 1))
        self._b_curve = np.ones(2 * (self._n_dense + 1))
        self._moments = np.zeros((3, self._n_dense))  # count, mean, squared deviations

    # -- predict

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """Click probabilities ``(n,)``; nothing is learned. An id that was never met adds nothing."""
        ad = (batch.domain == AD).astype(np.float64)
        vectors = [
            belief.look_up(batch.features[:, group.first_col], ad)
            for belief, group in zip(self._beliefs, self._groups, strict=True)
        ]
        z = self._pairs(vectors) + (self._numbers(batch, ad) * self._b).sum(1)
        return _sigmoid(z).astype(np.float32)

    def _pairs(self, vectors: Sequence[Floats]) -> Floats:
        z = np.zeros(len(vectors[0])) if vectors else np.zeros(0)
        for vector in vectors:
            z += vector[:, 0]
        keyed = vectors[self._n_plain :]
        if keyed:
            total = np.sum([v[:, 1:] for v in keyed], axis=0)
            for vector in keyed:
                z += 0.5 * (vector[:, 1:] * (total - vector[:, 1:])).sum(1)
        return z

    def _numbers(self, batch: Batch, ad: Floats) -> Floats:
        """Numbers of each row, then the same where it is an ad, ``(n, 2 (D + 1))``."""
        n, mean, square = self._moments
        sd = np.sqrt(square / np.maximum(n, 1.0)) + 1e-6
        x = (np.clip(batch.dense.astype(np.float64), -_LARGE, _LARGE) - mean) / sd
        x = np.where(n > 0, np.clip(x, -CLIP, CLIP), 0.0)
        x = np.concatenate([x, np.ones((len(batch), 1))], axis=1)
        return np.concatenate([x, x * ad[:, None]], axis=1)

    # -- learn

    def learn(self, batch: Batch) -> None:
        """Learn rows of either domain, any number, in their order."""
        if not self._natural:
            batch = batch.take(batch.domain == AD)
        for i in range(0, len(batch), self._settings.batch):
            self._chunk(batch.take(slice(i, i + self._settings.batch)))

    def _chunk(self, batch: Batch) -> None:
        ad = (batch.domain == AD).astype(np.float64)
        hour = int(batch.ts.max()) // HOUR_MS
        self._count(batch.dense)
        places = [
            belief.place(batch.features[:, group.first_col], hour)
            for belief, group in zip(self._beliefs, self._groups, strict=True)
        ]
        vectors = [b.vectors(place, ad) for b, place in zip(self._beliefs, places, strict=True)]
        numbers = self._numbers(batch, ad)
        z = self._pairs(vectors) + (numbers * self._b).sum(1)
        z += self._learn_numbers(numbers, z, batch.label)
        p = _sigmoid(z)
        gradient, curve = p - batch.label, np.maximum(p * (1.0 - p), MIN_CURVE)
        keyed = [v[:, 1:] for v in vectors[self._n_plain :]]
        total = np.sum(keyed, axis=0) if keyed else None
        for belief, place, vector in zip(self._beliefs, places, vectors, strict=True):
            along = np.ones((len(batch), 1))
            if belief.size > 1 and total is not None:
                along = np.concatenate([along, total - vector[:, 1:]], axis=1)
            belief.learn(place, 0, along, gradient, curve)
            if ad.any():
                belief.learn(place, 1, along, gradient * ad, curve * ad)

    def _learn_numbers(self, numbers: Floats, z: Floats, label: NDArray[np.float32]) -> Floats:
        p = _sigmoid(z)
        self._b_curve += (np.maximum(p * (1.0 - p), MIN_CURVE)[:, None] * numbers**2).sum(0)
        step = -((p - label)[:, None] * numbers).sum(0) / self._b_curve
        step = np.clip(step, -MAX_STEP, MAX_STEP)
        self._b += step
        out: Floats = (numbers * step).sum(1)
        return out

    def _count(self, dense: NDArray[np.float32]) -> None:
        """Running mean and squared deviations of the numbers (Chan, Golub and LeVeque, 1979)."""
        x = np.clip(dense.astype(np.float64), -_LARGE, _LARGE)
        n, mean, square = self._moments
        m, theirs = len(x), x.mean(0)
        off = theirs - mean
        spread = ((x - theirs) ** 2).sum(0) + off**2 * n * m / (n + m)
        self._moments = np.stack([n + m, mean + off * m / (n + m), square + spread])

    # -- keep

    def dense_state(self) -> dict[str, NDArray[np.float64]]:
        """Copies of what is not an id's, by name."""
        parts = {"b": self._b, "b_curve": self._b_curve, "moments": self._moments}
        return {f"{self.name}/{key}": value.copy() for key, value in parts.items()}

    def take_rows(self) -> Rows:
        """Ids, and what is believed of them, changed since the last call."""
        out: Rows = {}
        for group, belief in zip(self._groups, self._beliefs, strict=True):
            rows, ids, payload = belief.take()
            out[f"{self.name}/{group.name}_id"] = (rows, ids)
            out[f"{self.name}/{group.name}"] = (rows, payload)
        return out

    def load(self, dense: Mapping[str, NDArray[Any]], rows: Rows) -> None:
        """Become what was captured; where nothing was (an older checkpoint), know nothing."""
        self.reset()
        if f"{self.name}/b" not in dense:
            return
        self._b, self._b_curve, self._moments = (
            np.array(dense[f"{self.name}/{key}"], np.float64) for key in ("b", "b_curve", "moments")
        )
        for group, belief in zip(self._groups, self._beliefs, strict=True):
            key = f"{self.name}/{group.name}"
            if key in rows:
                belief.load(rows[f"{key}_id"][1].reshape(-1), rows[key][1])

    def digest(self, into: hashlib.blake2b) -> None:
        """Add every bit of the state to a hash."""
        for value in self.dense_state().values():
            into.update(value.tobytes())
        for belief in self._beliefs:
            belief.digest(into)


def _sigmoid(z: Floats) -> Floats:
    return sigmoid(np.clip(z, -MAX_LOGIT, MAX_LOGIT))
