"""Slices by a configured feature: its column in the score log, and how its values are grouped into a few names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.schema import ColumnGroup, FeatureSchema, NumericColumn
from ecdctr.replay.figures.slices import BUILT_IN, Coding
from ecdctr.replay.figures.value_names import ValueNames
from ecdctr.state.errors import ConfigError

__all__ = ["BagSlice", "CategoricalSlice", "FeatureSlice", "NumericSlice", "Tally", "feature_slices"]

TOP = 24
"""Values of a categorical feature that are reported one by one, the most frequent ones: enough for the hours of a day."""

RANGES = 5
SAMPLE = 65_536
"""Most rows, evenly spaced, from which the bounds of a number's ranges are computed."""

_BAG = ("0", "1", "2", "3", "4", "5", "6 to 10", "11 to 20", "21 to 50", "over 50")
_BAG_EDGES = np.array([1, 2, 3, 4, 5, 6, 11, 21, 51])


class Tally(Protocol):
    """Collects statistics of the scored rows of one domain, and derives how they are sliced."""

    def add(self, values: NDArray[Any]) -> None:
        """Take the next values of the score log's column, ``(n,)``."""
        ...

    def coding(self) -> Coding:
        """How the rows are sliced; called after the last :meth:`add`."""
        ...


class FeatureSlice(Protocol):
    """One feature by which the scored rows are sliced.

    Attributes
    ----------
    name
        The feature's name in reports.
    column, dtype
        The score log's column that holds its value.
    text_field
        The event field whose text names the values; None where names need no text.
    """

    @property
    def name(self) -> str: ...
    @property
    def column(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def text_field(self) -> str | None: ...

    def observe(self, text: NDArray[Any]) -> None:
        """Collect the names of values: the text of ``text_field``, ``(n,)`` Python strings or None."""
        ...

    def values(self, batch: Batch) -> NDArray[Any]:
        """The score log's value of each row, ``(n,)``."""
        ...

    def tally(self, rows: int) -> Tally:
        """A tally for a domain with ``rows`` scored rows."""
        ...


def feature_slices(schema: FeatureSchema, names: Sequence[str]) -> list[FeatureSlice]:
    """Slices by the named features, each once.

    Raises
    ------
    ConfigError
        There is no such feature; the message lists the configured ones.

    Examples
    --------
    >>> from ecdctr.events.settings import FeatureSpec
    >>> schema = FeatureSchema([FeatureSpec(name="site"), FeatureSpec(name="price", kind="numeric")], 4)
    >>> [(s.name, s.column, s.dtype) for s in feature_slices(schema, ["price", "site"])]
    [('price', 'f_price', '<f4'), ('site', 'f_site', '<i4')]
    """
    known: dict[str, FeatureSlice] = {n.name: NumericSlice(n) for n in schema.numeric}
    known |= {g.name: (BagSlice if g.is_bag else CategoricalSlice)(g) for g in schema.categorical}
    for name in names:
        if name not in known:
            there = ", ".join(spec.name for spec in schema.specs)
            raise ConfigError(
                f"--slice {name!r}: there is no such feature; there are {there}. These slices are always in the report: {', '.join(BUILT_IN)}"
            )
    return [known[name] for name in dict.fromkeys(names)]


class _Named:
    dtype: ClassVar[str] = "<i4"
    text_field: str | None = None

    def __init__(self, feature: str) -> None:
        self.column = f"f_{feature}"
        self.name = f"feature {feature}" if feature in BUILT_IN else feature

    def observe(self, text: NDArray[Any]) -> None:
        """Nothing to collect: the names need no text."""


class CategoricalSlice(_Named):
    """The most frequent values by name, ``other``, ``missing``."""

    def __init__(self, group: ColumnGroup) -> None:
        super().__init__(group.name)
        self._column = group.first_col
        self.names = ValueNames(group)
        self.text_field = None if self.names.derived else group.spec.field

    def observe(self, text: NDArray[Any]) -> None:
        self.names.observe(text)

    def values(self, batch: Batch) -> NDArray[Any]:
        return batch.features[:, self._column]

    def tally(self, rows: int) -> Tally:  # noqa: ARG002
        return _Frequencies(self)


class _Frequencies:
    """Counts the rows of each bucket; memory: at most one number a bucket of the feature."""

    def __init__(self, feature: CategoricalSlice) -> None:
        self._feature = feature
        self._counts = np.zeros(1, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        here = np.bincount(values, minlength=len(self._counts))
        here[: len(self._counts)] += self._counts
        self._counts = here

    def coding(self) -> Coding:
        counts = self._counts
        order = np.argsort(-counts[1:], kind="stable") + 1
        top = order[counts[order] > 0][:TOP].tolist()
        if self._feature.names.derived:
            top.sort()  # hours and weekdays have a natural order
        code = np.full(len(counts), len(top), np.uint8)
        code[top] = np.arange(len(top))
        code[0] = len(top) + 1
        names = [self._feature.names.name(bucket) for bucket in top]
        often = Counter([*names, "other", "missing"])
        apart = [f"{n} (bucket {b})" if often[n] > 1 else n for n, b in zip(names, top, strict=True)]

        def codes(values: NDArray[Any]) -> NDArray[np.uint8]:
            return code[values]  # type: ignore[no-any-return]

        return Coding(self._feature.name, self._feature.column, (*apart, "other", "missing"), codes)


class BagSlice(_Named):
    """How many ids of the bag a row has, counting those that the models read."""

    def __init__(self, group: ColumnGroup) -> None:
        super().__init__(group.name)
        self._columns = group.columns

    def values(self, batch: Batch) -> NDArray[Any]:
        ids: NDArray[np.int32] = (batch.features[:, self._columns] > 0).sum(axis=1, dtype=np.int32)
        return ids

    def tally(self, rows: int) -> Tally:  # noqa: ARG002
        return _Fixed(Coding(self.name, self.column, _BAG, _bag_codes))


def _bag_codes(ids: NDArray[Any]) -> NDArray[np.uint8]:
    return np.searchsorted(_BAG_EDGES, ids, side="right").astype(np.uint8)


class _Fixed:
    def __init__(self, coding: Coding) -> None:
        self._coding = coding

    def add(self, values: NDArray[Any]) -> None:
        """The slices do not depend on the values."""

    def coding(self) -> Coding:
        return self._coding


class NumericSlice(_Named):
    """Ranges with about equally many rows, named by their bounds; a missing number is 0, as in the models' input."""

    dtype: ClassVar[str] = "<f4"

    def __init__(self, column: NumericColumn) -> None:
        super().__init__(column.name)
        self._column, self.log = column.col, column.spec.transform == "log1p"

    def values(self, batch: Batch) -> NDArray[Any]:
        return batch.dense[:, self._column]

    def tally(self, rows: int) -> Tally:
        return _Quantiles(self, max(1, -(-rows // SAMPLE)))

    def bound_names(self, bounds: NDArray[Any]) -> list[str]:
        """The bounds in the units of the events. Where a logarithm was rounded: six digits, or more if needed to keep them
        distinct.
        """
        if not self.log:
            return [_number(float(b), str(b)) for b in bounds]
        values = np.sign(bounds) * np.expm1(np.abs(bounds.astype(np.float64)))
        for digits in (6, 9, 17):
            names = [_number(float(f"{v:.{digits}g}"), f"{v:.{digits}g}") for v in values.tolist()]
            if len(set(names)) == len(names):
                break
        return names


def _number(value: float, text: str) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 10.0**15 else text


def _roundest(least: np.float32, below: np.float64) -> np.float32:
    """The number with the fewest digits that separates the same values."""
    for digits in range(1, 9):
        rounded = np.float32(f"{least:.{digits}g}")
        if least <= rounded < below:
            return rounded
    return least


class _Quantiles:
    def __init__(self, feature: NumericSlice, every: int) -> None:
        self._feature, self._every = feature, every
        self._rows = 0
        self._sample: list[NDArray[Any]] = []

    def add(self, values: NDArray[Any]) -> None:
        self._sample.append(values[-self._rows % self._every :: self._every])
        self._rows += len(values)

    def coding(self) -> Coding:
        values = np.sort(np.concatenate([np.empty(0, np.float32), *self._sample]))
        at = -(-np.arange(1, RANGES) * len(values) // RANGES) - 1
        edges = np.unique(values[at]) if len(values) else values
        edges = edges[edges < values.max(initial=-np.inf)]  # no value lies above the greatest one
        if not self._feature.log:
            above = np.append(values, np.inf)[np.searchsorted(values, edges, side="right")]
            edges = np.array([_roundest(*pair) for pair in zip(edges, above, strict=True)], np.float32)
        names = self._feature.bound_names(edges)
        between = [f"above {low} to {high}" for low, high in pairwise(names)]
        labels = (f"up to {names[0]}", *between, f"above {names[-1]}") if names else ("all",)

        def codes(values: NDArray[Any]) -> NDArray[np.uint8]:
            return np.searchsorted(edges, values, side="left").astype(np.uint8)

        return Coding(self._feature.name, self._feature.column, labels, codes)
