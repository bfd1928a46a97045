"""Slices by a configured feature: what the score log keeps of it, and how its values become a handful of names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.encode import Columns
from ecdctr.events.schema import ColumnGroup, FeatureSchema, NumericColumn
from ecdctr.replay.figures.slices import BUILT_IN, Coding
from ecdctr.replay.figures.value_names import ValueNames
from ecdctr.state.errors import ConfigError

__all__ = ["BagSlice", "CategoricalSlice", "FeatureSlice", "NumericSlice", "Tally", "feature_slices"]

TOP = 24
"""Values of a categorical feature that stand by themselves, the most frequent ones: a day's hours fit in."""

RANGES = 5
SAMPLE = 65_536
"""Rows that the bounds of a number's ranges are taken from, at most, evenly spaced."""

_BAG = ("0", "1", "2", "3", "4", "5", "6 to 10", "11 to 20", "21 to 50", "over 50")
_BAG_EDGES = np.array([1, 2, 3, 4, 5, 6, 11, 21, 51])


class Tally(Protocol):
    """Looks at the scored rows of one domain, and says how they are parted."""

    def add(self, values: NDArray[Any]) -> None:
        """Values of the score log's column."""
        ...

    def coding(self) -> Coding:
        """To be asked at the end."""
        ...


class FeatureSlice(Protocol):
    """One feature to part the scored rows by.

    Attributes
    ----------
    name
        How reports call it: the feature's name.
    column, dtype
        The score log's column that keeps its value.
    """

    @property
    def name(self) -> str: ...
    @property
    def column(self) -> str: ...
    @property
    def dtype(self) -> str: ...

    def observe(self, columns: Columns) -> None:
        """Look at events where they are decoded."""
        ...

    def of(self, batch: Batch) -> NDArray[Any]:
        """What the score log keeps of each row, ``(n,)``."""
        ...

    def tally(self, rows: int) -> Tally:
        """For a domain with so many scored rows."""
        ...


def feature_slices(schema: FeatureSchema, names: Sequence[str]) -> list[FeatureSlice]:
    """Slices by the named features, each once.

    Raises
    ------
    ConfigError
        There is no such feature; lists those there are.

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
                f"--slice {name!r}: there is no such feature; there are {there}. Without being asked for: {', '.join(BUILT_IN)}"
            )
    return [known[name] for name in dict.fromkeys(names)]


class _Named:
    dtype: ClassVar[str] = "<i4"

    def __init__(self, feature: str) -> None:
        self.column = f"f_{feature}"
        self.name = f"feature {feature}" if feature in BUILT_IN else feature

    def observe(self, columns: Columns) -> None:
        """Nothing to be learned from them."""


class CategoricalSlice(_Named):
    """The most frequent values by name, ``other``, ``missing``."""

    def __init__(self, group: ColumnGroup) -> None:
        super().__init__(group.name)
        self._column = group.first_col
        self.names = ValueNames(group)

    def observe(self, columns: Columns) -> None:
        self.names.observe(columns)

    def of(self, batch: Batch) -> NDArray[Any]:
        return batch.features[:, self._column]

    def tally(self, rows: int) -> Tally:  # noqa: ARG002
        return _Frequencies(self)


class _Frequencies:
    """Rows of each bucket: memory for as many numbers as the feature has buckets, at most."""

    def __init__(self, asked: CategoricalSlice) -> None:
        self._asked = asked
        self._counts = np.zeros(1, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        here = np.bincount(values, minlength=len(self._counts))
        here[: len(self._counts)] += self._counts
        self._counts = here

    def coding(self) -> Coding:
        counts = self._counts
        order = np.argsort(-counts[1:], kind="stable") + 1
        top = order[counts[order] > 0][:TOP].tolist()
        if self._asked.names.derived:
            top.sort()  # hours and weekdays have an order of their own
        code = np.full(len(counts), len(top), np.uint8)
        code[top] = np.arange(len(top))
        code[0] = len(top) + 1
        names = [self._asked.names.of(bucket) for bucket in top]
        often = Counter([*names, "other", "missing"])
        apart = [f"{n} (bucket {b})" if often[n] > 1 else n for n, b in zip(names, top, strict=True)]

        def codes(values: NDArray[Any]) -> NDArray[np.uint8]:
            return code[values]  # type: ignore[no-any-return]

        return Coding(self._asked.name, self._asked.column, (*apart, "other", "missing"), codes)


class BagSlice(_Named):
    """How many ids a row has, of those that the models read."""

    def __init__(self, group: ColumnGroup) -> None:
        super().__init__(group.name)
        self._columns = group.columns

    def of(self, batch: Batch) -> NDArray[Any]:
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
        """Whatever they are."""

    def coding(self) -> Coding:
        return self._coding


class NumericSlice(_Named):
    """Ranges of about equally many rows, their bounds named; a missing number is 0, as it is to the models."""

    dtype: ClassVar[str] = "<f4"

    def __init__(self, column: NumericColumn) -> None:
        super().__init__(column.name)
        self._column, self.log = column.col, column.spec.transform == "log1p"

    def of(self, batch: Batch) -> NDArray[Any]:
        return batch.dense[:, self._column]

    def tally(self, rows: int) -> Tally:
        return _Quantiles(self, max(1, -(-rows // SAMPLE)))

    def called(self, bounds: NDArray[Any]) -> list[str]:
        """The bounds as the events have them: six digits, or more to tell them apart, where a logarithm was rounded."""
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
    """The number of fewest digits that parts the same values."""
    for digits in range(1, 9):
        rounded = np.float32(f"{least:.{digits}g}")
        if least <= rounded < below:
            return rounded
    return least


class _Quantiles:
    def __init__(self, asked: NumericSlice, every: int) -> None:
        self._asked, self._every = asked, every
        self._met = 0
        self._sample: list[NDArray[Any]] = []

    def add(self, values: NDArray[Any]) -> None:
        self._sample.append(values[-self._met % self._every :: self._every])
        self._met += len(values)

    def coding(self) -> Coding:
        values = np.sort(np.concatenate([np.empty(0, np.float32), *self._sample]))
        at = -(-np.arange(1, RANGES) * len(values) // RANGES) - 1
        edges = np.unique(values[at]) if len(values) else values
        edges = edges[edges < values.max(initial=-np.inf)]  # nothing stands above the greatest
        if not self._asked.log:
            above = np.append(values, np.inf)[np.searchsorted(values, edges, side="right")]
            edges = np.array([_roundest(*pair) for pair in zip(edges, above, strict=True)], np.float32)
        names = self._asked.called(edges)
        between = [f"above {low} to {high}" for low, high in pairwise(names)]
        called = (f"up to {names[0]}", *between, f"above {names[-1]}") if names else ("all",)

        def codes(values: NDArray[Any]) -> NDArray[np.uint8]:
            return np.searchsorted(edges, values, side="left").astype(np.uint8)

        return Coding(self._asked.name, self._asked.column, called, codes)
