"""Rows of a table that stand for several impressions: lists of items with their clicks, and counts of views and clicks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ecdctr.events.text_lists import split_lists
from ecdctr.events.values import id_text, show
from ecdctr.replay.sources.files import LABEL_WORDS, Fault
from ecdctr.state.settings import Section

__all__ = ["LABEL", "CountsMap", "Expanded", "ListsMap"]

LABEL = "@clicked"
"""Column of the label that an expansion adds."""

_MOST_VIEWS = 100_000
_PART = 65_536


@dataclass(eq=False)
class Expanded:
    """Impressions of consecutive rows.

    Attributes
    ----------
    frame
        The columns of the rows, with one row for each impression, and the label in :data:`LABEL`.
    source
        Index of each impression's row in the chunk.
    faults
        Impressions whose row cannot be read; such a row is one impression without a label.
    nothing
        Number of rows that show nothing.
    foreign
        Number of clicks on items that are not in the list of their row.
    others
        Number of rows that are neither impressions nor clicks.
    """

    frame: pl.DataFrame
    source: NDArray[np.int64]
    faults: list[Fault] = field(default_factory=list)
    nothing: int = 0
    foreign: int = 0
    others: int = 0


class ListsMap(Section):
    """A row is a list of shown items; the clicked ones are named by ``clicked``, ``labels`` or ``label_after``.

    >>> rows = pl.DataFrame({"user": ["u", "v"], "shown": [["a", "b"], ["a"]], "clicked": [["b"], []]})
    >>> parts = ListsMap(items="shown", clicked="clicked").expand(rows)
    >>> next(parts).frame.select("user", "shown", LABEL).rows()
    [('u', 'a', 0.0), ('u', 'b', 1.0), ('v', 'a', 0.0)]
    """

    items: str = Field(description="Column with the list of the shown items: one impression for each.")
    clicked: str | None = Field(
        default=None, description="Column with the list of the clicked items, or with the only one."
    )
    labels: str | None = Field(default=None, description="Column with a list of 0 and 1, as long as items.")
    label_after: str | None = Field(
        default=None, min_length=1, description='Sign before the label inside of an item: "-" for "N123-1".'
    )
    along: tuple[str, ...] = Field(
        default=(), description="Further columns with a list that has one value for each item."
    )
    separator: str | None = Field(
        default=None, min_length=1, description='Sign between the items of a list in a text; default "|".'
    )

    @model_validator(mode="after")
    def _one_of_three(self) -> ListsMap:
        if sum(way is not None for way in (self.clicked, self.labels, self.label_after)) != 1:
            raise ValueError("give one of clicked, labels and label_after")
        return self

    @property
    def item(self) -> str:
        """Column of the item after the expansion."""
        return self.items

    @property
    def columns(self) -> list[str]:
        """Columns that are read."""
        return [c for c in (self.items, self.clicked, self.labels, *self.along) if c is not None]

    def expand(self, chunk: pl.DataFrame) -> Iterator[Expanded]:
        """The impressions of a chunk; items keep their order in the list."""
        read = {name: _as_list(chunk[name], self.separator) for name in self.columns}
        lists = {name: found for name, (found, _) in read.items()}
        lengths = _lengths(lists[self.items])
        words: dict[int, str] = {}
        for name in (*self.along, *([self.labels] if self.labels else [])):
            given = lists[name].is_not_null().to_numpy() | (name == self.labels)
            for row in np.flatnonzero(given & (_lengths(lists[name]) != lengths)).tolist():
                words[row] = (
                    f"{name} is {_shown(chunk[name][row])}, expected a list of {lengths[row]:,} values"
                )
        for name, (_, unreadable) in read.items():
            for row in np.flatnonzero(unreadable).tolist():
                words[row] = f"{name} is {_shown(chunk[name][row])}, expected a list"
        counts = np.where(_marked(words, len(chunk)), 1, lengths)
        for first, end in _parts(counts):
            source, within = _spread(counts, first, end)
            bad = _marked(words, len(chunk))[source]
            frame = chunk[source.tolist()].with_columns(
                _flat(lists[name], source, within, bad).alias(name) for name in (self.items, *self.along)
            )
            frame, foreign = self._labelled(frame, lists, source, within, bad, first, end)
            out = Expanded(frame, source, nothing=int((counts[first:end] == 0).sum()), foreign=foreign)
            if bad.any():
                out.faults.append((bad, "type", lambda row, at=source: words[int(at[row])]))  # type: ignore[misc]
            yield out

    def _labelled(
        self,
        frame: pl.DataFrame,
        lists: dict[str, pl.Series],
        source: NDArray[np.int64],
        within: NDArray[np.int64],
        bad: NDArray[np.bool_],
        first: int,
        end: int,
    ) -> tuple[pl.DataFrame, int]:
        """The impressions with their label, and the number of clicks that are on none of them."""
        if self.label_after is not None:
            item = frame[self.items].cast(pl.String)
            ends = item.str.split(self.label_after)
            label = ends.list.last().cast(pl.Float64, strict=False)
            known = ends.list.reverse().list.slice(1).list.reverse().list.join(self.label_after)
            return frame.with_columns(known.alias(self.items), label.alias(LABEL)), 0
        if self.labels is not None:
            return frame.with_columns(_label(_flat(lists[self.labels], source, within, bad)).alias(LABEL)), 0
        assert self.clicked is not None
        clicked = lists[self.clicked][first:end]
        lengths = _lengths(clicked)
        pairs = pl.DataFrame(
            {
                "row": np.repeat(np.arange(first, end), lengths),
                "item": _texts(clicked.filter(pl.Series(lengths > 0)).explode()),
            }
        ).unique()
        shown = pl.DataFrame({"row": source, "item": _texts(frame[self.items])})
        marks = shown.join(
            pairs.with_columns(hit=pl.lit(1.0)), on=["row", "item"], how="left", maintain_order="left"
        )
        label = marks["hit"].fill_null(0.0).set(pl.Series(bad), None)
        foreign = len(pairs) - int(shown.unique().join(pairs, on=["row", "item"], how="semi").height)
        return frame.with_columns(label.alias(LABEL)), foreign


class CountsMap(Section):
    """A row counts the views of an item and their clicks, of one user or of many.

    >>> rows = pl.DataFrame({"item": ["a", "b"], "views": [3, 0], "clicks": [1, 0]})
    >>> part = next(CountsMap(views="views", clicks="clicks").expand(rows))
    >>> part.frame.select("item", LABEL).rows(), part.nothing
    ([('a', 0.0), ('a', 0.0), ('a', 1.0)], 1)
    """

    views: str = Field(description="Column with the number of impressions that a row stands for.")
    clicks: str = Field(description="Column with the number of these that were clicked.")

    @property
    def item(self) -> None:
        """The item is in a column of its own."""
        return

    @property
    def columns(self) -> list[str]:
        """Columns that are read."""
        return [self.views, self.clicks]

    def expand(self, chunk: pl.DataFrame) -> Iterator[Expanded]:
        """As many impressions of each row as it has views, the clicks evenly among them."""
        n = len(chunk)
        views, clicks = (_whole(chunk[name]) for name in (self.views, self.clicks))
        words = {
            row: self._fault(chunk, row, v, c)
            for row, (v, c) in enumerate(zip(views, clicks, strict=True))
            if not 0 <= c <= v <= _MOST_VIEWS
        }
        bad = _marked(words, n)
        counts = np.where(bad, 1, views)
        for first, end in _parts(counts):
            source, within = _spread(counts, first, end)
            v, c, wrong = counts[source], np.where(bad, 0, clicks)[source], bad[source]
            label = pl.Series(LABEL, ((within + 1) * c // v > within * c // v).astype(np.float64))
            frame = chunk[source.tolist()].with_columns(label.set(pl.Series(wrong), None))
            out = Expanded(frame, source, nothing=int((counts[first:end] == 0).sum()))
            if wrong.any():
                out.faults.append((wrong, "type", lambda row, at=source: words[int(at[row])]))  # type: ignore[misc]
            yield out

    def _fault(self, chunk: pl.DataFrame, row: int, views: int, clicks: int) -> str:
        for name, number in ((self.views, views), (self.clicks, clicks)):
            if number < 0:
                return f"{name} is {show(chunk[name][row])}, expected a whole number"
        if clicks > views:
            return f"{self.clicks} is {clicks:,}, more than {self.views} = {views:,}"
        return f"{self.views} is {views:,}, more than {_MOST_VIEWS:,} impressions of one row"


def _shown(value: object) -> str:
    return show(value.to_list() if isinstance(value, pl.Series) else value)


def _parts(counts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of rows with at most about 65,536 impressions each."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = ends[first - 1] if first else 0
        end = max(first + 1, int(np.searchsorted(ends, before + _PART, side="right")))
        yield first, end
        first = end


def _spread(counts: NDArray[np.int64], first: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row of each impression, and its number within the row."""
    part = counts[first:end]
    source = np.repeat(np.arange(first, end), part)
    return source, np.arange(len(source)) - np.repeat(np.cumsum(part) - part, part)


def _marked(rows: dict[int, str], n: int) -> NDArray[np.bool_]:
    out = np.zeros(n, np.bool_)
    out[list(rows)] = True
    return out


def _as_list(column: pl.Series, separator: str | None) -> tuple[pl.Series, NDArray[np.bool_]]:
    """A column of lists: of arrays, of texts that are lists, of single values; and the rows whose text cannot be read."""
    dtype, good = column.dtype, np.zeros(len(column), np.bool_)
    if dtype == pl.String:
        return split_lists(column, separator)
    if isinstance(dtype, pl.Array):
        return column.arr.to_list(), good
    if isinstance(dtype, pl.List):
        return column, good
    if dtype == pl.Null:
        return column.cast(pl.List(pl.String)), good
    single = pl.select(pl.when(column.is_not_null()).then(pl.concat_list(column))).to_series()
    return single.alias(column.name), good


def _lengths(lists: pl.Series) -> NDArray[np.int64]:
    return lists.list.len().fill_null(0).to_numpy().astype(np.int64)


def _flat(
    lists: pl.Series, source: NDArray[np.int64], within: NDArray[np.int64], bad: NDArray[np.bool_]
) -> pl.Series:
    """The value of each impression; null where its row has no list."""
    lengths = _lengths(lists)
    values = lists.filter(pl.Series(lengths > 0)).explode()
    absent = bad | (lengths[source] == 0)
    places = np.where(absent, 0, (np.cumsum(lengths) - lengths)[source] + within)
    return (
        values.gather(pl.Series(places, dtype=pl.UInt32).set(pl.Series(absent), None))
        if len(values)
        else pl.Series([None] * len(source), dtype=values.dtype)
    )


def _texts(ids: pl.Series) -> pl.Series:
    if ids.dtype == pl.String or ids.dtype.is_integer() or ids.dtype == pl.Null:
        return ids.cast(pl.String)
    text = id_text(ids, booleans=True)
    return ids.cast(pl.String, strict=False) if text is None else text


def _label(values: pl.Series) -> pl.Series:
    if values.dtype != pl.String:
        return values.cast(pl.Float64, strict=False)
    text = values.str.strip_chars().str.to_lowercase()
    words = text.replace_strict(LABEL_WORDS, default=None, return_dtype=pl.Float64)
    return text.cast(pl.Float64, strict=False).fill_null(words)


def _whole(column: pl.Series) -> NDArray[np.int64]:
    """Whole numbers from 0; -1 where there is none."""
    number = (
        column.str.strip_chars().cast(pl.Float64, strict=False)
        if column.dtype == pl.String
        else column.cast(pl.Float64, strict=False)
    )
    ok = (number >= 0) & (number == number.floor()) & (number < 2**53)
    return number.set(~ok.fill_null(False), -1.0).fill_null(-1.0).cast(pl.Int64).to_numpy()
