"""Event-time alignment: rows of many partitions become one ordered sequence of steps.

Without alignment, a worker that catches up would read the small ad topic days ahead of the natural topic, and the models would be
trained on data from the future. Live training and replay use the same class; while no time-out expires, both form the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.partition_buffer import BEGINNING, Chunk, PartitionBuffer, Segment, move_rows
from ecdctr.events.step import Step, StepKind
from ecdctr.state.positions import Part

__all__ = ["Aligner", "Chunk"]

Key = tuple[str, int]


class Aligner:
    """Merges partitions by event time and divides the merged sequence into steps.

    While no time-out expires, the steps depend on the merged sequence alone, and not on the order in which chunks arrive:

    1. Rows are ordered by (merge time, topic, partition, offset). The merge time of a row is the running maximum of ``ts`` over
       its partition; all rows of a packed message get the largest merge time of the message. Adjacent rows of one partition with
       the same ``ts`` (for example an impression list) and rows of one message are always in the same step, because their labels
       become known at the same time.
    2. As soon as ``natural_batch`` natural rows are available, all ad rows that precede the last of them are emitted as ad steps
       (about ``ad_batch`` rows each, the last one fewer), followed by the natural rows as one step. Thus an ad row is predicted
       before natural rows with a later merge time are learned.
    3. Every ``ad_batch`` ad rows are emitted as a step without waiting for natural rows.

    A row that is out of order in its partition has a merge time later than its ``ts``, so that natural rows with a later event time
    may be learned before it.

    4. More than a quarter of ``buffer_rows`` rows of one partition with the same merge time are divided into blocks of about that size,
       and rule 1 orders rows of one merge time by block before topic and partition. This happens when a partition delivers older rows
       than before: they all have the merge time of the latest row before them, and without blocks a buffer full of them could
       not be emitted.

    A row can be emitted when no partition can still deliver an earlier row. A partition that delivers nothing delays the others for
    at most ``max_behind_s`` if the log is known to hold more of it, and for at most ``max_idle_s`` otherwise; a partition with a full
    buffer does not count as idle, unless all of its rows are in one block (a message with more rows than the buffer). Then the others continue. Rows that arrive later and are older than ``clock`` are counted in
    ``late_rows``, and are still learned. If no batch is full and rows have been buffered for ``max_wait_s``, all rows that can be
    emitted are emitted in incomplete batches. Offsets without rows (rejected records, transaction markers) of a partition without
    buffered rows are emitted as a step without rows after ``max_wait_s``, whether or not batches are full.

    Parameters
    ----------
    partitions
        ``{(topic, partition): domain}``.
    positions
        Next offset of each partition; 0 where absent.
    natural_batch, ad_batch
        Rows of a full step.
    max_idle_s
        Longest time in wall seconds to wait for a partition that delivers nothing; ``inf`` (replay): no limit.
    max_wait_s
        Longest time in wall seconds to wait for a batch to become full; ``inf`` (replay): no limit.
    max_behind_s
        As ``max_idle_s``, for a partition whose end in the log has not been reached (leader election, records that all become dead
        letters).
    buffer_rows
        Number of buffered rows at which the caller pauses a partition; its buffer is full then.
    now
        The caller's monotonic clock, in seconds; the class reads no clock itself.

    Attributes
    ----------
    clock
        Latest merge time emitted, ms.
    late_rows
        Number of rows that were older than ``clock`` when they were added.
    batch_rows
        ``(natural_batch, ad_batch)``.

    Examples
    --------
    >>> a = Aligner({("n", 0): 0, ("a", 0): 1}, natural_batch=2, ad_batch=8)
    >>> from ecdctr.events.align import Chunk
    >>> def rows(topic, domain, ts):
    ...     n = len(ts); z = np.zeros(n, np.uint64)
    ...     b = Batch(np.array(ts), np.full(n, domain, np.uint8), z, z, np.zeros((n, 1), np.int32),
    ...               np.zeros((n, 0), np.float32), np.zeros(n, np.float32))
    ...     return Chunk(topic, 0, 0, n, np.arange(n), b)
    >>> a.add(rows("a", 1, [15, 35])); a.add(rows("n", 0, [10, 20, 30, 40]))
    >>> [(s.kind.value, s.batch.ts.tolist()) for s in a.emit_steps(final=True)]
    [('ad', [15]), ('natural', [10, 20]), ('ad', [35]), ('natural', [30, 40])]
    """

    def __init__(
        self,
        partitions: Mapping[Key, int],
        *,
        natural_batch: int,
        ad_batch: int,
        positions: Mapping[Key, int] | None = None,
        max_idle_s: float = math.inf,
        max_wait_s: float = math.inf,
        max_behind_s: float = math.inf,
        buffer_rows: float = math.inf,
        now: float = 0.0,
    ) -> None:
        self.batch_rows = (natural_batch, ad_batch)
        self.max_idle_s = max_idle_s
        self.max_wait_s = max_wait_s
        self.max_behind_s = max_behind_s
        self.buffer_rows = buffer_rows
        self._block_size = buffer_rows if math.isinf(buffer_rows) else max(1, int(buffer_rows) // 4)
        self.clock = BEGINNING
        self.late_rows = 0
        self._partitions: dict[Key, PartitionBuffer] = {}
        for (topic, partition), domain in sorted(partitions.items()):
            self.open_partition(topic, partition, domain, (positions or {}).get((topic, partition), 0), now)

    # -- input

    def open_partition(
        self, topic: str, partition: int, domain: int, position: int, now: float = 0.0
    ) -> None:
        """Add a partition; ``position`` is the next offset that :meth:`add` expects."""
        self._partitions[(topic, partition)] = PartitionBuffer(
            topic, partition, domain, position, position, now
        )
        self._partitions = dict(sorted(self._partitions.items()))

    def add(self, chunk: Chunk, now: float = 0.0) -> None:
        """Buffer decoded rows; rows older than :attr:`clock` are counted in :attr:`late_rows`.

        Raises
        ------
        ValueError
            The chunk does not begin where the previous one of its partition ended.
        """
        buffer = self._partitions[(chunk.topic, chunk.partition)]
        if chunk.first != buffer.next_in:
            raise ValueError(
                f"{chunk.topic}[{chunk.partition}]: expected offset {buffer.next_in}, got {chunk.first}"
            )
        buffer.next_in = chunk.end
        ts = chunk.batch.ts
        block = None
        if len(ts):
            buffer.added_at = now
            self.late_rows += int((ts < self.clock).sum())
            time = np.maximum(np.maximum.accumulate(ts), buffer.last_time)
            # Rows of one message stay together: all have the last, largest merge time of the message.
            last_of_offset = np.searchsorted(chunk.offset, chunk.offset, side="right") - 1
            time = time[last_of_offset]
            starts_group = buffer.group_starts(chunk, time)
            block = buffer.blocks_of(time, starts_group, chunk.offset, self._block_size)
            buffer.last_ts = int(ts[-1])
            buffer.last_time = int(time[-1])
            buffer.rows += len(ts)
        else:
            time, starts_group = np.empty(0, np.int64), np.empty(0, np.bool_)
        buffer.segments.append(Segment(chunk, time, starts_group, now, block))

    def set_end(self, topic: str, partition: int, end: int) -> None:
        """Set the end of a partition in the log, exclusive."""
        self._partitions[(topic, partition)].end = end

    def advance(self, time: int) -> None:
        """Declare that no row with ``ts < time`` will be added, for sources that are sorted by event time over all partitions."""
        for buffer in self._partitions.values():
            if time > buffer.last_time:
                buffer.last_time, buffer.block, buffer.block_rows = time, 0, 0

    def close(self, topic: str, partition: int) -> None:
        """Mark a partition as complete, so that the others do not wait for it."""
        self._partitions[(topic, partition)].closed = True

    # -- state

    def position(self, topic: str, partition: int) -> int | None:
        """Next offset that :meth:`add` expects; None for an unknown partition."""
        buffer = self._partitions.get((topic, partition))
        return None if buffer is None else buffer.next_in

    def end(self, topic: str, partition: int) -> int | None:
        """End of a partition in the log, if it is known."""
        return self._partitions[(topic, partition)].end

    def buffered(self, topic: str, partition: int) -> int:
        """Rows in the buffer of one partition."""
        return self._partitions[(topic, partition)].rows

    def lag(self, topic: str, learned: Mapping[Key, int]) -> int:
        """Number of offsets of a topic that are known to exist and are not learned yet; ``learned``: next offset to learn."""
        return sum(
            max(0, max(buffer.end or 0, buffer.next_in) - learned.get(key, 0))
            for key, buffer in self._partitions.items()
            if buffer.topic == topic
        )

    @property
    def buffered_rows(self) -> int:
        """Rows in all buffers."""
        return sum(buffer.rows for buffer in self._partitions.values())

    # -- output

    def emit_steps(self, now: float = 0.0, *, final: bool = False) -> list[Step]:
        """Return all steps that can be formed at time ``now``, in order; with ``final`` all buffered rows are emitted."""
        watermark, last_block = (math.inf, 0) if final else self._watermark(now)
        buffers = list(self._partitions.values())
        has_blocks = any(buffer.has_blocks for buffer in buffers)
        times, blocks, counts = [], [], []
        for buffer in buffers:
            t = buffer.times()
            safe = len(t) if watermark == math.inf else int(np.searchsorted(t, watermark, side="left"))
            if has_blocks:
                b = buffer.blocks()
                end = int(np.searchsorted(t, watermark, side="right"))
                safe += int(np.searchsorted(b[safe:end], last_block, side="left"))
                blocks.append(b[:safe])
            times.append(t[:safe])
            counts.append(safe)
        natural = sum(c for c, buffer in zip(counts, buffers, strict=True) if buffer.domain == NATURAL)
        full = natural >= self.batch_rows[NATURAL] or sum(counts) - natural >= self.batch_rows[AD]
        # While a worker catches up, rows wait long anyway: ``max_wait_s`` applies only if no batch is full.
        overdue = final or (not full and self._overdue(now, counts))
        steps: list[Step] = []
        if overdue or full:
            order_partition, order_time = self._merge(buffers, times, blocks, counts)
            steps = self._form_steps(buffers, order_partition, order_time, flush=overdue)
        return steps + self._empty_ranges(buffers if final else [b for b in buffers if self._waits(b, now)])

    def _watermark(self, now: float) -> tuple[float, int]:
        """Merge time and block before which no partition that counts as active can deliver a row any more."""
        bound = (math.inf, 0)
        for buffer in self._partitions.values():
            behind = buffer.end is not None and buffer.next_in < buffer.end
            timeout = self.max_behind_s if behind else self.max_idle_s
            idle = now - buffer.added_at > timeout and (
                buffer.rows < self.buffer_rows or buffer.has_one_key()
            )
            if buffer.closed or idle:
                continue
            bound = min(bound, buffer.last())
        return bound

    def _overdue(self, now: float, counts: Sequence[int]) -> bool:
        """Whether a partition has had rows that can be emitted for more than ``max_wait_s``."""
        return any(
            count and self._waits(buffer, now)
            for buffer, count in zip(self._partitions.values(), counts, strict=True)
        )

    def _waits(self, buffer: PartitionBuffer, now: float) -> bool:
        """Whether the first rows or offsets in a buffer have been there for more than ``max_wait_s``."""
        return bool(buffer.segments) and now - buffer.segments[0].arrived > self.max_wait_s

    @staticmethod
    def _merge(
        buffers: Sequence[PartitionBuffer],
        times: Sequence[NDArray[np.int64]],
        blocks: Sequence[NDArray[np.int64]],
        counts: Sequence[int],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        partition_of = np.repeat(np.arange(len(buffers)), counts)
        time = np.concatenate(times) if times else np.empty(0, np.int64)
        # Stable: buffers are concatenated in (topic, partition) order and each is in offset order.
        order = np.lexsort((np.concatenate(blocks), time)) if blocks else np.argsort(time, kind="stable")
        return partition_of[order], time[order]

    def _form_steps(
        self,
        buffers: Sequence[PartitionBuffer],
        partition_of: NDArray[np.int64],
        time: NDArray[np.int64],
        *,
        flush: bool,
    ) -> list[Step]:
        is_ad = np.array([buffer.domain == AD for buffer in buffers], dtype=bool)[partition_of]
        ad_at, natural_at = np.flatnonzero(is_ad), np.flatnonzero(~is_ad)
        steps: list[Step] = []
        ads_done = natural_done = 0
        natural_rows, ad_rows = self.batch_rows

        def take(at: NDArray[np.int64]) -> int:
            step, taken = self._take(buffers, partition_of[at])
            steps.append(step)
            return taken

        def emit_ads(until: int, *, partial: bool) -> None:
            nonlocal ads_done
            while ads_done < until and (partial or until - ads_done >= ad_rows):
                ads_done += take(ad_at[ads_done : min(ads_done + ad_rows, until)])

        while natural_done + natural_rows <= len(natural_at):
            last = natural_at[natural_done + natural_rows - 1]
            emit_ads(int(np.searchsorted(ad_at, last)), partial=True)
            natural_done += take(natural_at[natural_done : natural_done + natural_rows])
        emit_ads(len(ad_at), partial=flush)
        if flush and natural_done < len(natural_at):
            take(natural_at[natural_done:])
        if len(time):
            taken = np.concatenate(
                [ad_at[:ads_done], natural_at[: len(natural_at) if flush else natural_done]]
            )
            if len(taken):
                self.clock = max(self.clock, int(time[taken].max()))
        return steps

    def _take(self, buffers: Sequence[PartitionBuffer], partition_of: NDArray[np.int64]) -> tuple[Step, int]:
        """Take the next rows of each partition, as many as ``partition_of`` contains its number, and make one step of them.

        Returns the step and its number of rows. The step also has the rows that must not be separated from these; they follow directly
        in the merged order (equal times, one partition).
        """
        slices: list[Batch] = []
        parts: list[Part] = []
        total = 0
        counts = np.bincount(partition_of, minlength=len(buffers))
        for buffer, wanted in zip(buffers, counts.tolist(), strict=True):
            if not wanted:
                continue
            first = buffer.next_out
            taken = move_rows(buffer, wanted, slices)
            total += taken
            parts.append(Part(buffer.topic, buffer.partition, first, buffer.next_out))
        batch = Batch.concat(slices, parts)
        return Step.from_batch(batch), total

    def _empty_ranges(self, buffers: Iterable[PartitionBuffer]) -> list[Step]:
        """Steps without rows, for offset ranges that contain no valid event (rejected records, gaps)."""
        steps = []
        for buffer in buffers:
            if buffer.rows or not buffer.segments:
                continue
            chunk = buffer.segments[-1].chunk
            part = Part(buffer.topic, buffer.partition, buffer.next_out, buffer.next_in)
            buffer.segments.clear()
            buffer.next_out = buffer.next_in
            empty = chunk.batch.take(slice(0, 0)).with_parts([part])
            steps.append(Step(StepKind.from_domain(buffer.domain), empty, self.clock))
        return steps
