"""Rivals without a network of their own: the running item CTR, and CPM with a running prior shift."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.models.nets import IdMap, TouchedRows
from ecdctr.models.probability import logit, sigmoid
from ecdctr.state.checkpoints import Rows

__all__ = ["ItemCtr", "OnlineShift"]


class OnlineShift:
    """``sigmoid(z + b)``, where ``b`` follows the click rate: one Newton step a batch over fading curvature.

    What re-calibration does to a model whose training rows are clicked more or less often than the rows it scores.

    Parameters
    ----------
    fade
        Share of the curvature that is left after a batch; about ``1 / (1 - fade)`` batches are remembered.
    """

    def __init__(self, fade: float = 0.999) -> None:
        self._fade = fade
        self.shift, self._curve = 0.0, 1.0

    def predict(self, p: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shifted probabilities ``(n,)``."""
        return sigmoid(logit(p) + self.shift).astype(np.float32)

    def observe(self, p: NDArray[np.float32], label: NDArray[np.float32]) -> None:
        """Learn from rows that were predicted: their unshifted probabilities and labels, ``(n,)``."""
        shifted = self.predict(p).astype(np.float64)
        self._curve = self._curve * self._fade + float((shifted * (1.0 - shifted)).sum())
        self.shift += float((label - shifted).sum()) / self._curve

    def to_json(self) -> list[float]:
        return [self.shift, self._curve]

    def load(self, data: list[float]) -> None:
        """Inverse of :meth:`to_json`."""
        self.shift, self._curve = (float(x) for x in data)


class ItemCtr:
    """An item's clicks by its impressions so far, smoothed towards the rate of all.

    ``(clicks_i + strength * rate) / (impressions_i + strength)``: the rival that knows nothing of users.

    Parameters
    ----------
    strength
        Impressions that the rate of all counts for.

    Examples
    --------
    >>> ctr = ItemCtr(strength=10.0)
    >>> items = np.array([7, 7, 8, 8], np.uint64)
    >>> ctr.observe(items, np.array([1, 1, 0, 0], np.float32))
    >>> ctr.predict(np.array([7, 8, 9], np.uint64)).round(2)
    array([0.58, 0.42, 0.5 ], dtype=float32)
    """

    def __init__(self, strength: float = 20.0) -> None:
        self._strength = strength
        self.reset()

    def reset(self) -> None:
        """Know nothing."""
        self._ids = IdMap()
        self._counts = np.zeros((1024, 2))  # clicks, impressions; row 0: of all items
        self._changed = TouchedRows(len(self._counts))

    def predict(self, item: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Click probabilities ``(n,)``."""
        clicks, shown = self._counts[0]
        rate = (clicks + 1.0) / (shown + 2.0)
        rows = self._ids.find(item) + 1
        known = np.where((rows > 0)[:, None], self._counts[rows], 0.0)
        out: NDArray[np.float64] = (known[:, 0] + self._strength * rate) / (known[:, 1] + self._strength)
        return out.astype(np.float32)

    def observe(self, item: NDArray[np.uint64], label: NDArray[np.float32]) -> None:
        """Count rows that were predicted, ``(n,)`` each."""
        unique, inverse = np.unique(item, return_inverse=True)
        rows = self._rows(unique)
        self._counts[rows, 0] += np.bincount(inverse, weights=label, minlength=len(unique))
        self._counts[rows, 1] += np.bincount(inverse, minlength=len(unique))
        self._counts[0] += (float(label.sum()), len(label))
        self._changed.mark(rows)

    def _rows(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        rows = self._ids.add(ids) + 1
        need = len(self._ids) + 1
        if need > len(self._counts):
            more = np.zeros((max(need, 2 * len(self._counts)) - len(self._counts), 2))
            self._counts = np.concatenate([self._counts, more])
            self._changed.grow(len(self._counts))
        return rows

    def take_rows(self) -> Rows:
        """Ids and counts of items that changed since the last call."""
        rows = self._changed.take()
        return {
            "item_ctr/id": (rows, self._ids.ids()[rows - 1].reshape(-1, 1)),
            "item_ctr/counts": (rows, self._counts[rows]),
        }

    def load(self, rows: Rows) -> None:
        """Become what all captured rows say."""
        self.reset()
        if "item_ctr/id" not in rows:
            return
        at = self._rows(rows["item_ctr/id"][1].reshape(-1))
        self._counts[at] = rows["item_ctr/counts"][1]
        self._counts[0] = self._counts[1 : len(self._ids) + 1].sum(0)

    def state(self) -> list[Any]:
        """Ids and counts, for comparing."""
        n = len(self._ids)
        return [self._ids.ids().tolist(), self._counts[: n + 1].tolist()]
