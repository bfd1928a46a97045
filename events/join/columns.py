"""Columns of the join: events that come in, rows that go out, and keys by which they belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLICKED", "CORRECTION", "EARLY_NEGATIVE", "NOT_CLICKED", "JoinEvents", "JoinedRows"]

CLICKED, NOT_CLICKED, EARLY_NEGATIVE, CORRECTION = range(4)
"""Roles of a labelled row: a click within the window, none within it, a negative before the window has passed, and the positive
that is added after a negative of the same impression."""


@dataclass(slots=True, eq=False)
class Columns:
    """Arrays of one length."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def columns(self) -> dict[str, NDArray[Any]]:
        """By name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def take(self, rows: Any) -> Self:
        """Rows by index or mask."""
        return type(self)(*(column[rows] for column in self.columns().values()))

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """The rows of at least one part."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


@dataclass(slots=True, eq=False)
class JoinEvents(Columns):
    """Impressions and clicks of one partition, in its order.

    Attributes
    ----------
    key
        What an impression and its clicks have in common, as a hash of 64 bits: of ``impression_id``, or :func:`pair_key` of a request and an item.
    ts
        Event time, ms.
    is_click
        Whether it is a click.
    row
        The caller's number of an impression, by which it finds its contents again; not read for clicks.
    domain
        0 natural, 1 ad; not read for clicks.
    anonymous
        Whether an impression has no user.
    offset
        Offset in the partition, rising.
    """

    key: NDArray[np.uint64]
    ts: NDArray[np.int64]
    is_click: NDArray[np.bool_]
    row: NDArray[np.int64]
    domain: NDArray[np.uint8]
    anonymous: NDArray[np.bool_]
    offset: NDArray[np.int64]


@dataclass(slots=True, eq=False)
class JoinedRows(Columns):
    """Labelled rows in the order of their emission.

    Attributes
    ----------
    time
        Event time (ms) at which the label was known: of the click, or the end of the window.
    key, row, ts, domain
        Of the impression.
    label
        1 click, 0 none.
    role
        ``CLICKED``, ``NOT_CLICKED``, ``EARLY_NEGATIVE`` or ``CORRECTION``; :func:`sample_weights` depends on it.
    """

    time: NDArray[np.int64]
    key: NDArray[np.uint64]
    row: NDArray[np.int64]
    ts: NDArray[np.int64]
    domain: NDArray[np.uint8]
    label: NDArray[np.uint8]
    role: NDArray[np.uint8]
