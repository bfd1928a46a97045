"""``DecodedRows``: decoded batches, from which rows are taken once their order is known."""

from __future__ import annotations

import numpy as np
import polars as pl

from ecdctr.events.batch import Batch

__all__ = ["DecodedRows"]


class DecodedRows:
    """Batches that wait for the order of their rows.

    A frame of ``ts``, chunk and row number stands for the rows while they are put in order, so that rows are decoded where they
    are read, independently of the rows of other files or partitions.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, tuple[Batch, int]] = {}
        self._next = 0

    def put(self, batch: Batch) -> pl.DataFrame:
        """Keep a batch of at least one row; return the frame that stands for its rows."""
        rows = len(batch)
        self._chunks[self._next] = (batch, rows)
        place = pl.DataFrame(
            {"ts": batch.ts, "chunk": np.full(rows, self._next, np.int64), "row": np.arange(rows)}
        )
        self._next += 1
        return place

    def take(self, frame: pl.DataFrame) -> Batch:
        """The rows that a part of such frames stands for; a batch is dropped after its last row."""
        chunk, row = frame["chunk"].to_numpy(), frame["row"].to_numpy()
        numbers, at, counts = np.unique(chunk, return_inverse=True, return_counts=True)
        batches = [self._chunks[n][0] for n in numbers.tolist()]
        start = np.cumsum([0, *(len(b) for b in batches[:-1])])
        for n, taken in zip(numbers.tolist(), counts.tolist(), strict=True):
            batch, left = self._chunks.pop(n)
            if left > taken:
                self._chunks[n] = (batch, left - taken)
        return Batch.concat(batches).take(start[at] + row)
