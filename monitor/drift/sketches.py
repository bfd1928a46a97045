"""``Sketch``: histograms of a stream by groups of users and of items, in bounded memory, from which their variance is estimated.

Rows of one user depend on each other, and so do rows of one item; a test that assumes independence finds drift every day.
Each histogram is therefore maintained for ``G`` groups of users and for ``G`` groups of items (by hash). The spread between the groups
estimates how much two samples of users and items differ without any change.
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
from ecdctr.monitor.drift.bins import BEHAVIOUR, BinLayout
from ecdctr.state.hashing import mix64

__all__ = ["Block", "Sketch", "groups_of", "make_layout"]

KLL_K = 200
"""Size of a quantile sketch: ranks are exact to 1.33 % with probability 99 %."""

_USER_SALT, _ITEM_SALT = np.uint64(0x8C5FB1A3D0E94627), np.uint64(0x2F6A914BD7C3E805)
Floats = NDArray[np.float64]


def groups_of(ids: NDArray[np.uint64], salt: np.uint64, groups: int) -> NDArray[np.int32]:
    """Group of each id, 0 .. ``groups`` - 1, by hash."""
    return (mix64(ids ^ salt) % np.uint64(groups)).astype(np.int32)


def make_layout(
    schema: FeatureSchema, bins: int, first: Batch, scores: NDArray[np.float32] | None
) -> BinLayout:
    """The layout of a domain; edges of numeric features at the 20-quantiles of its first rows."""
    edges = []
    for numeric in schema.numeric:
        values = first.dense[:, numeric.col]
        sketch = kll_floats_sketch(KLL_K)
        sketch.update(np.ascontiguousarray(values[np.isfinite(values)], np.float32))
        inner = sketch.get_quantiles([i / 20 for i in range(1, 20)]) if len(values) else [0.0]
        edges.append(np.unique(np.asarray(inner, np.float64)))
    if scores is not None and len(scores):
        centre = float(fast_logit(np.asarray([scores.mean()], np.float32))[0])
    else:
        centre = -2.0
    return BinLayout(schema, bins, edges, centre)


@dataclass(slots=True)
class Block:
    """Rows with their bins and groups, computed once for any number of sketches.

    Attributes
    ----------
    index, group, label
        Counted rows: flat bins of all features ``(n, columns)``; groups of user and item ``(2, n)``; bin of the label ``(n,)``.
    dense
        Numeric features of counted rows, ``(n, numeric)``.
    scored_index, scored_group, predicted, weights
        Rows that the first arm predicted: the same, the bin of the prediction, and ``y, p, y L, p L, p (1 - p) L^2``.
    rows
        Number of rows that one counted row represents.
    ts, scored_ts
        Event times, ms.
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
        layout: BinLayout,
        groups: int,
        batch: Batch,
        scored: NDArray[np.intp] | None = None,
        p: NDArray[np.float32] | None = None,
        every: int = 1,
    ) -> Block:
        """Compute bins and groups of the rows; ``p``: predictions for the rows ``scored``.

        Only each ``every``-th row is counted: the number of users and items limits the power of a comparison, not the number of rows.
        """
        counted = batch.take(slice(None, None, every)) if every > 1 else batch
        q = np.empty(0, np.float32) if scored is None or p is None else p
        predicted = batch.take(np.empty(0, np.intp) if scored is None or p is None else scored)
        z = fast_logit(q)
        centred = z - np.float32(layout.centre)
        y = predicted.label
        return Block(
            layout.of(counted),
            _pair(counted, groups),
            layout.of_label(counted.label),
            counted.dense,
            layout.of(predicted),
            _pair(predicted, groups),
            layout.of_prediction(z),
            (y, q, y * centred, q * centred, q * (1 - q) * centred * centred),
            every,
            counted.ts,
            predicted.ts,
        )

    def take(self, first_ms: int, end_ms: int) -> Block:
        """The rows with ``first_ms <= ts < end_ms``."""
        rows = (self.ts >= first_ms) & (self.ts < end_ms)
        scored = (self.scored_ts >= first_ms) & (self.scored_ts < end_ms)
        if rows.all() and scored.all():
            return self
        return Block(
            self.index[rows],
            self.group[:, rows],
            self.label[rows],
            self.dense[rows],
            self.scored_index[scored],
            self.scored_group[:, scored],
            self.predicted[scored],
            tuple(w[scored] for w in self.weights),
            self.rows,
            self.ts[rows],
            self.scored_ts[scored],
        )


def _pair(batch: Batch, groups: int) -> NDArray[np.int32]:
    return np.stack([groups_of(batch.user, _USER_SALT, groups), groups_of(batch.item, _ITEM_SALT, groups)])


@dataclass(slots=True, eq=False)
class Sketch:
    """The distributions of a domain over some time.

    Attributes
    ----------
    counts
        Counted rows by (user or item, group, bin), ``(2, G, C + 1)``; the last bin is for values that are not counted.
    behaviour
        Sums over scored rows by (user or item, sum, group, bin), ``(2, 5, G, C + 1)``; see :data:`~ecdctr.monitor.drift.bins.BEHAVIOUR`.
    quantiles
        One quantile sketch per numeric feature.
    """

    layout: BinLayout
    groups: int
    counts: NDArray[Any]
    behaviour: NDArray[Any]
    quantiles: list[Any] = field(default_factory=list)
    rows: int = 0
    first_ms: int = 0
    last_ms: int = 0

    @staticmethod
    def empty(layout: BinLayout, groups: int, dtype: type[np.floating[Any]] = np.float64) -> Sketch:
        """An empty sketch. float32 counts up to 16 million per bin and group, enough for a part of a day."""
        shape = (groups, layout.total + 1)  # the last bin takes values that are not counted
        kll = [kll_floats_sketch(KLL_K) for _ in layout.numeric]
        return Sketch(
            layout, groups, np.zeros((2, *shape), dtype), np.zeros((2, BEHAVIOUR, *shape), dtype), kll
        )

    def add(self, block: Block) -> None:
        """Add a block of rows."""
        width = np.int32(self.layout.total + 1)
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
        for sketch, col in zip(self.quantiles, self.layout.numeric, strict=True):
            values = block.dense[:, col]
            sketch.update(np.ascontiguousarray(values[np.isfinite(values)], np.float32))

    def merge(self, other: Sketch) -> None:
        """Add another sketch of the same layout."""
        self.counts += other.counts
        self.behaviour += other.behaviour
        self.rows += other.rows
        for own, others in zip(self.quantiles, other.quantiles, strict=True):
            own.merge(others)

    def copy(self) -> Sketch:
        """An independent copy."""
        out = Sketch.empty(self.layout, self.groups)
        out.merge(self)
        out.first_ms, out.last_ms = self.first_ms, self.last_ms
        return out


def _accumulate(target: NDArray[Any], index: NDArray[Any], weights: NDArray[Any] | None) -> None:
    """Add to bins of a contiguous ``(G, C)`` array by flat index, in the cheaper of two ways for this number of rows."""
    flat = target.reshape(-1)
    if 8 * len(index) < len(flat):
        np.add.at(flat, index, flat.dtype.type(1) if weights is None else weights.astype(flat.dtype))
    else:
        flat += np.bincount(index, weights=weights, minlength=len(flat))
