"""Rows of many files in one order of time, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

__all__ = ["EventOrder", "Stream"]

_TIME, _FROM = "\x00time", "\x00from"


@dataclass(frozen=True, slots=True)
class Stream:
    """One file: the time of its first row (ms), and how to read it. A file is opened when its time comes."""

    start: int
    open: Callable[[], Iterator[pl.DataFrame]]


@dataclass(slots=True)
class _Open:
    number: int
    chunks: Iterator[pl.DataFrame]
    high: int


class EventOrder:
    """Merges frames by their column ``ts``, setting right what is out of order by less than a window.

    1. Of the files that are open, the one that has come least far is read on; a file that begins before that
       point is opened first.
    2. Rows older than the least far point minus the window are given out, sorted by time, then file, then
       place in the file. So rows of one moment in one file stay together, whatever the chunks.
    3. A row that comes after its time was given out is a straggler: it is counted, and given out next.

    A row without a time takes that of the row before it in its file.

    Parameters
    ----------
    window_ms
        How far back, in event time, a row may lie behind the youngest of its file.
    frame_rows
        Rows of a frame at most; sorting begins when so many new ones are there.

    Attributes
    ----------
    stragglers
        Rows given out too late so far.

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
        self._rows = self._kept = 0
        self._given = -(2**62)

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
            if self._rows - self._kept >= max(self.frame_rows, self._kept):
                points = [s.high for s in reading] + [s.start for _, s in waiting]
                yield from self._give(min(points, default=2**62) - self.window_ms)
        yield from self._give(2**62)

    def _take(self, stream: _Open, chunk: pl.DataFrame) -> None:
        if not chunk.height:
            return
        time = chunk["ts"].forward_fill().fill_null(stream.high)
        stream.high = max(stream.high, int(time.max()))  # type: ignore[arg-type]
        self.stragglers += int((time < self._given).sum())
        extra = [time.alias(_TIME), pl.lit(stream.number, pl.UInt32).alias(_FROM)]
        self._buffer.append(chunk.with_columns(extra))
        self._rows += chunk.height

    def _give(self, until: int) -> Iterator[pl.DataFrame]:
        """Hand out the rows with time < ``until``; the rest stays."""
        if not self._buffer:
            return
        rows = pl.concat(self._buffer, how="diagonal_relaxed")
        # One sorted file is the usual case, and looking is cheaper than sorting.
        if rows[_FROM].n_unique() > 1 or not rows[_TIME].is_sorted():
            rows = rows.sort(_TIME, _FROM, maintain_order=True)
        ready = int(rows[_TIME].search_sorted(until, side="left"))
        self._buffer = [rows[ready:]] if ready < rows.height else []
        self._rows = self._kept = rows.height - ready
        self._given = max(self._given, until)
        yield from rows[:ready].drop(_TIME, _FROM).iter_slices(self.frame_rows)
