"""``FileColumns``: columns of files converted to the types that the decoder of events accepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.events.settings import FeatureSpec
from ecdctr.events.text_lists import BAG_TEXT, NULL_WORDS, split_lists
from ecdctr.events.values import id_text, show, time_of_text
from ecdctr.state.errors import DataError

__all__ = ["LABEL_WORDS", "NUMBER_NULL_WORDS", "Fault", "FileColumns"]

Fault = tuple[NDArray[np.bool_], str, Callable[[int], str]]
"""Rows of a chunk with a value that cannot be read, the reason, and the detail by row."""

REQUIRED = ("domain", "ts", "user_id", "item_id", "label")
_PLAIN = ("domain", "event_id", "user_id", "item_id", "list_id")

NUMBER_NULL_WORDS = (
    *NULL_WORDS, "NA", "na", "N/A", "n/a", "#N/A", "#NA", "#NULL!", "none", "nat", "nil", "NIL", "undefined", "missing", "-nan", "-NaN",
    "-", "--", "?", ".",
)  # fmt: skip
"""Texts that mean a missing value in a column of numbers in CSV; in a category, NA may be Namibia."""

_YES = "true t yes y oui o vrai ja j wahr sim s verdadeiro si sí verdadero sì vero tak evet да 是 はい hai"
_NO = "false f no n non faux nein falsch não nao falso nee nej nie hayır hayir нет 否 いいえ iie"
LABEL_WORDS = dict.fromkeys(_YES.split(), 1.0) | dict.fromkeys(_NO.split(), 0.0)
"""Words of several languages for a label, in lower case. None of them means 1 in one language and 0 in another."""


class FileColumns:
    """Converts the chunks of one file to event frames; stores the row count and the kinds of the columns.

    Columns of text are read by what the field holds: a numeric feature as numbers, a bag as the text of a list or ids that are
    separated (:mod:`ecdctr.events.text_lists`), the time as milliseconds or ISO 8601, the label as a number or a word (:data:`LABEL_WORDS`). Each value is read
    by itself. In CSV, the usual words for a missing value (:data:`NULL_WORDS`) are null. If no features are given, a column of
    text is numeric if the first chunk contains only numbers. A value that cannot be read becomes null, and a fault of its row.
    Columns of other types are left to the decoder, except that whole floats become integers, and booleans numbers.

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
    convert
        Whether values of other types than text are converted here, for frames that are not decoded.
    separators
        Separators of bags in text, by field, as far as a mapping file names them.

    Attributes
    ----------
    faults
        Of the chunk that :meth:`events` converted last.
    texts
        Names of the columns that had to be read from text in a format that has types.
    """

    def __init__(
        self,
        label: str,
        constants: Mapping[str, str],
        features: Sequence[FeatureSpec] | None,
        *,
        text: bool,
        convert: bool = True,
        separators: Mapping[str, str] | None = None,
    ) -> None:
        self.label, self.constants, self.text, self.convert = label, dict(constants), text, convert
        self.separators = separators or {}
        self.kinds: dict[str, str] = {s.field: s.kind for s in features or ()}
        self.kinds["oracle"] = "numeric"
        self.faults: list[Fault] = []
        self.texts: set[str] = set()
        self._known = features is not None or not text
        self._row = 0

    def events(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """The chunk as an event frame with all of its rows."""
        self.faults = []
        added = {k: v for k, v in self.constants.items() if k not in chunk.columns}
        frame = chunk.with_columns(pl.lit(v).alias(k) for k, v in added.items())
        if not self._row:
            check_names(self.label, frame.columns)
        if not self._known:
            self._find_kinds(frame)
        rows = pl.int_range(self._row, self._row + chunk.height, dtype=pl.Int64)
        if "event_id" not in frame.columns:
            frame = frame.with_columns(pl.format("{}:{}", pl.lit(self.label), rows).alias("event_id"))
        self._row += chunk.height
        return frame.select(self._typed(column) for column in frame)

    def _find_kinds(self, frame: pl.DataFrame) -> None:
        for column in frame.get_columns():
            if column.name in (*_PLAIN, "ts", "label") or column.dtype != pl.String:
                continue
            values = column.drop_nulls()
            values = values.filter(~values.is_in(NUMBER_NULL_WORDS))
            number = values.cast(pl.Float64, strict=False)
            # With leading zeros it is an identifier, not a number.
            named = values.str.contains(r"^0\d")
            if len(values) and not number.null_count() and not named.any():
                self.kinds[column.name] = "numeric"
        self._known = True

    def _typed(self, column: pl.Series) -> pl.Series:
        name = column.name
        kind = self.kinds.get(name)
        if column.dtype != pl.String:
            return _plain(column, name) if self.convert else column
        if self.text:
            words = NUMBER_NULL_WORDS if name in ("ts", "label") or kind == "numeric" else NULL_WORDS
            empty = column.str.strip_chars().is_in(words)
            if empty.any():
                column = column.set(empty, None)
        if name == "ts":
            return self._time(column)
        if name == "label":
            return self._read(column, _label(column), "0 or 1, true or false")
        if kind == "numeric":
            return self._numeric(column)
        if kind == "bag":
            return self._bag(column)
        return column

    def _numeric(self, column: pl.Series) -> pl.Series:
        number = self._read(column, column.str.strip_chars().cast(pl.Float64, strict=False), "a number")
        if self.convert:  # without faults, an invalid number is NaN, which the decoder rejects
            number = number.set(number.is_null() & column.is_not_null(), float("nan"))
        whole = column.cast(pl.Int64, strict=False)
        # Without configured features it may be a category: whole numbers stay integers.
        return whole if whole.null_count() == column.null_count() else number

    def _time(self, column: pl.Series) -> pl.Series:
        found = column.str.strip_chars().cast(pl.Int64, strict=False)
        rest = (found.is_null() & column.is_not_null()).to_numpy()
        if rest.any():
            values = found.to_list()
            for row in np.flatnonzero(rest).tolist():
                values[row] = _moment(column[row].strip())
            found = pl.Series(column.name, values, dtype=pl.Int64)
        return self._read(
            column, found, "milliseconds since the epoch, or a date-time as 2026-01-31T18:00:00"
        )

    def _bag(self, column: pl.Series) -> pl.Series:
        lists, bad = split_lists(column, self.separators.get(column.name))
        if bad.any():
            self._fault(column, bad, BAG_TEXT)
        return lists

    def _read(self, column: pl.Series, found: pl.Series, wanted: str) -> pl.Series:
        """The values found in a column of text; a text without one is a fault."""
        if not self.text:
            self.texts.add(column.name)
        bad = (found.is_null() & column.is_not_null()).to_numpy()
        if bad.any():
            self._fault(column, bad, wanted)
        return found

    def _fault(self, column: pl.Series, bad: NDArray[np.bool_], wanted: str) -> None:
        name = column.name
        self.faults.append((bad, "type", lambda row: f"{name} is {show(column[row])}, expected {wanted}"))


def check_names(label: str, names: Sequence[str]) -> None:
    """Raise a DataError if a file lacks a column that every event has."""
    missing = [name for name in REQUIRED if name not in names]
    if missing == ["domain"]:
        raise DataError(
            f"{label} does not distinguish natural rows from ads: add a column domain "
            '("natural" or "ad"), or write ?domain=ad after the path'
        )
    if missing:
        raise DataError(
            f"{label} has no column {', '.join(missing)}; it has {', '.join(names)}. "
            f"An event needs {', '.join(REQUIRED)}, and the configured features"
        )


def _moment(text: str) -> int | None:
    """Milliseconds of a text that is not an integer: a whole float, or ISO 8601."""
    found = time_of_text(text)
    if found is None:
        try:
            number = float(text)
        except ValueError:
            return None
        found = int(number) if number.is_integer() and abs(number) < 2**63 else None
    return found


def _label(column: pl.Series) -> pl.Series:
    text = column.str.strip_chars().str.to_lowercase()
    number = text.cast(pl.Float64, strict=False)
    if number.null_count() == column.null_count():
        return number
    return number.fill_null(text.replace_strict(LABEL_WORDS, default=None, return_dtype=pl.Float64))


def _plain(column: pl.Series, name: str) -> pl.Series:
    dtype = column.dtype
    if name == "ts" and isinstance(dtype, pl.Datetime | pl.Date):
        return column.cast(pl.Datetime("ms")).dt.epoch("ms")
    if name == "ts" and dtype.is_numeric():
        return column.cast(pl.Int64, strict=False)
    if name == "ts":
        return pl.Series(column.name, [None] * len(column), dtype=pl.Int64)
    if dtype == pl.Boolean:
        return column.cast(pl.UInt8)
    if dtype.is_float() and name != "label":
        whole = column.cast(pl.Int64, strict=False)
        if (whole.cast(pl.Float64) == column).fill_null(True).all():
            return whole
    if name in _PLAIN and (dtype.is_float() or dtype.is_decimal() or dtype == pl.Binary):
        text = id_text(column, booleans=False)
        return column if text is None else text
    if dtype.is_temporal() and dtype != pl.Duration:
        return column.cast(pl.String)
    return column
