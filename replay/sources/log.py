"""``Log``: rows in event order as encoded batches; ``SourceLog``: a source of event frames as a log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.replay.sources.read_ahead import read_ahead
from ecdctr.replay.sources.registry import Source
from ecdctr.replay.sources.rejects import Rejects

__all__ = ["Log", "SourceLog"]


class Log(Protocol):
    """A log that yields its rows in event order, as encoded batches.

    Attributes
    ----------
    rejects
        Rows rejected so far, by reason.
    """

    rejects: Rejects

    @property
    def name(self) -> str:
        """Its name in reports."""
        ...

    @property
    def decoder(self) -> EventDecoder:
        """The decoder of its events."""
        ...

    @property
    def stragglers(self) -> int:
        """Rows yielded so far that came later than the log's window allows."""
        ...

    def batches(self) -> Iterator[Batch]:
        """Rows by ``ts``, both domains mixed. May be called again; ``rejects`` and ``stragglers`` then start at 0."""
        ...

    def count(self) -> int | None:
        """Number of rows of :meth:`batches`; None if it is unknown before reading."""
        ...

    def newest(self) -> int | None:
        """Event time (ms) of the youngest row; None for a log without rows."""
        ...


class SourceLog:
    """A source of event frames as a log.

    Parameters
    ----------
    source
        Event files, a data set, or the simulator. A source with a method ``batches(decoder, rejects)`` decodes its rows itself.
    decoder
        Decoder for the configured features.
    """

    def __init__(self, source: Source, decoder: EventDecoder) -> None:
        self.source, self.decoder = source, decoder
        self.rejects = Rejects()

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def stragglers(self) -> int:
        return int(getattr(self.source, "stragglers", 0))

    def batches(self) -> Iterator[Batch]:
        self.rejects.clear()
        read = getattr(self.source, "batches", None)
        if read is not None:
            for batch in read(self.decoder, self.rejects):
                self.rejects.accepted += len(batch)
                yield batch
            return
        first = 1
        for frame in read_ahead(self.source.frames()):
            decoded = self.decoder.from_frame(frame)
            for reject in decoded.rejects:
                where = f"{self.name}, row {first + reject.index}"
                self.rejects.note(reject.reason, reject.detail, where, reject.rows)
            first += len(frame)
            if len(decoded.batch):
                self.rejects.accepted += len(decoded.batch)
                yield decoded.batch

    def count(self) -> int | None:
        return self.source.count()

    def newest(self) -> int | None:
        """Reads the whole log once."""
        return max((int(batch.ts.max()) for batch in self.batches()), default=None)
