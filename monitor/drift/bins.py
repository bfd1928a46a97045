"""Rows to histogram cells: every feature of a domain in one flat layout, so that a block costs one ``bincount``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.schema import FeatureSchema

__all__ = ["BEHAVIOUR", "LABEL", "LOGIT_CELLS", "PREDICTION", "Cells"]

LABEL, PREDICTION = "label", "prediction"
BEHAVIOUR = 5
"""Sums kept a cell over scored rows: ``y, p, y L, p L, p (1 - p) L^2`` with L the centred logit of p."""

LOGIT_CELLS = 32
_LOGIT_LOW, _LOGIT_STEP = -8.0, 0.375  # 32 cells from -8 to 4: click rates from 3 in 10,000 to 98 %

Floats = NDArray[np.float64]


class Column(NamedTuple):
    """One thing that has a distribution: its cells stand at ``offset .. offset + size``."""

    what: str
    name: str
    offset: int
    size: int


class Cells:
    """The layout of a domain: features, then the label, then the prediction of its main arm.

    A categorical feature with at most ``cells`` buckets has one cell a bucket; one with more folds its buckets (already a hash)
    onto ``cells``. Missing values have a cell of their own. A numeric feature has cells between the quantiles of the
    rows that fixed the layout. Fields made of the time of day are left out: they move with the clock, not with the data.

    Parameters
    ----------
    schema
        The features.
    cells
        Cells of a feature at most, a power of two.
    edges
        Cell borders of each numeric feature, rising.
    centre
        Log-odds about which predictions are centred.
    """

    def __init__(self, schema: FeatureSchema, cells: int, edges: list[Floats], centre: float) -> None:
        self.cells, self.edges, self.centre = cells, edges, centre
        self.columns: list[Column] = []
        taken: list[int] = []
        mask: list[int] = []
        offset: list[int] = []
        empty: list[int] = []  # cell of the value 0; None later means: not counted
        at = 0
        for group in schema.categorical:
            if group.spec.field.startswith("@"):
                continue
            size = min(group.buckets, cells) + 1
            self.columns.append(Column("feature", group.name, at, size))
            for i in range(group.width):
                taken.append(group.first_col + i)
                mask.append(cells - 1)
                offset.append(at)
                empty.append(at + size - 1 if i == 0 else -1)
            at += size
        self.numeric: list[int] = []
        for numeric, borders in zip(schema.numeric, edges, strict=True):
            self.columns.append(Column("feature", numeric.name, at, len(borders) + 1))
            self.numeric.append(numeric.col)
            at += len(borders) + 1
        self.features = len(self.columns)
        self.columns.append(Column(LABEL, LABEL, at, 2))
        self.columns.append(Column(PREDICTION, PREDICTION, at + 2, LOGIT_CELLS))
        self.total = at + 2 + LOGIT_CELLS
        self._taken = np.asarray(taken, np.intp)
        self._whole = len(taken) == schema.n_features and taken == list(range(schema.n_features))
        self._mask = np.asarray(mask, np.int32)
        self._offset = np.asarray(offset, np.int32)
        # Rows that belong nowhere go to a cell behind the last one, which is dropped.
        self._empty = np.where(np.asarray(empty, np.int32) < 0, self.total, np.asarray(empty, np.int32))

    def of(self, batch: Batch) -> NDArray[np.int32]:
        """Cells of the features of each row, shape ``(n, columns)``; :attr:`total` for "not counted"."""
        values = batch.features if self._whole else batch.features[:, self._taken]
        out = ((values - 1) & self._mask) + self._offset
        if not values.all():
            out = np.where(values == 0, self._empty, out)
        if not self.numeric:
            return np.asarray(out, np.int32)
        parts = [out]
        first = self.features - len(self.numeric)
        for column, col, borders in zip(
            self.columns[first : self.features], self.numeric, self.edges, strict=True
        ):
            cell = np.searchsorted(borders, batch.dense[:, col], side="right") + column.offset
            parts.append(cell.astype(np.int32)[:, None])
        return np.concatenate(parts, axis=1)

    def of_label(self, label: NDArray[np.float32]) -> NDArray[np.int32]:
        """Cells of the label, shape ``(n,)``."""
        return (label > 0).astype(np.int32) + np.int32(self.columns[-2].offset)

    def of_prediction(self, z: NDArray[np.float32]) -> NDArray[np.int32]:
        """Cells of predictions given as log-odds, shape ``(n,)``."""
        cell = ((z - _LOGIT_LOW) / _LOGIT_STEP).clip(0, LOGIT_CELLS - 1).astype(np.int32)
        return cell + np.int32(self.columns[-1].offset)
