"""Event times that are far ahead of the time at which their record was written: one clock that is wrong must not move the log's time.

Months, releases, windows and alignment follow the latest event time, which only moves forward. An event dated 2099 would stop them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.align import Chunk
from ecdctr.events.records import KafkaRecord, RecordReject, RowsOfRecords
from ecdctr.state.positions import Part

__all__ = ["NO_DECISIONS", "TimeDecisions", "TimeRule", "written_at"]

UNKNOWN_BEFORE_MS = 946_684_800_000
"""A record time before the year 2000 is no time: -1 (none was given), 0, or a producer without a clock."""
_LOG_APPEND_TIME = 1
_NEVER = np.iinfo(np.int64).max

Ranges = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class TimeDecisions:
    """How the rows of a step's offset ranges were bounded, as the journal records it. A redo does not decide anew.

    Attributes
    ----------
    max_ahead_ms
        Rows later than the time of their record plus this were refused; None: none were.
    refused
        Ranges of offsets ``first <= offset < end`` of records that were refused as a whole, by partition.
    """

    max_ahead_ms: int | None = None
    refused: Mapping[tuple[str, int], Ranges] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; ``{}`` if nothing was bounded.

        >>> TimeDecisions(5, {("ads", 0): [(3, 4)]}).to_json()
        {'ahead': 5, 'refused': {'ads': {'0': [[3, 4]]}}}
        """
        out: dict[str, Any] = {}
        if self.max_ahead_ms is not None:
            out["ahead"] = self.max_ahead_ms
        for (topic, partition), ranges in sorted((self.refused or {}).items()):
            out.setdefault("refused", {}).setdefault(topic, {})[str(partition)] = [list(r) for r in ranges]
        return out

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> TimeDecisions:
        """Inverse of :meth:`to_json`; None, as in the journal of an older version: nothing was bounded."""
        content = content or {}
        refused = {
            (topic, int(partition)): [(int(first), int(end)) for first, end in ranges]
            for topic, partitions in content.get("refused", {}).items()
            for partition, ranges in partitions.items()
        }
        return cls(content.get("ahead"), refused)

    def keep(
        self,
        key: tuple[str, int],
        ts: NDArray[np.int64],
        offset: NDArray[np.int64],
        written: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Which rows were accepted, ``(n,)``.

        Parameters
        ----------
        key
            Topic and partition.
        ts, offset, written
            Event time, offset, and time of the record (ms) of each row.
        """
        kept = np.ones(len(ts), np.bool_)
        if self.max_ahead_ms is not None:
            kept &= ts <= _bound(written, self.max_ahead_ms)
        for first, end in (self.refused or {}).get(key, ()):
            kept &= (offset < first) | (offset >= end)
        return kept


NO_DECISIONS = TimeDecisions()


class TimeRule:
    """Refuses rows whose event time is implausible, when their records are first read.

    1. A row more than ``max_ahead_ms`` later than the time of its own record is refused. This depends on the record alone.
    2. The time of a record may itself be wrong: with ``message.timestamp.type=CreateTime``, the default, it is the producer's. A record
       with such a time of more than ``max_ahead_ms`` after the wall clock is refused as a whole.
    3. So is a record without a time (before the year 2000) if a row of it is more than ``max_ahead_ms`` after the wall clock.

    What 2 and 3 refused is journaled with the step (:class:`TimeDecisions`), because the wall clock would decide otherwise later.
    With ``LogAppendTime`` the broker's clock decides, and they do not apply.

    Parameters
    ----------
    max_ahead_ms
        None: nothing is refused.
    wall_ms
        The wall clock, ms since the epoch.
    """

    def __init__(
        self, max_ahead_ms: int | None, wall_ms: Callable[[], float] = lambda: time.time() * 1000
    ) -> None:
        self.max_ahead_ms, self._wall_ms = max_ahead_ms, wall_ms
        self._lock = threading.Lock()
        self._refused: dict[tuple[str, int], list[int]] = {}

    def remember(self, topic: str, partition: int, refused: NDArray[np.int64]) -> None:
        """Keep the offsets of records that :meth:`apply` refused by 2 or 3, until the step of their offsets is journaled."""
        if len(refused):
            with self._lock:
                known = self._refused.setdefault((topic, partition), [])
                known += refused.tolist()

    def decisions(self, parts: Iterable[Part]) -> dict[str, Any]:
        """What the journal records about a step with these offset ranges; called once for each step, in their order."""
        refused: dict[tuple[str, int], Ranges] = {}
        with self._lock:
            for part in parts:
                key = (part.topic, part.partition)
                known = self._refused.get(key)
                if not known:
                    continue
                ranges = _ranges({offset for offset in known if part.first <= offset < part.end})
                if ranges:
                    refused[key] = ranges
                self._refused[key] = [offset for offset in known if offset >= part.end]
        return TimeDecisions(self.max_ahead_ms, refused).to_json()

    def apply(
        self, chunk: Chunk, rejects: Sequence[RecordReject], records: Sequence[KafkaRecord]
    ) -> tuple[Chunk, list[RecordReject], NDArray[np.int64]]:
        """Take implausible rows out of a chunk that was decoded from ``records``.

        Returns
        -------
        tuple
            The chunk, all rejects, and the offsets of the records that were refused by 2 or 3.
        """
        none = np.empty(0, np.int64)
        ts = chunk.batch.ts
        if self.max_ahead_ms is None or not len(ts):
            return chunk, list(rejects), none
        written = written_at(records, chunk.offset)
        latest = int(self._wall_ms()) + self.max_ahead_ms
        plausible = written >= UNKNOWN_BEFORE_MS
        ahead = ts > _bound(written, self.max_ahead_ms)
        by_clock = np.where(plausible, written, ts) > latest
        if not (ahead.any() or by_clock.any()):
            return chunk, list(rejects), none
        by_clock &= ~_of_rows(records, chunk.offset, [_by_broker(record) for record in records])
        refused = np.unique(chunk.offset[by_clock])
        bad = ahead | np.isin(chunk.offset, refused)
        origin = RowsOfRecords(chunk, rejects, records)
        more = [
            origin.reject(row, "ts", self._explain(int(ts[row]), int(written[row]), bool(ahead[row])))
            for row in np.flatnonzero(bad).tolist()
        ]
        kept = replace(chunk, offset=chunk.offset[~bad], batch=chunk.batch.take(~bad))
        return kept, sorted([*rejects, *more], key=lambda reject: int(reject.record.offset)), refused

    def _explain(self, ts: int, written: int, ahead: bool) -> str:
        limit = f"more than events.max_ahead ({timedelta(milliseconds=self.max_ahead_ms or 0)}) after"
        if ahead:
            return f"ts is {ts} ({_text(ts)}), {limit} the time of its record, {_text(written)}"
        if written < UNKNOWN_BEFORE_MS:
            return f"an event of the record, which has no time of its own, is {limit} the wall clock: this one is {ts} ({_text(ts)})"
        return (
            f"the record's own time {_text(written)} is {limit} the wall clock: its producer's clock is wrong"
        )


def written_at(records: Sequence[KafkaRecord], offset: NDArray[np.int64]) -> NDArray[np.int64]:
    """The time of the record (ms) of each row, by the row's offset; -1 where the record has none."""
    return _of_rows(records, offset, [_time(record) for record in records])


def _of_rows(records: Sequence[KafkaRecord], offset: NDArray[np.int64], values: list[Any]) -> NDArray[Any]:
    """A value of each record as a value of each of its rows."""
    at = np.searchsorted(np.array([record.offset for record in records], np.int64), offset)
    return np.array(values)[at]


def _time(record: KafkaRecord) -> int:
    found = getattr(record, "timestamp", None)
    return -1 if found is None else int(found)


def _by_broker(record: KafkaRecord) -> bool:
    return getattr(record, "timestamp_type", None) == _LOG_APPEND_TIME


def _bound(written: NDArray[np.int64], max_ahead_ms: int) -> NDArray[np.int64]:
    """The latest accepted event time; none where the time of the record is unknown."""
    return np.where(
        written >= UNKNOWN_BEFORE_MS, np.minimum(written, _NEVER - max_ahead_ms) + max_ahead_ms, _NEVER
    )


def _ranges(offsets: Iterable[int]) -> Ranges:
    """Offsets as ranges.

    >>> _ranges([5, 3, 4, 9])
    [(3, 6), (9, 10)]
    """
    out: Ranges = []
    for offset in sorted(offsets):
        if out and out[-1][1] == offset:
            out[-1] = (out[-1][0], offset + 1)
        else:
            out.append((offset, offset + 1))
    return out


def _text(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "minutes")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
