"""``FileColumns``: columns of files converted to the types that the decoder of events accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from ecdctr.events.settings import FeatureSpec
from ecdctr.state.errors import DataError

__all__ = ["BAG_SEPARATOR", "FileColumns"]

REQUIRED = ("domain", "ts", "user_id", "item_id", "label")
BAG_SEPARATOR = "|"
"""Separates the ids of a bag in formats without lists (CSV)."""

_PLAIN = ("domain", "event_id", "user_id", "item_id", "list_id")
_SAMPLE = 1_000


class FileColumns:
    """Converts the chunks of one file to event frames; stores the row count and the kinds of the columns.

    Unambiguous types are converted: ``ts`` from dates, date-times and digits to milliseconds; labels from digits and
    booleans; ids from whole floats; booleans and enumerations to numbers and text. If ``features`` are given, a numeric
    feature written as text becomes a number and a bag is split at ``|``; otherwise a column of text is numeric if the first
    chunk contains only numbers (CSV). A value that cannot be converted becomes NaN or null, and the decoder rejects its row
    with the reason.

    Parameters
    ----------
    label
        Name of the file in errors.
    constants
        Values of columns that the file does not have (``domain``, folders named ``key=value``).
    features
        The configured features, if known.
    text
        Whether the format has no types (CSV).
    """

    def __init__(
        self, label: str, constants: Mapping[str, str], features: Sequence[FeatureSpec] | None, *, text: bool
    ) -> None:
        self.label, self.constants, self.text = label, dict(constants), text
        self.kinds: dict[str, str] = {s.field: s.kind for s in features or ()}
        self.kinds["oracle"] = "numeric"
        self._known = features is not None or not text
        self._row = 0

    def events(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """The chunk as an event frame with all of its rows."""
        added = {k: v for k, v in self.constants.items() if k not in chunk.columns}
        frame = chunk.with_columns(pl.lit(v).alias(k) for k, v in added.items())
        if not self._row:
            self._check(frame)
        if not self._known:
            self._find_kinds(frame)
        rows = pl.int_range(self._row, self._row + chunk.height, dtype=pl.Int64)
        if "event_id" not in frame.columns:
            frame = frame.with_columns(pl.format("{}:{}", pl.lit(self.label), rows).alias("event_id"))
        self._row += chunk.height
        return frame.select(self._typed(column) for column in frame)

    def _check(self, frame: pl.DataFrame) -> None:
        missing = [name for name in REQUIRED if name not in frame.columns]
        if missing == ["domain"]:
            raise DataError(
                f"{self.label} does not distinguish natural rows from ads: add a column domain "
                '("natural" or "ad"), or write ?domain=ad after the path'
            )
        if missing:
            raise DataError(
                f"{self.label} has no column {', '.join(missing)}; it has {', '.join(frame.columns)}. "
                f"An event needs {', '.join(REQUIRED)}, and the configured features"
            )

    def _find_kinds(self, frame: pl.DataFrame) -> None:
        for column in frame.get_columns():
            if column.name in (*_PLAIN, "ts", "label") or column.dtype != pl.String:
                continue
            values = column.drop_nulls()
            number = values.cast(pl.Float64, strict=False)
            # With leading zeros it is an identifier, not a number.
            named = values.str.contains(r"^0\d")
            if len(values) and not number.null_count() and not named.any():
                self.kinds[column.name] = "numeric"
        self._known = True

    def _typed(self, column: pl.Series) -> pl.Series:
        name = column.name
        if name == "ts":
            return _time(column)
        if name == "label":
            return _number(column)
        kind = self.kinds.get(name)
        if kind == "numeric":
            return self._numeric(column)
        if kind == "bag" and column.dtype == pl.String:
            return column.str.split(BAG_SEPARATOR)
        return _plain(column)

    def _numeric(self, column: pl.Series) -> pl.Series:
        if column.dtype != pl.String:
            return _number(column)
        number = column.cast(pl.Float64, strict=False)
        wrong = number.is_null() & column.is_not_null()
        if wrong.any():
            number = number.zip_with(~wrong, pl.Series([float("nan")]).new_from_index(0, len(number)))
        whole = column.cast(pl.Int64, strict=False)
        # Without configured features it may be a category: whole numbers stay integers.
        return whole if whole.null_count() == column.null_count() else number


def _time(column: pl.Series) -> pl.Series:
    dtype = column.dtype
    if isinstance(dtype, pl.Datetime | pl.Date):
        return column.cast(pl.Datetime("ms")).dt.epoch("ms")
    if dtype == pl.String:
        digits = column.cast(pl.Int64, strict=False)
        if digits.null_count() == column.null_count():
            return digits
        read = column.str.to_datetime(time_unit="ms", strict=False, time_zone="UTC", ambiguous="null")
        return digits.fill_null(read.dt.epoch("ms"))
    if dtype.is_numeric():
        return column.cast(pl.Int64, strict=False)
    return pl.Series(column.name, [None] * len(column), dtype=pl.Int64)


def _number(column: pl.Series) -> pl.Series:
    if column.dtype.is_numeric():
        return column
    return column.cast(pl.Float64, strict=False) if column.dtype == pl.String else _plain(column)


def _plain(column: pl.Series) -> pl.Series:
    dtype = column.dtype
    if dtype == pl.Boolean:
        return column.cast(pl.UInt8)
    if dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        return whole if (whole.cast(pl.Float64) == column).fill_null(True).all() else column
    if dtype.is_temporal():
        return column.cast(pl.String)
    return column
