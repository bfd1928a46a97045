"""Units of event time in milliseconds, and durations as text."""

from __future__ import annotations

import re

from ecdctr.state.errors import DataError
from ecdctr.state.event_time import DAY_MS, HOUR_MS

__all__ = ["DAY_MS", "HOUR_MS", "check_above_zero", "duration_ms"]

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": HOUR_MS, "d": DAY_MS}


def duration_ms(text: str) -> int:
    """Milliseconds of a duration that is written as a whole number and a unit: ms, s, m, h or d.

    Raises
    ------
    DataError
        The text has another form.

    Examples
    --------
    >>> duration_ms("90s"), duration_ms("12h")
    (90000, 43200000)
    """
    found = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text)
    if not found:
        raise DataError(f"{text!r} is not a length of time: write it as 500ms, 30s, 10m, 2h or 1d")
    return int(found[1]) * _UNITS_MS[found[2]]


def check_above_zero(text: str) -> str:
    """The duration itself; for settings in which a length of zero would repeat something without end.

    Raises
    ------
    ValueError
        The duration is zero.

    >>> check_above_zero("0d")
    Traceback (most recent call last):
    ValueError: 0d must be longer than 0
    """
    if not duration_ms(text):
        raise ValueError(f"{text} must be longer than 0")
    return text
