"""``Profile``: what the values of a column look like, whatever its name is."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.events.text_lists import NULL_WORDS
from ecdctr.events.values import id_text
from ecdctr.replay.sources import LABEL_WORDS, NUMBER_NULL_WORDS

__all__ = ["Kind", "Profile", "typed"]

_FEW_WRONG = 0.01
"""Share of the values that may be something else: their rows are left out, and counted."""

Kind = Literal["empty", "boolean", "integer", "number", "text", "time", "list", "other"]


def typed(column: pl.Series, *, text_numbers: bool) -> pl.Series:
    """A column in the simplest type that holds all of its values.

    Parameters
    ----------
    text_numbers
        Whether text that is a number is one: in files, not in messages.
    """
    dtype = column.dtype
    if dtype == pl.String:
        column = column.set(column.is_in(NULL_WORDS), None)
        if not text_numbers or column.str.contains(r"^\s*[-+]?0\d").any():  # leading zeros: an identifier
            return column
        number = column.set(column.is_in(NUMBER_NULL_WORDS), None).str.strip_chars()
        given = len(number) - number.null_count()
        for wanted in (pl.Int64, pl.Float64):
            cast = number.cast(wanted, strict=False)
            lost = cast.null_count() - number.null_count()
            exact = wanted == pl.Int64 or not number.str.contains(r"^-?\d{16,}").any()
            if given and lost <= _FEW_WRONG * given and exact and not cast.is_nan().any():
                return _whole_or_float(cast) if wanted == pl.Float64 else cast
        return column
    if dtype == pl.Binary or isinstance(dtype, pl.Categorical | pl.Enum):
        text = id_text(column, booleans=False) if dtype == pl.Binary else column.cast(pl.String)
        return column if text is None else text
    if dtype.is_decimal():
        whole = column.cast(pl.Int64, strict=False)
        if whole.null_count() > column.null_count():  # beyond 64 bits
            return column.cast(pl.String)
        return _whole_or_float(column.cast(pl.Float64)) if (column != whole).any() else whole
    if dtype.is_float():
        return _whole_or_float(column)
    return column.arr.to_list() if isinstance(dtype, pl.Array) else column


def _whole_or_float(column: pl.Series) -> pl.Series:
    whole = column.cast(pl.Int64, strict=False)
    same = (whole.cast(pl.Float64) == column.cast(pl.Float64)).fill_null(True).all()
    return whole if same and whole.null_count() == column.null_count() < len(column) else column


class Profile:
    """The sampled values of one column.

    Parameters
    ----------
    raw
        The values as the file has them.
    text_numbers
        See :func:`typed`.
    """

    def __init__(self, raw: pl.Series, *, text_numbers: bool = True) -> None:
        self.raw, self.name = raw, raw.name
        self.column = typed(raw, text_numbers=text_numbers)
        self.values = self.column.drop_nulls()
        self.n = len(raw)

    def __repr__(self) -> str:
        return f"Profile({self.name!r}, {self.kind}, {self.distinct} of {self.n})"

    @cached_property
    def kind(self) -> Kind:
        """What the values are."""
        dtype = self.column.dtype
        if not len(self.values):
            return "empty"
        if isinstance(dtype, pl.List):
            inner = dtype.inner
            return "other" if isinstance(inner, pl.DataType) and inner.is_nested() else "list"
        if dtype == pl.Boolean:
            return "boolean"
        if dtype.is_integer():
            return "integer"
        if dtype.is_float():
            return "number"
        if dtype == pl.String:
            return "text"
        return "time" if isinstance(dtype, pl.Datetime | pl.Date) else "other"

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers."""
        return self.kind in ("integer", "number")

    @cached_property
    def nulls(self) -> float:
        """Share of the rows without a value."""
        return 1 - len(self.values) / self.n if self.n else 0.0

    @cached_property
    def distinct(self) -> int:
        """Number of different values."""
        if self.kind in ("list", "other"):
            return len(set(map(str, self.values.to_list())))
        return int(self.values.n_unique())

    @property
    def repeats(self) -> float:
        """Rows per value."""
        return len(self.values) / max(1, self.distinct)

    @property
    def unique(self) -> bool:
        """Whether nearly every row has a value of its own."""
        return self.distinct >= 0.98 * len(self.values) and len(self.values) > 1

    @cached_property
    def top(self) -> tuple[Any, float]:
        """The most frequent value and its share."""
        counts = self.values.value_counts(sort=True, name="rows")
        return counts[self.name][0], counts["rows"][0] / max(1, len(self.values))

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The values as floats, ``(n,)``, NaN where there is none."""
        if not (self.is_number or self.kind == "boolean"):
            return np.full(self.n, math.nan)
        return self.column.cast(pl.Float64).fill_null(math.nan).to_numpy().astype(np.float64)

    @cached_property
    def whole(self) -> bool:
        """Whether the values are identifiers by their type: texts, and whole numbers with few exceptions."""
        if self.kind == "number":
            return bool((self.known == np.floor(self.known)).mean() >= 0.99)
        return self.kind in ("integer", "text")

    @cached_property
    def known(self) -> NDArray[np.float64]:
        """The numbers without the missing ones."""
        return self.numbers[np.isfinite(self.numbers)]

    @cached_property
    def ascending(self) -> float:
        """Share of neighbouring rows whose values do not descend."""
        values = self.values.cast(pl.Int64) if self.kind == "time" else self.values
        steps = values.to_numpy()
        if len(steps) < 2 or self.kind not in ("integer", "number", "time"):
            return 0.0
        return float((steps[1:] >= steps[:-1]).mean())

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """A number for each value, ``(n,)``; -1 where there is none."""
        if self.kind in ("list", "other"):
            text = pl.Series([None if v is None else str(v) for v in self.column.to_list()], dtype=pl.String)
        else:
            text = self.column
        frame = pl.DataFrame({"v": text}).with_columns(rank=pl.col("v").rank("dense").cast(pl.Int64))
        return frame["rank"].fill_null(0).to_numpy() - 1

    @cached_property
    def zero_one(self) -> NDArray[np.float64] | None:
        """0 and 1 of a column that has these two values or words for them, NaN where null; None if more than 5% are others."""
        if self.kind == "text":
            text = self.column.str.strip_chars().str.to_lowercase()
            words = text.replace_strict(LABEL_WORDS, default=None, return_dtype=pl.Float64)
            found = pl.select(pl.coalesce(text.cast(pl.Float64, strict=False), words)).to_series()
        elif self.is_number or self.kind == "boolean":
            found = self.column.cast(pl.Float64)
        else:
            return None
        found = found.set(~found.is_in([0.0, 1.0]).fill_null(False), None)
        few = found.null_count() - self.column.null_count() <= 0.05 * len(self.values)
        return (
            found.fill_null(math.nan).to_numpy().astype(np.float64)
            if few and found.null_count() < len(found)
            else None
        )

    def determines(self, other: Profile) -> bool:
        """Whether each value of this column goes with one value of the other, a few rows aside."""
        mine, theirs = self.codes, other.codes
        both = (mine >= 0) & (theirs >= 0)
        if both.sum() < 20:
            return False
        pairs = mine[both] * (int(theirs.max()) + 2) + theirs[both]
        values, counts = np.unique(pairs, return_counts=True)
        owner = values // (int(theirs.max()) + 2)
        best = np.zeros(int(owner.max()) + 1, np.int64)
        np.maximum.at(best, owner, counts)
        return bool(best.sum() >= 0.99 * both.sum())
