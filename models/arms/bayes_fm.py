"""``BayesFm``: a factorization machine with a Gaussian posterior, updated by an online Laplace approximation.

The parameters learned from natural rows are the prior mean of the ad parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.time import HOUR_MS
from ecdctr.models.arms.gaussian_factors import MAX_STEP, GaussianFactors
from ecdctr.models.arms.interface import ArmInput, ArmState
from ecdctr.models.arms.registry import ArmContext
from ecdctr.models.probability import sigmoid
from ecdctr.models.settings import BayesFmSettings

__all__ = ["BayesFm", "ads_bayes_fm", "bayes_fm"]

Floats = NDArray[np.float64]

MIN_CURVE = 1e-3
"""Lower bound of a row's curvature ``p (1 - p)``. Without it, a row predicted with near certainty would add almost no precision,
and if the prediction is wrong the step would be very long."""
CLIP = 5.0
"""Numeric features are clipped at this number of standard deviations."""
MAX_LOGIT = 12.0
"""Bound of the absolute logit: predictions are within (6e-6, 1 - 6e-6)."""
_LARGE = 1e6
"""Numeric features are clipped at this absolute value before they are standardised, so that their squares stay finite."""


class BayesFm:
    r"""A factorization machine that predicts clicks, with a Gaussian distribution over the parameters of every id.

    A row has the logit ``z = b . n + sum_f w_f + sum_(f<g) v_f . v_g`` (Rendle, ICDM 2010): numeric features ``n`` and
    a constant, a bias of every categorical feature, and the pairwise products of the features with ``tpm = true``. In an
    ad row the parameters of every id are ``natural + difference``, and so is ``b``. Natural rows train ``natural``; ad rows
    train ``natural`` and ``difference``. An id that is rare in ads is therefore predicted mainly from its natural clicks, an
    id that is frequent in ads mainly from its ad clicks. Knowledge is transferred because the natural parameters are the
    prior mean of the ad parameters.

    Rows are learned in chunks. First one diagonal Newton step updates ``b``. Then, with the residuals that remain, one
    Newton step per id updates its parameters, see :class:`GaussianFactors`. (The alternative, updating the features one
    after the other with the residuals of the previous ones, was worse for every order of the features: the order then
    determines which feature explains a click.)

    No random number is drawn and no step can fail: curvatures have a lower bound, numeric features are clipped, the linear
    systems are positive definite, and no parameter changes by more than :data:`MAX_STEP` in one update. The state depends
    only on the settings and on the rows and their order. Implements :class:`Arm`.

    Parameters
    ----------
    schema
        The features; bags are not read.
    settings
        Number of factors, chunk size, prior variances.
    name
        Name of the arm and prefix of its rows in checkpoints.
    seed
        Seed of the initial factors.
    natural
        Whether natural rows are learned; False for the control ``ads_bayes_fm``.
    """

    reads: tuple[str, ...] = ()

    def __init__(
        self,
        schema: FeatureSchema,
        settings: BayesFmSettings,
        *,
        name: str,
        seed: int = 0,
        natural: bool = True,
    ) -> None:
        self.name, self._settings, self._seed = name, settings, seed
        self.domains: tuple[int, ...] = (NATURAL, AD) if natural else (AD,)
        single = [group for group in schema.categorical if not group.is_bag]
        biases_only = [group for group in single if not group.tpm]
        with_factors = [group for group in single if group.tpm]
        self._groups, self._n_biases_only = (*biases_only, *with_factors), len(biases_only)
        self._n_dense = schema.n_dense
        self.reset()

    def reset(self) -> None:
        s = self._settings
        kinds = {"user_id": s.user, "item_id": s.item}
        self._factors = [
            GaussianFactors(
                kinds.get(group.spec.field, s.other),
                factors=0 if i < self._n_biases_only else s.dim,
                sd=s.init,
                seed=self._seed + i,
            )
            for i, group in enumerate(self._groups)
        ]
        self._b = np.zeros(2 * (self._n_dense + 1))
        self._b_curve = np.ones(2 * (self._n_dense + 1))
        self._moments = np.zeros((3, self._n_dense))  # count, mean, squared deviations

    # -- predict

    def predict(self, rows: ArmInput) -> NDArray[np.float32]:
        """Click probabilities ``(n,)``; nothing is learned. An id without learned rows contributes nothing."""
        batch = rows.batch
        ad = (batch.domain == AD).astype(np.float64)
        vectors = [
            factors.look_up(batch.features[:, group.first_col], ad)
            for factors, group in zip(self._factors, self._groups, strict=True)
        ]
        z = self._logit_of_ids(vectors) + (self._numbers(batch, ad) * self._b).sum(1)
        return _sigmoid(z).astype(np.float32)

    def _logit_of_ids(self, vectors: Sequence[Floats]) -> Floats:
        """Sum of the biases and of the pairwise products of each row's ids, ``(n,)``."""
        z = np.zeros(len(vectors[0])) if vectors else np.zeros(0)
        for vector in vectors:
            z += vector[:, 0]
        with_factors = vectors[self._n_biases_only :]
        if with_factors:
            total = np.sum([v[:, 1:] for v in with_factors], axis=0)
            for vector in with_factors:
                z += 0.5 * (vector[:, 1:] * (total - vector[:, 1:])).sum(1)
        return z

    def _numbers(self, batch: Batch, ad: Floats) -> Floats:
        """Inputs of ``b``, ``(n, 2 (D + 1))``.

        Standardised numeric features and a constant 1 for each row, followed by the same values if the row is an ad and by
        zeros otherwise.
        """
        n, mean, m2 = self._moments
        sd = np.sqrt(m2 / np.maximum(n, 1.0)) + 1e-6
        x = (np.clip(batch.dense.astype(np.float64), -_LARGE, _LARGE) - mean) / sd
        x = np.where(n > 0, np.clip(x, -CLIP, CLIP), 0.0)
        x = np.concatenate([x, np.ones((len(batch), 1))], axis=1)
        return np.concatenate([x, x * ad[:, None]], axis=1)

    # -- learn

    def learn(self, rows: ArmInput) -> None:
        """Learn rows of either domain, any number of them, in their order."""
        batch = rows.batch
        if NATURAL not in self.domains:
            batch = batch.take(batch.domain == AD)
        for i in range(0, len(batch), self._settings.batch):
            self._chunk(batch.take(slice(i, i + self._settings.batch)))

    def _chunk(self, batch: Batch) -> None:
        ad = (batch.domain == AD).astype(np.float64)
        hour = int(batch.ts.max()) // HOUR_MS
        self._update_moments(batch.dense)
        chunk_ids = [
            factors.find_or_add(batch.features[:, group.first_col], hour)
            for factors, group in zip(self._factors, self._groups, strict=True)
        ]
        vectors = [factors.vectors(ids, ad) for factors, ids in zip(self._factors, chunk_ids, strict=True)]
        numbers = self._numbers(batch, ad)
        z = self._logit_of_ids(vectors) + (numbers * self._b).sum(1)
        z += self._learn_numbers(numbers, z, batch.label)
        p = _sigmoid(z)
        gradient, curve = p - batch.label, np.maximum(p * (1.0 - p), MIN_CURVE)
        with_factors = [v[:, 1:] for v in vectors[self._n_biases_only :]]
        total = np.sum(with_factors, axis=0) if with_factors else None
        for factors, ids, vector in zip(self._factors, chunk_ids, vectors, strict=True):
            inputs = np.ones((len(batch), 1))
            if factors.size > 1 and total is not None:
                inputs = np.concatenate([inputs, total - vector[:, 1:]], axis=1)
            factors.learn(ids, 0, inputs, gradient, curve)
            if ad.any():
                factors.learn(ids, 1, inputs, gradient * ad, curve * ad)

    def _learn_numbers(self, numbers: Floats, z: Floats, label: NDArray[np.float32]) -> Floats:
        p = _sigmoid(z)
        self._b_curve += (np.maximum(p * (1.0 - p), MIN_CURVE)[:, None] * numbers**2).sum(0)
        step = -((p - label)[:, None] * numbers).sum(0) / self._b_curve
        step = np.clip(step, -MAX_STEP, MAX_STEP)
        self._b += step
        out: Floats = (numbers * step).sum(1)
        return out

    def _update_moments(self, dense: NDArray[np.float32]) -> None:
        """Update mean and squared deviations of the numeric features (Chan, Golub and LeVeque, 1979)."""
        x = np.clip(dense.astype(np.float64), -_LARGE, _LARGE)
        n, mean, m2 = self._moments
        m, batch_mean = len(x), x.mean(0)
        delta = batch_mean - mean
        batch_m2 = ((x - batch_mean) ** 2).sum(0) + delta**2 * n * m / (n + m)
        self._moments = np.stack([n + m, mean + delta * m / (n + m), m2 + batch_m2])

    # -- state

    def _dense(self) -> dict[str, Floats]:
        parts = {"b": self._b, "b_curve": self._b_curve, "moments": self._moments}
        return {f"{self.name}/{key}": value.copy() for key, value in parts.items()}

    def capture(self) -> ArmState:
        state = ArmState(dense=dict(self._dense()))
        for group, factors in zip(self._groups, self._factors, strict=True):
            rows, ids, payload = factors.take()
            state.rows[f"{self.name}/{group.name}_id"] = (rows, ids)
            state.rows[f"{self.name}/{group.name}"] = (rows, payload)
        return state

    def load(self, state: ArmState) -> None:
        if f"{self.name}/b" not in state.dense:
            return  # the checkpoint was written before this arm existed
        self._b, self._b_curve, self._moments = (
            np.array(state.dense[f"{self.name}/{key}"], np.float64) for key in ("b", "b_curve", "moments")
        )
        for group, factors in zip(self._groups, self._factors, strict=True):
            key = f"{self.name}/{group.name}"
            if key in state.rows:
                factors.load(state.rows[f"{key}_id"][1].reshape(-1), state.rows[key][1])

    def digest(self, into: hashlib.blake2b) -> None:
        for value in self._dense().values():
            into.update(value.tobytes())
        for factors in self._factors:
            factors.digest(into)


def bayes_fm(context: ArmContext) -> BayesFm:
    """The arm ``bayes_fm``: natural and ad rows."""
    return BayesFm(context.schema, context.model.bayes_fm, name="bayes_fm", seed=context.model.seed)


def ads_bayes_fm(context: ArmContext) -> BayesFm:
    """The arm ``ads_bayes_fm``: the control of ``bayes_fm``, the same model trained on ad rows only."""
    model = context.model
    return BayesFm(context.schema, model.bayes_fm, name="ads_bayes_fm", seed=model.seed, natural=False)


def _sigmoid(z: Floats) -> Floats:
    return sigmoid(np.clip(z, -MAX_LOGIT, MAX_LOGIT))
