"""``Stack``: an online linear combination of the logits of several arms."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD
from ecdctr.events.time import duration_ms
from ecdctr.models.arms.interface import ArmInput, ArmState
from ecdctr.models.arms.registry import ArmContext
from ecdctr.models.probability import logit, sigmoid

__all__ = ["Stack", "StackArm", "stack"]


class Stack:
    r"""``p = sigmoid(b + sum_m w_m z_m)`` with weights regularised towards equal weights.

    ``(w, b)`` minimises ``sum_i log loss_i + ridge / 2 |w - 1/m|^2`` over past ad rows, whose weight decays. No row is
    stored: each adds the second-order expansion of its loss around the weights that predicted it (``h = p (1 - p)``,
    ``A += h x x^T``, ``r += h x x^T theta + (y - p) x``), and the minimiser of the sum is one small linear system.
    A row is added after it was predicted, and the weights change only at multiples of ``every`` of event time.

    Parameters
    ----------
    members
        Names of the combined arms, in the order of the weights.
    ridge
        Strength of the regularisation, in units of a row's curvature; the intercept is not regularised.
    every
        Event time between two fits, such as ``6h``.
    fade
        Factor by which the statistics are multiplied per day of event time (1: no decay).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=20_000)
    >>> good = (1 / (1 + np.exp(-z))).astype(np.float32)
    >>> noise = (1 / (1 + np.exp(-rng.normal(size=20_000)))).astype(np.float32)
    >>> stack = Stack(("a", "b"), ridge=20.0, every="1d", fade=1.0)
    >>> stack.observe({"a": good, "b": noise}, (rng.random(20_000) < good).astype(np.float32), clock_ms=0)
    >>> stack.observe({"a": good[:0], "b": noise[:0]}, np.empty(0, np.float32), clock_ms=86_400_000)
    >>> bool(stack.weights[0] > 0.8), bool(abs(stack.weights[1]) < 0.1)
    (True, True)
    """

    def __init__(self, members: Sequence[str], *, ridge: float, every: str, fade: float) -> None:
        self.members = tuple(members)
        self._ridge, self._every_ms = ridge, duration_ms(every)
        self._decay = fade ** (self._every_ms / duration_ms("1d"))
        m = len(self.members)
        self._equal = np.append(np.full(m, 1.0 / max(1, m)), 0.0)
        self._theta = self._equal.copy()
        self._a = np.zeros((m + 1, m + 1))
        self._r = np.zeros(m + 1)
        self._period: int | None = None
        self.rows = 0

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weight of each member, then the intercept."""
        return self._theta.copy()

    def _inputs(self, scores: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        columns = [logit(scores[name]) for name in self.members]
        return np.stack([*columns, np.ones(len(columns[0]))], axis=1)

    def _predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        # Column by column: in a matrix product the result of a row may depend on the other rows.
        z = np.full(len(x), self._theta[-1])
        for i, weight in enumerate(self._theta[:-1]):
            z += weight * x[:, i]
        return sigmoid(z)

    def predict(self, scores: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Click probabilities ``(n,)`` from those of the members."""
        return self._predict(self._inputs(scores)).astype(np.float32)

    def observe(
        self, scores: Mapping[str, NDArray[np.float32]], label: NDArray[np.float32], clock_ms: int
    ) -> None:
        """Add rows that were predicted; fit again if the clock has entered a later period.

        Parameters
        ----------
        scores
            Predictions of the members, ``(n,)`` each.
        label
            0 or 1, ``(n,)``.
        clock_ms
            Latest event time of the stream so far.
        """
        x = self._inputs(scores)
        p = self._predict(x)
        curve = np.einsum("n,ni,nj->ij", p * (1.0 - p), x, x)
        self._a += curve
        self._r += np.einsum("ij,j->i", curve, self._theta) + np.einsum("n,ni->i", label - p, x)
        self.rows += len(label)
        period = clock_ms // self._every_ms
        if self._period is None:
            self._period = period
        elif period > self._period:
            self._fit(period - self._period)
            self._period = period

    def _fit(self, periods: int) -> None:
        pull = np.append(np.full(len(self.members), self._ridge), 1e-3)
        self._theta = np.linalg.solve(self._a + np.diag(pull), self._r + pull * self._equal)
        self._a *= self._decay**periods
        self._r *= self._decay**periods

    def to_json(self) -> dict[str, Any]:
        """The complete state as JSON; the floats read back to the same bits."""
        return {
            "theta": self._theta.tolist(),
            "a": self._a.tolist(),
            "r": self._r.tolist(),
            "period": self._period,
            "rows": self.rows,
        }

    def load(self, data: Mapping[str, Any]) -> None:
        """Inverse of :meth:`to_json`."""
        self._theta, self._a, self._r = (np.array(data[k], np.float64) for k in ("theta", "a", "r"))
        self._period, self.rows = data["period"], int(data["rows"])


class StackArm:
    """The :class:`Stack` of other arms' predictions. Implements :class:`Arm`.

    Parameters
    ----------
    members, ridge, every, fade
        As for :class:`Stack`.

    Attributes
    ----------
    stack
        The combination.
    """

    name = "stack"
    domains: tuple[int, ...] = (AD,)

    def __init__(self, members: Sequence[str], *, ridge: float, every: str, fade: float) -> None:
        self.reads: tuple[str, ...] = tuple(members)
        self._ridge, self._every, self._fade = ridge, every, fade
        self.reset()

    def reset(self) -> None:
        self.stack = Stack(self.reads, ridge=self._ridge, every=self._every, fade=self._fade)

    def predict(self, rows: ArmInput) -> NDArray[np.float32]:
        return self.stack.predict({name: rows.scores(name) for name in self.reads})

    def learn(self, rows: ArmInput) -> None:
        scores = {name: rows.scores(name) for name in self.reads}
        self.stack.observe(scores, rows.batch.label, rows.clock_ms)

    def capture(self) -> ArmState:
        return ArmState(meta={"stack": self.stack.to_json()})

    def load(self, state: ArmState) -> None:
        if "stack" in state.meta:  # absent if the checkpoint was written before this arm existed
            self.stack.load(state.meta["stack"])

    def digest(self, into: hashlib.blake2b) -> None:
        into.update(repr(self.stack.to_json()).encode())


def stack(context: ArmContext) -> StackArm:
    """The arm ``stack``, over the members that ``model.stack_of`` names."""
    model = context.model
    return StackArm(model.stack_of, ridge=model.stack_ridge, every=model.stack_every, fade=model.stack_fade)
