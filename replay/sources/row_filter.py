"""``RowFilter``: which rows of a log a replay takes, by event time and by user."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ecdctr.events.batch import Batch
from ecdctr.state.hashing import mix64

__all__ = ["RowFilter"]

_SALT = np.uint64(0x5D3F7A1BC94E6082)
"""Makes the selected users independent of those whose natural rows are scored, and of every feature's buckets."""


@dataclass(frozen=True)
class RowFilter:
    """Selects the rows of a log that are replayed.

    Attributes
    ----------
    from_ms, until_ms
        ``from_ms <= ts < until_ms``, by the rows' own event time.
    users
        Share of users that are selected, by a hash of the user's id: all rows of a user or none, and the same users in
        every log.

    Examples
    --------
    >>> z = np.zeros(3, np.uint64)
    >>> rows = Batch(np.array([1, 2, 3]), z.astype(np.uint8), z, z, np.zeros((3, 1), np.int32),
    ...              np.zeros((3, 0), np.float32), np.zeros(3, np.float32))
    >>> [b.ts.tolist() for b in RowFilter(from_ms=2, until_ms=3).apply([rows])]
    [[2]]
    """

    from_ms: int | None = None
    until_ms: int | None = None
    users: float = 1.0

    @property
    def takes_all(self) -> bool:
        """Whether every row is selected."""
        return self.from_ms is None and self.until_ms is None and self.users >= 1.0

    def apply(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the selected rows; ends at the first batch that reaches ``until_ms``."""
        if self.takes_all:
            yield from batches
            return
        for batch in batches:
            keep = np.ones(len(batch), bool)
            if self.from_ms is not None:
                keep &= batch.ts >= self.from_ms
            if self.users < 1.0:
                keep &= mix64(batch.user ^ _SALT) < np.uint64(int(self.users * 2.0**64))
            past = False
            if self.until_ms is not None:
                young = batch.ts >= self.until_ms
                past = bool(young.any())
                keep &= ~young
            selected = batch if keep.all() else batch.take(keep)
            if len(selected):
                yield selected
            if past:
                return  # rows come in event order
