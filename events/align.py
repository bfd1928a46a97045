"""Event-time alignment: rows of many partitions become one ordered sequence of steps.

Without it, the sparse ad topic would be read days ahead of the natural one on a backlog, and models would learn from the future.
Live training and replay use the same class, so both cut the same log into the same steps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.step import Step, StepKind
from ecdctr.state.positions import Part

__all__ = ["Aligner", "Chunk"]

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Decoded rows of one partition: offsets ``first <= o < end`` were read, row ``i`` comes from ``offset[i]``.

    Several rows may share an offset (packed message); an offset may have no row (dead letter).
    """

    topic: str
    partition: int
    first: int
    end: int
    offset: NDArray[np.int64]
    batch: Batch


@dataclass(slots=True)
class _Segment:
    """A chunk in a partition's buffer, with the merge times of its rows; ``start`` is the first row that was not cut yet.

    ``opens[i]`` is False where row ``i`` belongs to the same moment as the row before it, and must not be separated from it.
    """

    chunk: Chunk
    time: NDArray[np.int64]
    opens: NDArray[np.bool_]
    arrived: float
    start: int = 0


@dataclass(slots=True)
class _Lane:
    """The buffer of one partition."""

    topic: str
    partition: int
    domain: int
    next_in: int
    next_out: int
    added_at: float
    segments: deque[_Segment] = field(default_factory=deque)
    rows: int = 0
    last_time: int = -(2**62)
    last_ts: int = -(2**62)
    end: int | None = None
    closed: bool = False

    def times(self) -> NDArray[np.int64]:
        """Merge times of the buffered rows."""
        return (
            np.concatenate([s.time[s.start :] for s in self.segments])
            if self.segments
            else np.empty(0, np.int64)
        )


class Aligner:
    """Merges partitions by event time and cuts the merged sequence into steps.

    The steps depend on the merged sequence alone, never on the arrival of rows:

    1. Rows are ordered by (merge time, topic, partition, offset). The merge time of a row is the running maximum of ``ts`` over
       its partition; all rows of a packed message have the largest of the message. Adjacent rows of one partition with the same
       ``ts`` (for example an impression list) and rows of one message are never separated: their labels became known together.
    2. When ``natural_batch`` natural rows are there, the ad rows before the last of them become ad steps, and then the natural
       rows become one step. So no ad row is predicted by a model that learned from later natural rows.
    3. ``ad_batch`` ad rows become a step at once.

    A row can be cut when no partition can deliver an earlier one any more. An empty partition is waited for: up to
    ``max_behind_s`` while the log is known to hold more of it, otherwise up to ``max_idle_s``. Then the other partitions continue; its
    later rows are counted as late, and are still learned. Rows that waited for ``max_wait_s`` do not wait for a full batch.

    Parameters
    ----------
    lanes
        ``{(topic, partition): domain}``.
    positions
        Next offset of each partition; 0 where absent.
    natural_batch, ad_batch
        Rows of a full step.
    max_idle_s, max_wait_s
        Wall seconds; ``inf`` (offline): no limit.
    max_behind_s
        How long a partition of which the log holds more may deliver nothing (leader election, assigned to another member of the
        group, transaction markers at the end of the log) before the other partitions continue.
    buffer_rows
        Rows at which the caller stops fetching a partition. A full partition does not count as idle.
    now
        The caller's monotonic clock, in seconds; the class reads no clock itself.

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
    >>> [(s.kind.value, s.batch.ts.tolist()) for s in a.cut(final=True)]
    [('ad', [15]), ('natural', [10, 20]), ('ad', [35]), ('natural', [30, 40])]
    """

    def __init__(
        self,
        lanes: Mapping[Key, int],
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
        self.clock = -(2**62)
        self.late_rows = 0
        self._lanes: dict[Key, _Lane] = {}
        for (topic, partition), domain in sorted(lanes.items()):
            self.open_lane(topic, partition, domain, (positions or {}).get((topic, partition), 0), now)

    # -- input

    def open_lane(self, topic: str, partition: int, domain: int, position: int, now: float = 0.0) -> None:
        """Add a partition, which is merged from ``position`` on."""
        self._lanes[(topic, partition)] = _Lane(topic, partition, domain, position, position, now)
        self._lanes = dict(sorted(self._lanes.items()))

    def add(self, chunk: Chunk, now: float = 0.0) -> None:
        """Buffer decoded rows.

        Raises
        ------
        ValueError
            The chunk does not begin where the previous one of its partition ended.
        """
        lane = self._lanes[(chunk.topic, chunk.partition)]
        if chunk.first != lane.next_in:
            raise ValueError(
                f"{chunk.topic}[{chunk.partition}]: rows from offset {chunk.first} were added, {lane.next_in} expected"
            )
        lane.next_in = chunk.end
        lane.added_at = now
        ts = chunk.batch.ts
        if len(ts):
            self.late_rows += int((ts < self.clock).sum())
            time = np.maximum(np.maximum.accumulate(ts), lane.last_time)
            # Rows of one message stay together: all have the last, largest merge time of the message.
            last_of_offset = np.searchsorted(chunk.offset, chunk.offset, side="right") - 1
            time = time[last_of_offset]
            opens = self._opens(lane, chunk, time)
            lane.last_ts = int(ts[-1])
            lane.last_time = int(time[-1])
            lane.rows += len(ts)
        else:
            time, opens = np.empty(0, np.int64), np.empty(0, np.bool_)
        lane.segments.append(_Segment(chunk, time, opens, now))

    @staticmethod
    def _opens(lane: _Lane, chunk: Chunk, time: NDArray[np.int64]) -> NDArray[np.bool_]:
        ts = chunk.batch.ts
        before_ts, before_time = (
            np.concatenate([[lane.last_ts], ts[:-1]]),
            np.concatenate([[lane.last_time], time[:-1]]),
        )
        before_offset = np.concatenate([[-1], chunk.offset[:-1]])
        together = (chunk.offset == before_offset) | ((ts == before_ts) & (time == before_time))
        return np.asarray(~together)

    def set_end(self, topic: str, partition: int, end: int) -> None:
        """Record that the log holds offsets up to ``end`` of this partition."""
        self._lanes[(topic, partition)].end = end

    def advance(self, time: int) -> None:
        """Declare that no partition will deliver a row with ``ts < time`` (sources that are globally ordered)."""
        for lane in self._lanes.values():
            lane.last_time = max(lane.last_time, time)

    def close(self, topic: str, partition: int) -> None:
        """Declare that this partition delivers no more rows: it is not waited for."""
        self._lanes[(topic, partition)].closed = True

    # -- state

    def position(self, topic: str, partition: int) -> int | None:
        """Next offset to add; None for a partition that was not opened."""
        lane = self._lanes.get((topic, partition))
        return None if lane is None else lane.next_in

    def buffered(self, topic: str, partition: int) -> int:
        """Rows in the buffer of one partition."""
        return self._lanes[(topic, partition)].rows

    def lag(self, topic: str, learned: Mapping[Key, int]) -> int:
        """Offsets between the ``learned`` positions and the known ends of a topic's partitions."""
        return sum(
            max(0, max(lane.end or 0, lane.next_in) - learned.get(key, 0))
            for key, lane in self._lanes.items()
            if lane.topic == topic
        )

    @property
    def buffered_rows(self) -> int:
        """Rows in all buffers."""
        return sum(lane.rows for lane in self._lanes.values())

    # -- output

    def cut(self, now: float = 0.0, *, final: bool = False) -> list[Step]:
        """Return every step that can be cut at ``now``, in order; ``final`` empties the buffers."""
        watermark = math.inf if final else self._watermark(now)
        lanes = list(self._lanes.values())
        times, counts = [], []
        for lane in lanes:
            t = lane.times()
            safe = len(t) if watermark == math.inf else int(np.searchsorted(t, watermark, side="left"))
            times.append(t[:safe])
            counts.append(safe)
        natural = sum(c for c, lane in zip(counts, lanes, strict=True) if lane.domain == NATURAL)
        full = natural >= self.batch_rows[NATURAL] or sum(counts) - natural >= self.batch_rows[AD]
        # On a backlog rows wait long in any case: the waiting time matters only where no batch is full.
        overdue = final or (not full and self._overdue(now, counts))
        if not overdue and not full:
            return []
        order_lane, order_time = self._merge(lanes, times, counts)
        steps = self._cut_merged(lanes, order_lane, order_time, flush=overdue)
        if overdue:
            steps += self._empty_ranges(lanes)
        return steps

    def _watermark(self, now: float) -> float:
        bound = math.inf
        for lane in self._lanes.values():
            behind = lane.end is not None and lane.next_in < lane.end
            timeout = self.max_behind_s if behind else self.max_idle_s
            idle = lane.rows < self.buffer_rows and now - lane.added_at > timeout
            if lane.closed or idle:
                continue
            bound = min(bound, lane.last_time)
        return bound

    def _overdue(self, now: float, counts: Sequence[int]) -> bool:
        return any(
            (count or not lane.rows) and lane.segments and now - lane.segments[0].arrived > self.max_wait_s
            for lane, count in zip(self._lanes.values(), counts, strict=True)
        )

    @staticmethod
    def _merge(
        lanes: Sequence[_Lane], times: Sequence[NDArray[np.int64]], counts: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        lane_of = np.repeat(np.arange(len(lanes)), counts)
        time = np.concatenate(times) if times else np.empty(0, np.int64)
        # Stable: lanes are concatenated in (topic, partition) order and each is in offset order.
        order = np.argsort(time, kind="stable")
        return lane_of[order], time[order]

    def _cut_merged(
        self, lanes: Sequence[_Lane], lane_of: NDArray[np.int64], time: NDArray[np.int64], *, flush: bool
    ) -> list[Step]:
        is_ad = np.array([lane.domain == AD for lane in lanes], dtype=bool)[lane_of]
        ad_at, natural_at = np.flatnonzero(is_ad), np.flatnonzero(~is_ad)
        steps: list[Step] = []
        ads_done = natural_done = 0
        natural_rows, ad_rows = self.batch_rows

        def emit(at: NDArray[np.int64]) -> int:
            step, taken = self._take(lanes, lane_of[at])
            steps.append(step)
            return taken

        def emit_ads(until: int, *, partial: bool) -> None:
            nonlocal ads_done
            while ads_done < until and (partial or until - ads_done >= ad_rows):
                ads_done += emit(ad_at[ads_done : min(ads_done + ad_rows, until)])

        while natural_done + natural_rows <= len(natural_at):
            last = natural_at[natural_done + natural_rows - 1]
            emit_ads(int(np.searchsorted(ad_at, last)), partial=True)
            natural_done += emit(natural_at[natural_done : natural_done + natural_rows])
        emit_ads(len(ad_at), partial=flush)
        if flush and natural_done < len(natural_at):
            emit(natural_at[natural_done:])
        if len(time):
            taken = np.concatenate(
                [ad_at[:ads_done], natural_at[: len(natural_at) if flush else natural_done]]
            )
            if len(taken):
                self.clock = max(self.clock, int(time[taken].max()))
        return steps

    def _take(self, lanes: Sequence[_Lane], lane_of: NDArray[np.int64]) -> tuple[Step, int]:
        """Cut the next rows of each lane, as many as its number occurs in ``lane_of``; whole moments only.

        Returns the step and its number of rows. It includes rows of the same moment as the last row, which are the next ones in
        merged order (equal times, one lane).
        """
        slices: list[Batch] = []
        parts: list[Part] = []
        total = 0
        counts = np.bincount(lane_of, minlength=len(lanes))
        for lane, wanted in zip(lanes, counts.tolist(), strict=True):
            if not wanted:
                continue
            first = lane.next_out
            taken = _cut_rows(lane, wanted, slices)
            total += taken
            parts.append(Part(lane.topic, lane.partition, first, lane.next_out))
        batch = Batch.concat(slices, parts)
        return Step.from_batch(batch), total

    def _empty_ranges(self, lanes: Iterable[_Lane]) -> list[Step]:
        """Steps without rows, which cover offsets that have none (only dead letters)."""
        steps = []
        for lane in lanes:
            if lane.rows or not lane.segments:
                continue
            chunk = lane.segments[-1].chunk
            part = Part(lane.topic, lane.partition, lane.next_out, lane.next_in)
            lane.segments.clear()
            lane.next_out = lane.next_in
            empty = chunk.batch.take(slice(0, 0)).with_parts([part])
            steps.append(Step(StepKind.from_domain(lane.domain), empty, self.clock))
        return steps


def _cut_rows(lane: _Lane, wanted: int, out: list[Batch]) -> int:
    """Move ``wanted`` rows, and further ones of the same moment, from the lane's buffer to ``out``; return their number."""
    taken = 0
    while lane.segments:
        segment = lane.segments[0]
        chunk, start, n = segment.chunk, segment.start, len(segment.chunk.batch)
        stop = min(n, start + max(0, wanted - taken))
        # When ``wanted`` rows are taken, only rows that do not begin another moment are added.
        following = segment.opens[stop:]
        stop = n if not following.any() else stop + int(following.argmax())
        if n and stop == start:
            break
        if stop > start:
            out.append(chunk.batch.take(slice(start, stop)))
            taken += stop - start
        if stop < n:
            segment.start = stop
            lane.next_out = int(chunk.offset[stop - 1]) + 1
            break
        if not n and taken >= wanted and not _moment_continues(lane):
            break
        lane.segments.popleft()
        lane.next_out = chunk.end
    lane.rows -= taken
    return taken


def _moment_continues(lane: _Lane) -> bool:
    """Whether the lane's next row, after chunks without rows, belongs to the moment of the last row taken."""
    following = next((s for s in lane.segments if len(s.opens)), None)
    return following is not None and not following.opens[following.start]
