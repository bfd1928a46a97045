"""Rows of a log as batches in event order, and which of them a replay takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from ecdctr.events.align import Aligner, Chunk
from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.step import Step
from ecdctr.replay.sources.registry import Source
from ecdctr.state.hashing import mix64

__all__ = ["ADS", "Log", "RowFilter", "SourceLog", "one_ahead", "steps_of"]

T = TypeVar("T")

# Lanes of rows that stand in event order already: one a domain, offsets are row numbers.
ADS = ("ad", 0)
LANES = {("natural", 0): NATURAL, ADS: AD}

_SALT = np.uint64(0x5D3F7A1BC94E6082)
"""So that the users taken have nothing to do with those whose natural rows are scored, nor with any bucket."""


class Log(Protocol):
    """A log whose rows come in event order, as encoded batches.

    Attributes
    ----------
    rejects
        Rows left out so far, by reason.
    """

    rejects: Counter[str]

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    @property
    def decoder(self) -> EventDecoder:
        """What its events go through."""
        ...

    @property
    def stragglers(self) -> int:
        """Rows given out so far that came further behind than the log's window."""
        ...

    def batches(self) -> Iterator[Batch]:
        """Rows by ``ts``, both domains mixed; may be asked for again, and counts anew."""
        ...

    def count(self) -> int | None:
        """Rows of :meth:`batches`, None if only reading tells."""
        ...

    def newest(self) -> int | None:
        """Event time (ms) of the youngest row; None for a log without rows."""
        ...


class SourceLog:
    """A source of event frames as a log.

    Parameters
    ----------
    source
        Files, a data set, the simulator.
    decoder
        Knows the features.
    """

    def __init__(self, source: Source, decoder: EventDecoder) -> None:
        self.source, self.decoder = source, decoder
        self.rejects: Counter[str] = Counter()

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def stragglers(self) -> int:
        return int(getattr(self.source, "stragglers", 0))

    def batches(self) -> Iterator[Batch]:
        self.rejects.clear()
        for frame in one_ahead(self.source.frames()):
            decoded = self.decoder.from_frame(frame)
            self.rejects.update(r.reason for r in decoded.rejects)
            if len(decoded.batch):
                yield decoded.batch

    def count(self) -> int | None:
        return self.source.count()

    def newest(self) -> int | None:
        """Reads the whole log once."""
        return max((int(batch.ts.max()) for batch in self.batches()), default=None)


def one_ahead(frames: Iterator[T]) -> Iterator[T]:
    """The same items; the next one is read in a thread while the current one is worked on.

    Only reading goes there: it holds the interpreter's lock for moments, while decoding in a second thread would stop
    every operation of the training loop.

    Examples
    --------
    >>> list(one_ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        try:
            coming = pool.submit(_next, frames)
            while (item := coming.result()) is not None:
                coming = pool.submit(_next, frames)
                yield item[0]
        finally:
            pool.shutdown(wait=True)
            if isinstance(frames, Generator):
                frames.close()


def _next(frames: Iterator[T]) -> tuple[T] | None:
    for frame in frames:
        return (frame,)
    return None


@dataclass(frozen=True)
class RowFilter:
    """Which rows of a log are played.

    Attributes
    ----------
    from_ms, until_ms
        ``from_ms <= ts < until_ms``, by the rows' own event time.
    users
        Share of users that are taken, by a hash of the user's id: all rows of a user or none, the same
        users in every log.

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
        return self.from_ms is None and self.until_ms is None and self.users >= 1.0

    def apply(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The rows that are taken; ends at the first batch that reaches ``until_ms``."""
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
            kept = batch if keep.all() else batch.take(keep)
            if len(kept):
                yield kept
            if past:
                return  # rows come in event order


def steps_of(batches: Iterable[Batch], *, natural_batch: int, ad_batch: int) -> Iterator[Step]:
    """Steps of rows that come in event order; ``parts`` are row numbers, counted apart for each domain."""
    aligner = Aligner(LANES, natural_batch=natural_batch, ad_batch=ad_batch)
    position = dict.fromkeys(LANES, 0)
    for batch in batches:
        for key, domain in LANES.items():
            rows = np.flatnonzero(batch.domain == domain)
            if len(rows):
                first = position[key]
                offsets = np.arange(first, first + len(rows), dtype=np.int64)
                position[key] += len(rows)
                aligner.add(Chunk(*key, first, position[key], offsets, batch.take(rows)))
        aligner.advance(int(batch.ts.max()))
        yield from aligner.cut()
    yield from aligner.cut(final=True)
