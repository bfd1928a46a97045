"""``PartitionBuffer``: the rows of one partition that wait for alignment, with their merge times."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch

__all__ = ["BEGINNING", "Chunk", "PartitionBuffer", "Segment", "move_rows"]

BEGINNING = -(2**62)
"""Earlier than every event time."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Decoded rows of one partition. It covers the offsets ``first <= o < end``; row ``i`` was read from ``offset[i]``.

    Several rows may share an offset (packed message); an offset may have no row (dead letter).
    """

    topic: str
    partition: int
    first: int
    end: int
    offset: NDArray[np.int64]
    batch: Batch


@dataclass(slots=True)
class Segment:
    """A chunk in a partition's buffer, with the merge times of its rows; ``start``: first row that has not been assigned to a step.

    ``starts_group[i]`` is False if row ``i`` has to be in the same step as the row before it (same event time or same message).
    ``block``: see :meth:`PartitionBuffer.blocks_of`; None where it is 0 for all rows.
    """

    chunk: Chunk
    time: NDArray[np.int64]
    starts_group: NDArray[np.bool_]
    arrived: float
    block: NDArray[np.int64] | None = None
    start: int = 0


@dataclass(slots=True)
class PartitionBuffer:
    """The buffer of one partition.

    ``block`` and ``block_rows`` number the last row's block and count its rows: see :meth:`blocks_of`.
    """

    topic: str
    partition: int
    domain: int
    next_in: int  # next offset to add
    next_out: int  # next offset to emit
    added_at: float  # time of the last chunk with rows, seconds
    segments: deque[Segment] = field(default_factory=deque)
    rows: int = 0
    last_time: int = BEGINNING  # merge time of the last row added
    last_ts: int = BEGINNING  # event time of the last row added
    block: int = 0
    block_rows: int = 0
    end: int | None = None  # end of the partition in the log (exclusive), if known
    closed: bool = False

    def times(self) -> NDArray[np.int64]:
        """Merge times of the buffered rows."""
        return (
            np.concatenate([s.time[s.start :] for s in self.segments])
            if self.segments
            else np.empty(0, np.int64)
        )

    @property
    def has_blocks(self) -> bool:
        """Whether a buffered row is not in block 0 of its merge time."""
        return any(s.block is not None for s in self.segments)

    def blocks(self) -> NDArray[np.int64]:
        """Blocks of the buffered rows."""
        blocks = [
            np.zeros(len(s.time) - s.start, np.int64) if s.block is None else s.block[s.start :]
            for s in self.segments
        ]
        return np.concatenate(blocks) if blocks else np.empty(0, np.int64)

    def last(self) -> tuple[float, int]:
        """Merge time and block before which this partition can deliver no row any more."""
        return self.last_time, self.block

    def has_one_key(self) -> bool:
        """Whether all buffered rows have the merge time and the block of the last one."""
        first = next((s for s in self.segments if len(s.time)), None)
        if first is None:
            return False
        block = 0 if first.block is None else int(first.block[first.start])
        return (int(first.time[first.start]), block) == self.last()

    def group_starts(self, chunk: Chunk, time: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows of the next chunk, with these merge times, may be separated from the row before them."""
        ts = chunk.batch.ts
        before_ts, before_time = (
            np.concatenate([[self.last_ts], ts[:-1]]),
            np.concatenate([[self.last_time], time[:-1]]),
        )
        before_offset = np.concatenate([[-1], chunk.offset[:-1]])
        same_group = (chunk.offset == before_offset) | ((ts == before_ts) & (time == before_time))
        return np.asarray(~same_group)

    def blocks_of(
        self,
        time: NDArray[np.int64],
        starts_group: NDArray[np.bool_],
        offset: NDArray[np.int64],
        size: float,
    ) -> NDArray[np.int64] | None:
        """The block of each new row within its merge time; None if all are 0.

        A block ends before the first group that begins after ``size`` rows; if there is none within twice as many rows,
        before the next message, which then begins a group in ``starts_group``. Blocks depend on the rows of the partition
        alone, not on how they are divided into chunks.
        """
        n = len(time)
        same = int(np.searchsorted(time, time[0], side="right")) if time[0] == self.last_time else 0
        if same == 0:
            self.block = self.block_rows = 0
        if not self.block and self.block_rows + n <= size:
            tail = n - int(np.searchsorted(time, time[-1], side="left"))
            self.block_rows = self.block_rows + n if same == n else tail
            return None
        block = np.zeros(n, np.int64)
        cuts = np.flatnonzero(np.diff(time, prepend=time[0])).tolist()
        starts_message = np.diff(offset, prepend=-1) != 0
        for start, end in itertools.pairwise([0, *cuts, n]):
            if start or not same:
                self.block = self.block_rows = 0
            at = start
            while True:
                group = _next(starts_group, at + max(0, int(size) - self.block_rows), end)
                message = _next(starts_message, at + max(0, 2 * int(size) - self.block_rows), end)
                cut = min(group, message)
                block[at:cut] = self.block
                self.block_rows += cut - at
                if cut == end:
                    break
                starts_group[cut] = True
                self.block, self.block_rows, at = self.block + 1, 0, cut
        return block if block.any() else None


def move_rows(buffer: PartitionBuffer, wanted: int, out: list[Batch]) -> int:
    """Move ``wanted`` rows, and the rows that must stay with the last of them, to ``out``; return how many were moved."""
    taken = 0
    while buffer.segments:
        segment = buffer.segments[0]
        chunk, start, n = segment.chunk, segment.start, len(segment.chunk.batch)
        stop = min(n, start + max(0, wanted - taken))
        # Beyond ``wanted``, only rows of the last row's group are taken.
        following = segment.starts_group[stop:]
        stop = n if not following.any() else stop + int(following.argmax())
        if n and stop == start:
            break
        if stop > start:
            out.append(chunk.batch.take(slice(start, stop)))
            taken += stop - start
        if stop < n:
            segment.start = stop
            buffer.next_out = int(chunk.offset[stop - 1]) + 1
            break
        if not n and taken >= wanted and not _group_continues(buffer):
            break
        buffer.segments.popleft()
        buffer.next_out = chunk.end
    buffer.rows -= taken
    return taken


def _group_continues(buffer: PartitionBuffer) -> bool:
    """Whether the next row, after chunks without rows, belongs to the group of the last row that was moved."""
    following = next((s for s in buffer.segments if len(s.starts_group)), None)
    return following is not None and not following.starts_group[following.start]


def _next(flags: NDArray[np.bool_], start: int, end: int) -> int:
    """Index of the first flag in ``start .. end``; ``end`` if there is none."""
    if start >= end:
        return end
    found = int(flags[start:end].argmax())
    return start + found if flags[start + found] else end
