"""``KafkaSource``: the click topics as a log to replay, by offsets, in event order across partitions and topics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import polars as pl

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka import KafkaLog
from ecdctr.events.records import RecordReject
from ecdctr.events.time import duration_ms
from ecdctr.replay.sources.decoded_rows import DecodedRows
from ecdctr.replay.sources.merge import EventOrder, Stream
from ecdctr.replay.sources.rejects import Rejects
from ecdctr.state.errors import DataError

__all__ = ["KafkaSource", "parse_offsets"]

Key = tuple[str, int]
TAIL_RECORDS = 10_000


class KafkaSource:
    """Both click topics, merged by the events' own time.

    The broker's time is not used: it is the time at which a record was appended, which for a replayed or delayed event may be
    another day. So the whole range of offsets is read, and rows are selected by their ``ts`` afterwards.

    Parameters
    ----------
    log
        Reads partitions by offset.
    window
        How far behind the youngest row of its partition a row may be and still be put in order, as "10m". Later rows are
        yielded as they come, and counted in ``stragglers``.
    offsets
        Only these ranges: ``"ad-clicks/0:100-2000;ad-clicks/1:0-"``. Default: everything that the log holds.

    Attributes
    ----------
    first, end
        Offset range of each partition, clamped to what the log holds.
    clamped
        The requested ranges that the log no longer holds completely, one line each.
    """

    def __init__(self, log: KafkaLog, *, window: str = "10m", offsets: str | None = None) -> None:
        self.log, self.window_ms = log, duration_ms(window)
        self.rejects = Rejects()
        self.clamped: list[str] = []
        self._order = EventOrder(self.window_ms)
        keys = log.partitions()
        self.first, self.end = log.beginning(keys), log.end(keys)
        if offsets is not None:
            self._choose(parse_offsets(offsets))

    @property
    def name(self) -> str:
        """Its name in reports."""
        return f"Kafka topics {', '.join(sorted(self.log.topics))}"

    @property
    def decoder(self) -> EventDecoder:
        return self.log.decoder

    @property
    def stragglers(self) -> int:
        return self._order.stragglers

    def restrict(self, first: Mapping[Key, int], end: Mapping[Key, int]) -> None:
        """Read exactly these ranges from now on: those of the replay to be resumed."""
        self._choose({key: (first[key], end[key]) for key in end})
        if self.clamped:
            raise DataError(
                f"{self.name} no longer holds the offsets with which the replay started: {self.clamped[0]}"
            )

    def count(self) -> int:
        """Offsets in the ranges; packed messages hold several rows each."""
        return sum(max(0, self.end[key] - self.first[key]) for key in self.end)

    def newest(self) -> int | None:
        """Youngest event time among the last 10,000 records of each partition, ms."""
        tail = {key: max(self.first[key], end - TAIL_RECORDS) for key, end in self.end.items()}
        dead, self.log.on_reject = self.log.dead_rows, None
        found = [int(c.batch.ts.max()) for c in self.log.chunks(tail, self.end) if len(c.batch)]
        self.log.dead_rows = dead
        return max(found, default=None)

    def batches(self) -> Iterator[Batch]:
        """Rows by ``ts``, then topic, partition and offset."""
        self._order = EventOrder(self.window_ms)
        self.rejects.clear()
        rows = DecodedRows()
        self.log.on_reject = self._note
        begin = -(2**62)  # the first time of a partition is unknown: all are opened at once
        streams = [Stream(begin, lambda k=key: self._places(rows, k)) for key in sorted(self.end)]  # type: ignore[misc]
        for frame in self._order.merge(streams):
            self.rejects.accepted += len(frame)
            yield rows.take(frame)

    def _note(self, topic: str, partition: int, reject: RecordReject) -> None:
        row = "" if reject.row is None else f", row {reject.row}"
        self.rejects.note(
            reject.reason,
            reject.detail,
            f"{topic}/{partition}, offset {reject.record.offset}{row}",
            reject.rows,
        )

    def _places(self, rows: DecodedRows, key: Key) -> Iterator[pl.DataFrame]:
        for chunk in self.log.chunks({key: self.first[key]}, {key: self.end[key]}):
            if len(chunk.batch):
                yield rows.put(chunk.batch)

    def _choose(self, wanted: Mapping[Key, tuple[int, int | None]]) -> None:
        known = ", ".join(f"{t}/{p}" for t, p in sorted(self.end))
        first, end = {}, {}
        for key, (low, high) in wanted.items():
            if key not in self.end:
                raise DataError(f"offsets: there is no partition {key[0]}/{key[1]}; there are {known}")
            least, most = self.first[key], self.end[key]
            high = most if high is None else high
            first[key], end[key] = min(max(low, least), most), min(max(high, least), most)
            if (first[key], end[key]) != (low, high):
                wanted_range, held = f"{low} to {high}", f"{least} to {most}"
                self.clamped.append(f"{key[0]}/{key[1]}: requested {wanted_range}, the log holds {held}")
        self.first, self.end = first, end


def parse_offsets(text: str) -> dict[Key, tuple[int, int | None]]:
    """Parse offset ranges; the end is exclusive, None means everything.

    >>> parse_offsets("ad-clicks/0:100-2000;ad-clicks/1:5-")
    {('ad-clicks', 0): (100, 2000), ('ad-clicks', 1): (5, None)}
    """
    out: dict[Key, tuple[int, int | None]] = {}
    for part in filter(None, text.split(";")):
        found = re.fullmatch(r"([\w.-]+)/(\d+):(\d+)-(\d*)", part.strip())
        if not found:
            raise DataError(
                f"offsets: {part!r} is not of the form topic/partition:first-end, as ad-clicks/0:100-2000"
            )
        out[(found[1], int(found[2]))] = (int(found[3]), int(found[4]) if found[4] else None)
    return out
