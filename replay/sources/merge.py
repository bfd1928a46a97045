"""``EventOrder``: the rows of many files merged by time, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

__all__ = ["EventOrder", "Stream"]

_TIME, _FROM = "\x00time", "\x00from"


@dataclass(frozen=True, slots=True)
class Stream:
    """One file: the time of its first row (ms), and how to read it. It is opened when the merge reaches that time."""

    start: int
    open: Callable[[], Iterator[pl.DataFrame]]


@dataclass(slots=True)
class _Open:
    number: int
    chunks: Iterator[pl.DataFrame]
    high: int


class EventOrder:
    """Merges frames by their column ``ts``, and reorders rows that are out of order by less than a window.

    1. Read the next chunk of the open file whose youngest row is oldest. A file that starts before that time is opened
       first.
    2. Yield the rows older than this time minus the window, sorted by time, then file, then position in the file. So
       rows with equal time in one file stay together, however the file is split into chunks.
    3. A row that is older than rows that were already yielded is a straggler: it is counted, and yielded next.

    A row without a time takes the time of the row before it in its file.

    Parameters
    ----------
    window_ms
        How far behind the youngest row of its file a row may be, in event time.
    frame_rows
        Most rows of a frame; the buffer is sorted when it has this many new rows.

    Attributes
    ----------
    stragglers
        Number of stragglers so far.

    Examples
    --------
    >>> def stream(*ts):
    ...     return Stream(ts[0], lambda: iter([pl.DataFrame({"ts": [t]}) for t in ts]))
    >>> order = EventOrder(window_ms=10)
    >>> pl.concat(order.merge([stream(1, 9, 5, 40), stream(6, 41)]))["ts"].to_list()
    [1, 5, 6, 9, 40, 41]
    """

    def __init__(self, window_ms: int, frame_rows: int = 65_536) -> None:
        self.window_ms, self.frame_rows = window_ms, frame_rows
        self.stragglers = 0
        self._buffer: list[pl.DataFrame] = []
        self._rows = self._remaining = 0
        self._yielded = -(2**62)

    def merge(self, streams: Sequence[Stream]) -> Iterator[pl.DataFrame]:
        """The rows of all streams, in frames of at most ``frame_rows``."""
        waiting = sorted(enumerate(streams), key=lambda s: (s[1].start, s[0]), reverse=True)
        reading: list[_Open] = []
        while waiting or reading:
            behind = min(reading, key=lambda s: (s.high, s.number), default=None)
            if waiting and (behind is None or waiting[-1][1].start <= behind.high):
                number, stream = waiting.pop()
                reading.append(_Open(number, stream.open(), stream.start))
                continue
            assert behind is not None
            chunk = next(behind.chunks, None)
            if chunk is None:
                reading.remove(behind)
            else:
                self._take(behind, chunk)
            if self._rows - self._remaining >= max(self.frame_rows, self._remaining):
                points = [s.high for s in reading] + [s.start for _, s in waiting]
                yield from self._yield_until(min(points, default=2**62) - self.window_ms)
        yield from self._yield_until(2**62)

    def _take(self, stream: _Open, chunk: pl.DataFrame) -> None:
        if not chunk.height:
            return
        time = chunk["ts"].forward_fill().fill_null(stream.high)
        stream.high = max(stream.high, int(time.max()))  # type: ignore[arg-type]
        self.stragglers += int((time < self._yielded).sum())
        extra = [time.alias(_TIME), pl.lit(stream.number, pl.UInt32).alias(_FROM)]
        self._buffer.append(chunk.with_columns(extra))
        self._rows += chunk.height

    def _yield_until(self, until: int) -> Iterator[pl.DataFrame]:
        """Yield the rows with time < ``until``; the others stay in the buffer."""
        if not self._buffer:
            return
        rows = pl.concat(self._buffer, how="diagonal_relaxed")
        # Usually there is one sorted file, and the test is cheaper than sorting.
        if rows[_FROM].n_unique() > 1 or not rows[_TIME].is_sorted():
            rows = rows.sort(_TIME, _FROM, maintain_order=True)
        ready = int(rows[_TIME].search_sorted(until, side="left"))
        self._buffer = [rows[ready:]] if ready < rows.height else []
        self._rows = self._remaining = rows.height - ready
        self._yielded = max(self._yielded, until)
        yield from rows[:ready].drop(_TIME, _FROM).iter_slices(self.frame_rows)
