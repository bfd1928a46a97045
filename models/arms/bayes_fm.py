"""``BayesFm``: a factorization machine learned by online Laplace steps; natural clicks are the prior of ads."""

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
"""Lower bound of a row's ``p (1 - p)``: a row that was predicted with certainty still has weight when it is wrong."""
CLIP = 5.0
"""Numeric features are clipped at this number of standard deviations."""
MAX_LOGIT = 12.0
"""Bound of the absolute logit: predictions are within (6e-6, 1 - 6e-6)."""
_LARGE = 1e6


class BayesFm:
    r"""Clicks as a factorization machine with a Gaussian distribution over the parameters of every id.

    A row has the logit ``z = b . n + sum_f w_f + sum_(f<g) v_f . v_g`` (Rendle, ICDM 2010): numeric features ``n`` and
    a constant, a bias of every categorical feature, and products of the features that TPM reads, too. In an ad row the
    parameters of every id are ``natural + difference``, and so is ``b``. Natural rows train the first, ad rows both. An
    id that is rare in ads is therefore predicted from its natural clicks, an id that is frequent in ads from its ad
    clicks: the transfer is the prior.

    Rows are learned in chunks: first ``b`` takes a Newton step, then, from the remaining residuals, each id takes one of
    its own, see :class:`GaussianFactors`. (Updating one feature after the other, each from the residuals of the features
    before it, was measured: the order of the features then decides which of them explains a click, and every order was
    worse.)

    No random number is drawn and no step can fail: curvatures have a lower bound, numbers are clipped, the linear systems
    are positive definite, and no step is longer than :data:`MAX_STEP`. The state is a function of the settings and of the
    rows in their order. Implements :class:`Arm`.

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
        False: natural rows are not learned (the control that learns from ads alone).
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
        plain = [group for group in single if not group.tpm]
        keyed = [group for group in single if group.tpm]
        self._groups, self._n_plain, self._n_dense = (*plain, *keyed), len(plain), schema.n_dense
        self.reset()

    def reset(self) -> None:
        s = self._settings
        kinds = {"user_id": s.user, "item_id": s.item}
        self._factors = [
            GaussianFactors(
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

    def predict(self, rows: ArmInput) -> NDArray[np.float32]:
        """Click probabilities ``(n,)``; nothing is learned. An id without learned rows contributes nothing."""
        batch = rows.batch
        ad = (batch.domain == AD).astype(np.float64)
        vectors = [
            factors.look_up(batch.features[:, group.first_col], ad)
            for factors, group in zip(self._factors, self._groups, strict=True)
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
        """Numeric features of each row, followed by the same numbers if the row is an ad, else 0; ``(n, 2 (D + 1))``."""
        n, mean, square = self._moments
        sd = np.sqrt(square / np.maximum(n, 1.0)) + 1e-6
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
        self._count(batch.dense)
        places = [
            factors.place(batch.features[:, group.first_col], hour)
            for factors, group in zip(self._factors, self._groups, strict=True)
        ]
        vectors = [b.vectors(place, ad) for b, place in zip(self._factors, places, strict=True)]
        numbers = self._numbers(batch, ad)
        z = self._pairs(vectors) + (numbers * self._b).sum(1)
        z += self._learn_numbers(numbers, z, batch.label)
        p = _sigmoid(z)
        gradient, curve = p - batch.label, np.maximum(p * (1.0 - p), MIN_CURVE)
        keyed = [v[:, 1:] for v in vectors[self._n_plain :]]
        total = np.sum(keyed, axis=0) if keyed else None
        for factors, place, vector in zip(self._factors, places, vectors, strict=True):
            along = np.ones((len(batch), 1))
            if factors.size > 1 and total is not None:
                along = np.concatenate([along, total - vector[:, 1:]], axis=1)
            factors.learn(place, 0, along, gradient, curve)
            if ad.any():
                factors.learn(place, 1, along, gradient * ad, curve * ad)

    def _learn_numbers(self, numbers: Floats, z: Floats, label: NDArray[np.float32]) -> Floats:
        p = _sigmoid(z)
        self._b_curve += (np.maximum(p * (1.0 - p), MIN_CURVE)[:, None] * numbers**2).sum(0)
        step = -((p - label)[:, None] * numbers).sum(0) / self._b_curve
        step = np.clip(step, -MAX_STEP, MAX_STEP)
        self._b += step
        out: Floats = (numbers * step).sum(1)
        return out

    def _count(self, dense: NDArray[np.float32]) -> None:
        """Update mean and squared deviations of the numeric features (Chan, Golub and LeVeque, 1979)."""
        x = np.clip(dense.astype(np.float64), -_LARGE, _LARGE)
        n, mean, square = self._moments
        m, theirs = len(x), x.mean(0)
        off = theirs - mean
        spread = ((x - theirs) ** 2).sum(0) + off**2 * n * m / (n + m)
        self._moments = np.stack([n + m, mean + off * m / (n + m), square + spread])

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
            return  # a checkpoint that is older than this arm
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
    """The arm ``ads_bayes_fm``: its control, which learns from ads alone."""
    model = context.model
    return BayesFm(context.schema, model.bayes_fm, name="ads_bayes_fm", seed=model.seed, natural=False)


def _sigmoid(z: Floats) -> Floats:
    return sigmoid(np.clip(z, -MAX_LOGIT, MAX_LOGIT))
