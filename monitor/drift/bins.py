"""``BinLayout``: histogram bins of all features of a domain in one flat array, so that a block needs one ``bincount``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.schema import FeatureSchema

__all__ = ["BEHAVIOUR", "LABEL", "LOGIT_BINS", "PREDICTION", "BinLayout"]

LABEL, PREDICTION = "label", "prediction"
BEHAVIOUR = 5
"""Number of sums per bin over scored rows: ``y, p, y L, p L, p (1 - p) L^2`` with L the centred logit of p."""

LOGIT_BINS = 32
_LOGIT_LOW, _LOGIT_STEP = -8.0, 0.375  # 32 bins from -8 to 4: click rates from 3 in 10,000 to 98 %

Floats = NDArray[np.float64]


class Column(NamedTuple):
    """A feature, the label or the prediction; its bins are ``offset <= bin < offset + size``."""

    what: str
    name: str
    offset: int
    size: int


class BinLayout:
    """The bins of a domain: features, then the label, then the prediction of its first arm.

    A categorical feature with at most ``bins`` buckets has one bin per bucket; if it has more buckets (which are hashes already), they
    are mapped to ``bins`` bins. Missing values have a separate bin. The bins of a numeric feature lie between quantiles of the first
    rows. Features of the time of day are left out, because they change with the clock and not with the data.

    Parameters
    ----------
    schema
        The features.
    bins
        Largest number of bins of a feature, a power of two.
    edges
        Bin edges of each numeric feature, ascending.
    centre
        Log-odds that predictions are centred on.
    """

    def __init__(self, schema: FeatureSchema, bins: int, edges: list[Floats], centre: float) -> None:
        self.bins, self.edges, self.centre = bins, edges, centre
        self.columns: list[Column] = []
        taken: list[int] = []
        mask: list[int] = []
        offset: list[int] = []
        empty: list[int] = []  # bin of the value 0; -1: not counted
        at = 0
        for group in schema.categorical:
            if group.spec.field.startswith("@"):
                continue
            size = min(group.buckets, bins) + 1
            self.columns.append(Column("feature", group.name, at, size))
            for i in range(group.width):
                taken.append(group.first_col + i)
                mask.append(bins - 1)
                offset.append(at)
                empty.append(at + size - 1 if i == 0 else -1)
            at += size
        self.numeric: list[int] = []
        for numeric, inner in zip(schema.numeric, edges, strict=True):
            self.columns.append(Column("feature", numeric.name, at, len(inner) + 1))
            self.numeric.append(numeric.col)
            at += len(inner) + 1
        self.features = len(self.columns)
        self.columns.append(Column(LABEL, LABEL, at, 2))
        self.columns.append(Column(PREDICTION, PREDICTION, at + 2, LOGIT_BINS))
        self.total = at + 2 + LOGIT_BINS
        self._taken = np.asarray(taken, np.intp)
        self._whole = len(taken) == schema.n_features and taken == list(range(schema.n_features))
        self._mask = np.asarray(mask, np.int32)
        self._offset = np.asarray(offset, np.int32)
        # Values that are not counted go to an extra bin after the last one, which is ignored.
        self._empty = np.where(np.asarray(empty, np.int32) < 0, self.total, np.asarray(empty, np.int32))

    def of(self, batch: Batch) -> NDArray[np.int32]:
        """Bins of the features of each row, shape ``(n, columns)``; :attr:`total` for values that are not counted."""
        values = batch.features if self._whole else batch.features[:, self._taken]
        out = ((values - 1) & self._mask) + self._offset
        if not values.all():
            out = np.where(values == 0, self._empty, out)
        if not self.numeric:
            return np.asarray(out, np.int32)
        parts = [out]
        first = self.features - len(self.numeric)
        for column, col, inner in zip(
            self.columns[first : self.features], self.numeric, self.edges, strict=True
        ):
            place = np.searchsorted(inner, batch.dense[:, col], side="right") + column.offset
            parts.append(place.astype(np.int32)[:, None])
        return np.concatenate(parts, axis=1)

    def of_label(self, label: NDArray[np.float32]) -> NDArray[np.int32]:
        """Bins of the label, shape ``(n,)``."""
        return (label > 0).astype(np.int32) + np.int32(self.columns[-2].offset)

    def of_prediction(self, z: NDArray[np.float32]) -> NDArray[np.int32]:
        """Bins of predictions given as log-odds, shape ``(n,)``."""
        place = ((z - _LOGIT_LOW) / _LOGIT_STEP).clip(0, LOGIT_BINS - 1).astype(np.int32)
        return place + np.int32(self.columns[-1].offset)
