"""Histograms by groups of users and of items: what a stream looked like, in bounded memory, with its own variance.

Rows of one user depend on each other, and so do rows of one item; a test that takes them for independent finds drift every day.
Each histogram is therefore kept for ``G`` groups of users and for ``G`` groups of items (by hash): how far the groups
lie apart tells how far two draws of users and items would lie apart without any change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasketches import kll_floats_sketch
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.models.probability import fast_logit
from ecdctr.monitor.drift.bins import BEHAVIOUR, Cells
from ecdctr.state.hashing import mix64

__all__ = ["Block", "Sketch", "fix_cells", "groups_of"]

KLL_K = 200
"""Size of a quantile sketch: ranks are off by at most 1.33 % (99 % of the time)."""

_USER_SALT, _ITEM_SALT = np.uint64(0x8C5FB1A3D0E94627), np.uint64(0x2F6A914BD7C3E805)
Floats = NDArray[np.float64]


def groups_of(ids: NDArray[np.uint64], salt: np.uint64, groups: int) -> NDArray[np.int32]:
    """Group of each id, 0 .. ``groups`` - 1, by hash."""
    return (mix64(ids ^ salt) % np.uint64(groups)).astype(np.int32)


def fix_cells(schema: FeatureSchema, cells: int, first: Batch, scores: NDArray[np.float32] | None) -> Cells:
    """A layout for a domain, numeric borders at twentieths of its first rows."""
    edges = []
    for numeric in schema.numeric:
        values = first.dense[:, numeric.col]
        sketch = kll_floats_sketch(KLL_K)
        sketch.update(np.ascontiguousarray(values[np.isfinite(values)], np.float32))
        borders = sketch.get_quantiles([i / 20 for i in range(1, 20)]) if len(values) else [0.0]
        edges.append(np.unique(np.asarray(borders, np.float64)))
    if scores is not None and len(scores):
        centre = float(fast_logit(np.asarray([scores.mean()], np.float32))[0])
    else:
        centre = -2.0
    return Cells(schema, cells, edges, centre)


@dataclass(slots=True)
class Block:
    """Rows made ready once for any number of sketches.

    Attributes
    ----------
    index, group, label
        Of the rows that are counted: flat cells of all features ``(n, columns)``; groups of user and item ``(2, n)``; the
        label's cell.
    scored_index, scored_group, predicted, weights
        Of the rows that the main arm predicted: the same, the prediction's cell, and ``y, p, y L, p L, p (1 - p) L^2``.
    rows
        How many rows a counted one stands for.
    ts, scored_ts
        Event times.
    """

    index: NDArray[np.int32]
    group: NDArray[np.int32]
    label: NDArray[np.int32]
    dense: NDArray[np.float32]
    scored_index: NDArray[np.int32]
    scored_group: NDArray[np.int32]
    predicted: NDArray[np.int32]
    weights: tuple[NDArray[np.float32], ...]
    rows: int
    ts: NDArray[np.int64]
    scored_ts: NDArray[np.int64]

    @staticmethod
    def make(
        cells: Cells,
        groups: int,
        batch: Batch,
        scored: NDArray[np.intp] | None = None,
        p: NDArray[np.float32] | None = None,
        every: int = 1,
    ) -> Block:
        """Cells and groups of the rows; ``p`` belongs to the rows ``scored``. Of the rows, each ``every``-th is counted:
        what limits the comparison is how many users and items there are, and all of them stay.
        """
        counted = batch.take(slice(None, None, every)) if every > 1 else batch
        q = np.empty(0, np.float32) if scored is None or p is None else p
        seen = batch.take(np.empty(0, np.intp) if scored is None or p is None else scored)
        z = fast_logit(q)
        centred = z - np.float32(cells.centre)
        return Block(
            cells.of(counted),
            _pair(counted, groups),
            cells.of_label(counted.label),
            counted.dense,
            cells.of(seen),
            _pair(seen, groups),
            cells.of_prediction(z),
            (seen.label, q, seen.label * centred, q * centred, q * (1 - q) * centred * centred),
            every,
            counted.ts,
            seen.ts,
        )

    def take(self, first_ms: int, end_ms: int) -> Block:
        """The rows with ``first_ms <= ts < end_ms``."""
        rows = (self.ts >= first_ms) & (self.ts < end_ms)
        kept = (self.scored_ts >= first_ms) & (self.scored_ts < end_ms)
        if rows.all() and kept.all():
            return self
        return Block(
            self.index[rows],
            self.group[:, rows],
            self.label[rows],
            self.dense[rows],
            self.scored_index[kept],
            self.scored_group[:, kept],
            self.predicted[kept],
            tuple(w[kept] for w in self.weights),
            self.rows,
            self.ts[rows],
            self.scored_ts[kept],
        )


def _pair(batch: Batch, groups: int) -> NDArray[np.int32]:
    return np.stack([groups_of(batch.user, _USER_SALT, groups), groups_of(batch.item, _ITEM_SALT, groups)])


@dataclass(slots=True, eq=False)
class Sketch:
    """What the rows of a domain looked like over some time.

    Attributes
    ----------
    counts
        Counted rows by (user or item, group, cell), ``(2, G, C + 1)``; the last cell is for what is not counted.
    behaviour
        Sums over scored rows by (user or item, sum, group, cell), ``(2, 5, G, C + 1)``; see :data:`~ecdctr.monitor.drift.bins.BEHAVIOUR`.
    quantiles
        One quantile sketch a numeric feature.
    """

    cells: Cells
    groups: int
    counts: NDArray[Any]
    behaviour: NDArray[Any]
    quantiles: list[Any] = field(default_factory=list)
    rows: int = 0
    first_ms: int = 0
    last_ms: int = 0

    @staticmethod
    def empty(cells: Cells, groups: int, dtype: type[np.floating[Any]] = np.float64) -> Sketch:
        """Nothing seen yet. float32 counts to 16 million a cell and group: enough for a part of a day."""
        shape = (groups, cells.total + 1)  # the last cell takes what belongs nowhere
        kll = [kll_floats_sketch(KLL_K) for _ in cells.numeric]
        return Sketch(
            cells, groups, np.zeros((2, *shape), dtype), np.zeros((2, BEHAVIOUR, *shape), dtype), kll
        )

    def add(self, block: Block) -> None:
        """Count rows."""
        width = np.int32(self.cells.total + 1)
        self.rows += block.rows * len(block.label)
        times = block.scored_index.shape[1]
        weights = [np.repeat(w, times) for w in block.weights] if len(block.predicted) else []
        for side in range(2):
            base = block.group[side] * width
            flat = [(block.index + base[:, None]).ravel(), base + block.label]
            if weights:
                base = block.scored_group[side] * width
                flat.append(base + block.predicted)
                index = (block.scored_index + base[:, None]).ravel()
                for i, w in enumerate(weights):
                    _accumulate(self.behaviour[side, i], index, w)
            _accumulate(self.counts[side], np.concatenate(flat), None)
        for sketch, col in zip(self.quantiles, self.cells.numeric, strict=True):
            values = block.dense[:, col]
            sketch.update(np.ascontiguousarray(values[np.isfinite(values)], np.float32))

    def merge(self, other: Sketch) -> None:
        """Add what another sketch of the same layout has seen."""
        self.counts += other.counts
        self.behaviour += other.behaviour
        self.rows += other.rows
        for mine, theirs in zip(self.quantiles, other.quantiles, strict=True):
            mine.merge(theirs)

    def copy(self) -> Sketch:
        """An independent copy."""
        out = Sketch.empty(self.cells, self.groups)
        out.merge(self)
        out.first_ms, out.last_ms = self.first_ms, self.last_ms
        return out


def _accumulate(target: NDArray[Any], index: NDArray[Any], weights: NDArray[Any] | None) -> None:
    """Add to cells of a contiguous ``(G, C)`` array by flat number; whichever way is cheaper for so many."""
    flat = target.reshape(-1)
    if 8 * len(index) < len(flat):
        np.add.at(flat, index, flat.dtype.type(1) if weights is None else weights.astype(flat.dtype))
    else:
        flat += np.bincount(index, weights=weights, minlength=len(flat))
