"""``Stack``: an online combination of the arms' logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.time import duration_ms
from ecdctr.models.probability import logit, sigmoid

__all__ = ["Stack"]


class Stack:
    r"""``p = sigmoid(b + sum_m w_m z_m)`` with weights pulled towards equal ones.

    ``(w, b)`` minimises ``sum_i log loss_i + ridge / 2 |w - 1/m|^2`` over past ad rows, old ones fading. No row is
    kept: each adds its loss's second-order expansion around the weights that predicted it (``h = p (1 - p)``,
    ``A += h x x^T``, ``r += h x x^T theta + (y - p) x``), and the minimiser of the sum is one small linear system.
    A row adds after it was predicted, and weights change at multiples of ``every`` of event time only.

    Parameters
    ----------
    members
        Arms, in the order of the weights.
    ridge
        Pull towards equal weights, in units of a row's curvature; the intercept is not pulled.
    every
        Event time between two fits.
    fade
        Share of what is known that is left after a day of event time.

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
        self._keep = fade ** (self._every_ms / duration_ms("1d"))
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
        # Column by column: what a matrix library gives for a row may depend on the rows beside it.
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
        """Add rows that were predicted; fit anew if the clock has entered another period.

        Parameters
        ----------
        scores
            What the members predicted, ``(n,)`` each.
        label
            ``(n,)``.
        clock_ms
            Event time of the youngest row met.
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
        self._a *= self._keep**periods
        self._r *= self._keep**periods

    def to_json(self) -> dict[str, Any]:
        """Everything, exactly: floats read back to the same bits."""
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
