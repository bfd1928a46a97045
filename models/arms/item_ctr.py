"""``ItemCtr``: a baseline without a network, the smoothed click rate of each item in ads."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD
from ecdctr.models.arms.interface import ArmInput, ArmState
from ecdctr.models.arms.registry import ArmContext
from ecdctr.models.nets import DirtyRows, IdMap

__all__ = ["ItemCtr", "item_ctr"]


class ItemCtr:
    """An item's clicks divided by its impressions so far, smoothed towards the click rate of all ad rows.

    ``(clicks_i + strength * rate) / (impressions_i + strength)``. A baseline that ignores users. Implements
    :class:`Arm`.

    Parameters
    ----------
    strength
        Weight of the overall rate, in impressions.
    """

    name = "item_ctr"
    domains: tuple[int, ...] = (AD,)
    reads: tuple[str, ...] = ()

    def __init__(self, strength: float = 20.0) -> None:
        self._strength = strength
        self.reset()

    def reset(self) -> None:
        self._ids = IdMap()
        self._counts = np.zeros((1024, 2))  # clicks, impressions; row 0: of all items
        self._changed = DirtyRows(len(self._counts))

    def predict(self, rows: ArmInput) -> NDArray[np.float32]:
        clicks, shown = self._counts[0]
        rate = (clicks + 1.0) / (shown + 2.0)
        at = self._ids.find(rows.batch.item) + 1
        known = np.where((at > 0)[:, None], self._counts[at], 0.0)
        out: NDArray[np.float64] = (known[:, 0] + self._strength * rate) / (known[:, 1] + self._strength)
        return out.astype(np.float32)

    def learn(self, rows: ArmInput) -> None:
        label = rows.batch.label
        unique, inverse = np.unique(rows.batch.item, return_inverse=True)
        at = self._rows(unique)
        self._counts[at, 0] += np.bincount(inverse, weights=label, minlength=len(unique))
        self._counts[at, 1] += np.bincount(inverse, minlength=len(unique))
        self._counts[0] += (float(label.sum()), len(label))
        self._changed.mark(at)

    def _rows(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        rows = self._ids.add(ids) + 1
        need = len(self._ids) + 1
        if need > len(self._counts):
            more = np.zeros((max(need, 2 * len(self._counts)) - len(self._counts), 2))
            self._counts = np.concatenate([self._counts, more])
            self._changed.grow(len(self._counts))
        return rows

    def capture(self) -> ArmState:
        rows = self._changed.take()
        return ArmState(
            rows={
                "item_ctr/id": (rows, self._ids.ids()[rows - 1].reshape(-1, 1)),
                "item_ctr/counts": (rows, self._counts[rows]),
            }
        )

    def load(self, state: ArmState) -> None:
        if "item_ctr/id" not in state.rows:
            return
        at = self._rows(state.rows["item_ctr/id"][1].reshape(-1))
        self._counts[at] = state.rows["item_ctr/counts"][1]
        self._counts[0] = self._counts[1 : len(self._ids) + 1].sum(0)

    def digest(self, into: hashlib.blake2b) -> None:
        n = len(self._ids)
        into.update(repr([self._ids.ids().tolist(), self._counts[: n + 1].tolist()]).encode())


def item_ctr(context: ArmContext) -> ItemCtr:  # noqa: ARG001
    """The arm ``item_ctr``."""
    return ItemCtr()
