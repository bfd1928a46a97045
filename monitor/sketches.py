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

from models.batch import Batch
from models.features import FeatureSchema, mix64
from monitor.cells import BEHAVIOUR, Cells, logit

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
        centre = float(logit(np.asarray([scores.mean()], np.float32))[0])
    else:
        centre = -2.0
    return Cells(schema, cells, edges, centre)


@dataclass(slots=True)
class Block:
    """Rows made ready once for any number of sketches.

    Attributes
    ----------
    index
        Flat cell numbers of all features, ``(n, columns)``.
    group
        Of the user and of the item, ``(2, n)``.
    scored
        Which rows the main arm predicted.
    weights
        ``y, p, y L, p L, p (1 - p) L^2`` of the scored rows.
    """

    index: NDArray[np.int32]
    group: NDArray[np.int32]
    label: NDArray[np.int32]
    scored: NDArray[np.intp]
    predicted: NDArray[np.int32]
    weights: tuple[NDArray[np.float32], ...]
    dense: NDArray[np.float32]

    @staticmethod
    def make(
        cells: Cells,
        groups: int,
        batch: Batch,
        scored: NDArray[np.intp] | None = None,
        p: NDArray[np.float32] | None = None,
    ) -> Block:
        """Cells and groups of the rows; ``p`` belongs to the rows ``scored``."""
        pair = np.stack(
            [groups_of(batch.user, _USER_SALT, groups), groups_of(batch.item, _ITEM_SALT, groups)]
        )
        rows = np.empty(0, np.intp) if scored is None or p is None else scored
        z = logit(np.empty(0, np.float32) if p is None else p)
        predicted = cells.of_prediction(z)
        q = np.empty(0, np.float32) if p is None else p
        y, centred = batch.label[rows], z - np.float32(cells.centre)
        weights = (y, q, y * centred, q * centred, q * (1 - q) * centred * centred)
        return Block(
            cells.of(batch), pair, cells.of_label(batch.label), rows, predicted, weights, batch.dense
        )

    def take(self, rows: NDArray[np.bool_]) -> Block:
        """Some of the rows, by mask."""
        place = np.cumsum(rows) - 1
        kept = rows[self.scored]
        return Block(
            self.index[rows],
            self.group[:, rows],
            self.label[rows],
            place[self.scored[kept]],
            self.predicted[kept],
            tuple(w[kept] for w in self.weights),
            self.dense[rows],
        )


@dataclass(slots=True, eq=False)
class Sketch:
    """What the rows of a domain looked like over some time.

    Attributes
    ----------
    counts
        Rows by (user or item, group, cell), ``(2, G, C + 1)``; the last cell is for what is not counted.
    behaviour
        Sums over scored rows by (user or item, sum, group, cell), ``(2, 5, G, C + 1)``; see :data:`~monitor.cells.BEHAVIOUR`.
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
        width = self.cells.total + 1
        self.rows += len(block.label)
        times = block.index.shape[1]
        weights = [np.repeat(w, times) for w in block.weights] if len(block.scored) else []
        for side in range(2):
            base = block.group[side] * np.int32(width)
            flat = [(block.index + base[:, None]).ravel(), base + block.label]
            if weights:
                some = base[block.scored]
                flat.append(some + block.predicted)
                index = (block.index[block.scored] + some[:, None]).ravel()
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
