"""Marks on the time axis of the monitor's charts."""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = ["Mark"]


class Mark(TypedDict):
    """An event on the time axis; ``ts`` in ms of event time."""

    ts: int
    kind: Literal["release", "month", "reference"]
    text: str
