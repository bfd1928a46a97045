"""Which values of a field are read although they have another type, and what they mean: one rule for JSON and columns.

A value is converted only if it leaves no choice. What it means depends on the value alone, never on other rows.

===================  =============================================================================================
id or category       a whole number of at most 2**53 written as a float (12.0) or a decimal is that integer; bytes are UTF-8 text,
                     else a UUID (16 bytes), else hexadecimal digits; a category also true ("1"), false ("0") and times
event time           a whole float or decimal is that integer; a time column is its milliseconds; text in ISO 8601 with a
                     date is that moment, in UTC unless it names an offset
number, label        true is 1, false is 0
===================  =============================================================================================

Text is never a number: "1" is not a label, and "1767225600000" is not a time.
"""

from __future__ import annotations

import datetime
import math
import uuid
from typing import Any

import numpy as np
import polars as pl

__all__ = ["MAX_WHOLE", "bytes_text", "id_text", "show", "time_of_text", "times", "whole"]

MAX_WHOLE = 2**53
"""Largest absolute value up to which every integer is a float: beyond it two ids could be the same float."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MS = datetime.timedelta(milliseconds=1)
_SHOWN = 60


def whole(value: float) -> int | None:
    """The integer that a float stands for; None if it has a fraction or is too large to be exact.

    >>> whole(12.0), whole(12.5), whole(2.0**60)
    (12, None, None)
    """
    return int(value) if abs(value) <= MAX_WHOLE and value.is_integer() else None


def time_of_text(text: str) -> int | None:
    """Milliseconds since the epoch of a date or a date-time in ISO 8601; None for any other text, also for digits alone.

    >>> time_of_text("1970-01-02"), time_of_text("1970-01-01T01:00:00.5+01:00"), time_of_text("86400000")
    (86400000, 500, None)
    """
    if text.isdecimal() or not text[:4].isdecimal():
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    try:
        return (moment - _EPOCH) // _MS
    except OverflowError:
        return None


def bytes_text(value: bytes) -> str:
    """Bytes as an id: UTF-8 text, else the digits of a UUID (16 bytes), else hexadecimal digits.

    >>> bytes_text(b"u7"), bytes_text(bytes([255] * 16)), bytes_text(b"\\xff")
    ('u7', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'ff')
    """
    try:
        return value.decode()
    except UnicodeDecodeError:
        return str(uuid.UUID(bytes=value)) if len(value) == 16 else value.hex()


def id_text(column: pl.Series, *, booleans: bool) -> pl.Series | None:
    """A column of ids or categories as text, null where a value has no such meaning; None if no value of its type has one.

    Parameters
    ----------
    column
        Of any type except text and integers, whose conversion is :meth:`polars.Series.cast`.
    booleans
        Whether true and false are values.
    """
    dtype = column.dtype
    if dtype == pl.Boolean:
        return column.cast(pl.UInt8).cast(pl.String) if booleans else None
    if dtype.is_float():
        exact = (column.is_finite() & (column == column.floor())).fill_null(False)
        exact &= (column.abs() <= (MAX_WHOLE if dtype == pl.Float64 else 2**24)).fill_null(False)
        none = pl.Series([None], dtype=dtype).new_from_index(0, len(column))
        return column.zip_with(exact, none).cast(pl.Int64).cast(pl.String)
    if dtype.is_decimal():
        return column.cast(pl.String).str.extract(r"^(-?\d+)(?:\.0*)?$")
    if dtype == pl.Binary:
        return pl.Series(column.name, [None if v is None else bytes_text(v) for v in column], dtype=pl.String)
    return column.cast(pl.String) if dtype.is_temporal() and dtype != pl.Duration else None


def times(column: pl.Series) -> pl.Series | None:
    """A column that is not integer as milliseconds, Int64; null where a value is no time; None if no value of its type is one.

    Whole numbers beyond 64 bits become the least integer, which is out of every bound.
    """
    dtype = column.dtype
    if isinstance(dtype, pl.Datetime | pl.Date):
        return column.cast(pl.Datetime(getattr(dtype, "time_unit", None) or "ms")).dt.epoch("ms")
    if dtype == pl.String:
        found: list[Any] = [None if v is None else time_of_text(v) for v in column]
        return pl.Series(column.name, found, dtype=pl.Int64)
    if dtype.is_decimal() or dtype.is_float():
        number = column.cast(pl.Float64)
        exact = (number.is_finite() & (number == number.floor())).fill_null(False)
        values = np.where(exact.to_numpy(), number.fill_null(0.0).to_numpy(), 0.0)
        far = np.abs(values) >= 2.0**63
        milliseconds = np.where(far, 0.0, values).astype(np.int64)
        milliseconds[far] = -(2**63)
        return pl.Series(column.name, milliseconds).set(~exact, None)
    return None


def show(value: Any) -> str:
    """A value as it is quoted in messages: its start, without control characters.

    >>> show("x" * 100)[-4:], show(12.5), show(None)
    ('x...', '12.5', 'null')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value) if not isinstance(value, str) else '"' + value + '"'
    text = "".join(c if c.isprintable() else "?" for c in text[: _SHOWN + 1])
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
