"""Extreme values of numeric features are limited before any arm sees them, so that a row cannot harm the rows beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch

__all__ = ["LimitedValues", "limit_extremes"]

FREE = 100.0
"""Values up to this one are never limited."""
FACTOR = 100.0
"""A value may be this many times as far from the batch's median as 90% of its values are."""
MIN_ROWS = 8
"""Smaller batches have no spread that could be trusted."""
CONSTANT = 1e6
"""Limit of the distance from the median if 90% of the values are equal, in units of the median, or of 1 if it is smaller."""
LARGEST = 1e15
"""Largest value in any case: its square, summed over a batch, is finite in float32."""


class LimitedValues:
    """How many values of each numeric column were limited, and the largest of them.

    Attributes
    ----------
    counts, largest
        By column of ``Batch.dense``, ``(D,)``.
    """

    def __init__(self, columns: int) -> None:
        self.counts = np.zeros(columns, np.int64)
        self.largest = np.zeros(columns)

    def add(self, column: int, values: NDArray[np.float64]) -> None:
        """Count values of one column, as they were before."""
        self.counts[column] += len(values)
        self.largest[column] = max(self.largest[column], float(np.abs(values).max(initial=0.0)))


def limit_extremes(batch: Batch, limited: LimitedValues | None = None) -> Batch:
    """The batch with the values of numeric features limited, the same object if none is extreme.

    1. A column whose values are all within ``FREE`` is left as it is.
    2. The median of the column, and the distance from it within which 90% of the values are.
    3. Values farther than ``FACTOR`` of these distances are set to that limit. One sentinel such as 1e30 or -999999999 among
       prices then counts as a very high price, instead of making the other prices equal for batch norm or its statistics infinite.

    The result depends on the batch alone, so that a repeated step equals the first one.

    Examples
    --------
    >>> z = np.zeros(9, np.uint64)
    >>> price = np.array([10, 20, 30, 20, 10, 20, 30, 20, 1e30], np.float32)
    >>> rows = Batch(np.arange(9), z.astype(np.uint8), z, z, np.zeros((9, 1), np.int32), price[:, None], np.zeros(9, np.float32))
    >>> bool(limit_extremes(rows).dense.max() < 1e30), limit_extremes(rows).dense[:3, 0].tolist()
    (True, [10.0, 20.0, 30.0])
    """
    dense = batch.dense
    if not dense.size:
        return batch
    changed: NDArray[np.float32] | None = None
    for column in np.flatnonzero(np.abs(dense).max(axis=0) > FREE).tolist():
        values = dense[:, column].astype(np.float64)
        low, high = -LARGEST, LARGEST
        if len(values) >= MIN_ROWS:
            centre = float(np.median(values))
            distance = np.abs(values - centre)
            near = float(np.partition(distance, (9 * len(values)) // 10 - 1)[(9 * len(values)) // 10 - 1])
            reach = max(FACTOR * near, FREE) if near > 0 else CONSTANT * max(abs(centre), 1.0)
            low, high = max(low, centre - reach), min(high, centre + reach)
        beyond = (values < low) | (values > high)
        if beyond.any():
            if changed is None:
                changed = np.array(dense)
            changed[:, column] = np.clip(values, low, high)
            if limited is not None:
                limited.add(column, values[beyond])
    return batch if changed is None else replace(batch, dense=changed)
