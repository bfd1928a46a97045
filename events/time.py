"""Lengths of event time as text."""

from __future__ import annotations

__all__ = ["milliseconds"]

_UNIT = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def milliseconds(text: str) -> int:
    """Length in ms; the settings have checked the form.

    >>> milliseconds("5m"), milliseconds("2d")
    (300000, 172800000)
    """
    return int(text[:-1]) * _UNIT[text[-1]]
