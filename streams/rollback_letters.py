"""``RollbackLetters``: sends the records of rows that could not be learned to the dead-letter topics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka import KafkaLog
from ecdctr.events.records import RowsOfRecords, decode_records
from ecdctr.state.errors import BrokerUnavailableError, OffsetsLostError
from ecdctr.state.positions import Part
from ecdctr.streams.dead_letters import ROLLED_BACK, DeadLetter, DeadLetters, letters_of
from ecdctr.streams.retry import MENDED_LATER, StopRequestedError, call_until_available

__all__ = ["RollbackLetters"]

log = logging.getLogger("ecdctr.worker")

_POLL_S = 0.2
_STOP_S = 2.0
"""How long a stop waits for the acknowledgement of letters that were just sent."""
_MOST_WITHOUT_CONTENTS = 10_000
"""Letters without contents for one step; the last one names how many offsets it stands for."""


class RollbackLetters:
    """Sends the records of rows that could not be learned to the dead-letter topics.

    A batch does not contain the original bytes, so the records are read from the log a second time. Of a record that the log has deleted
    in the meantime, the letter has the origin and the reason, and no contents.

    Parameters
    ----------
    make_log
        ``make_log(decoder)`` connects to the click topics.
    decoder
        Decodes the records, to find those from which a row was decoded.
    domains
        ``{topic: domain}``.
    stop_requested
        Whether the worker is ending: that ends the waits for brokers and for acknowledgements.

    Attributes
    ----------
    waiting
        Steps whose letters are not acknowledged. A checkpoint must not follow them: after it, they would not be repeated.
    """

    def __init__(
        self,
        make_log: Callable[[EventDecoder], KafkaLog],
        decoder: EventDecoder,
        domains: Mapping[str, int],
        stop_requested: Callable[[], bool],
    ) -> None:
        self._make_log, self._decoder = make_log, decoder
        self._domains = dict(domains)
        self._stop_requested = stop_requested
        self._loop: asyncio.AbstractEventLoop | None = None
        self._letters: DeadLetters | None = None
        self._pending: list[_Lost] = []
        self.waiting = 0

    async def start(self, letters: DeadLetters) -> None:
        """Send what was rolled back during recovery, and send later steps at once. Called in the running loop.

        Letters that were sent before a crash are not sent a second time: see :class:`DeadLetters`.
        """
        self._loop, self._letters = asyncio.get_running_loop(), letters
        pending, self._pending = self._pending, []
        for lost in pending:
            found = await self._loop.run_in_executor(None, self._read, lost)
            await self._send(found)
            self.waiting -= 1

    def add(self, batch: Batch, rows: NDArray[np.intp], reason: str) -> None:
        """Called in the trainer's thread with a step's batch and the positions of the rows that were not learned; returns when their
        letters are acknowledged.

        During recovery there is no event loop: the batch is retained until :meth:`start`.

        Raises
        ------
        StopRequestedError
            The worker was asked to stop before the letters were acknowledged. The step is not part of the last checkpoint, so
            it is repeated, and rolled back, after a restart.
        """
        self.waiting += 1
        if self._loop is None or self._letters is None:
            self._pending.append(_Lost(batch, rows, reason))
            return
        found = self._read(_Lost(batch, rows, reason))
        asyncio.run_coroutine_threadsafe(self._send(found), self._loop).result()
        self.waiting -= 1

    async def _send(self, found: list[DeadLetter]) -> None:
        """Return when the letters are acknowledged; a stop does not wait for a topic that takes none."""
        assert self._letters is not None
        sending = asyncio.ensure_future(self._letters.send(found))
        deadline = float("inf")
        while not sending.done():
            await asyncio.wait({sending}, timeout=_POLL_S)
            if self._stop_requested():
                deadline = min(deadline, time.monotonic() + _STOP_S)
            if not sending.done() and time.monotonic() > deadline:
                sending.cancel()
                raise StopRequestedError
        sending.result()

    def _read(self, lost: _Lost) -> list[DeadLetter]:
        return call_until_available(
            lambda: self._letters_of(lost),
            float("inf"),
            self._stop_requested,
            errors=MENDED_LATER,
        )

    def _raise_if_stopping(self) -> None:
        if self._stop_requested():
            raise StopRequestedError

    def _letters_of(self, lost: _Lost) -> list[DeadLetter]:
        """A letter for each record with a lost row.

        Records that the log no longer holds (retention, compaction) get letters without contents. Which of the offsets without a record
        had one is not known, so that these letters are written only if lost rows are missing, and then for all of these offsets.
        """
        letters: list[DeadLetter] = []
        absent: list[tuple[Part, int]] = []
        held: list[tuple[Part, Batch, RowsOfRecords]] = []
        with self._make_log(self._decoder) as kafka:
            kafka.on_wait = self._raise_if_stopping
            for part in lost.batch.parts:
                records = _held_records(kafka, part)
                offsets = {record.offset for record in records}
                absent += [(part, offset) for offset in range(part.first, part.end) if offset not in offsets]
                if not records:
                    continue
                # Other records may have been rejected when they were read, and are already dead letters.
                chunk, rejects = decode_records(
                    self._decoder,
                    part.topic,
                    part.partition,
                    part.first,
                    records,
                    self._domains[part.topic],
                )
                held.append((part, chunk.batch, RowsOfRecords(chunk, rejects, records)))
        missing = len(lost.rows)
        for (part, _, origin), rows in zip(held, lost.among([batch for _, batch, _ in held]), strict=True):
            letters += letters_of(
                part.topic, part.partition, [origin.reject(row, ROLLED_BACK, lost.reason) for row in rows]
            )
            missing -= len(rows)
        if missing > 0 and absent:
            log.warning(
                "the records of %d rows that were not learned are no longer in the log: their letters have no contents",
                missing,
            )
            letters += _without_contents(absent, missing, lost.reason)
        return letters


class _Lost(NamedTuple):
    """Rows of a batch that were not learned, by their positions, ascending, and why."""

    batch: Batch
    rows: NDArray[np.intp]
    reason: str

    def among(self, held: Sequence[Batch]) -> list[list[int]]:
        """Positions of the lost rows in each of the batches that were decoded again.

        If no record is missing, the rows have the same positions as before; otherwise they are recognised by their values.
        """
        ends = np.cumsum([len(batch) for batch in held], dtype=np.intp)
        if len(ends) and ends[-1] == len(self.batch):
            cuts = np.searchsorted(self.rows, ends)
            parts = np.split(self.rows, cuts[:-1])
            return [(rows - end + len(b)).tolist() for rows, end, b in zip(parts, ends, held, strict=True)]
        wanted = set(_values(self.batch.take(self.rows)))
        return [[i for i, row in enumerate(_values(batch)) if row in wanted] for batch in held]


def _values(batch: Batch) -> Iterable[tuple[bytes, ...]]:
    columns = (batch.ts, batch.user, batch.item, batch.label, batch.features, batch.dense)
    return zip(*([row.tobytes() for row in column] for column in columns), strict=True)


def _held_records(kafka: KafkaLog, part: Part) -> list[Any]:
    """The records of a part that the log still holds."""
    key = (part.topic, part.partition)
    while part.first < part.end:
        try:
            return kafka.raw(part)
        except OffsetsLostError:
            begins, ends = kafka.beginning([key])[key], kafka.written([key])[key]
            held = part._replace(first=max(part.first, begins), end=min(part.end, ends))
            if held == part:  # two checks that contradict each other: the next reading decides
                raise BrokerUnavailableError(
                    f"{part.topic}[{part.partition}] does not return offsets {part.first} to {part.end}, though it holds them"
                ) from None
            part = held
    return []


def _without_contents(absent: Sequence[tuple[Part, int]], rows: int, reason: str) -> list[DeadLetter]:
    letters = []
    for number, (part, offset) in enumerate(absent[:_MOST_WITHOUT_CONTENTS], 1):
        detail = f"{reason}; the log no longer holds the record: {rows} rows of the step are without a record, at {len(absent)} offsets"
        if number == _MOST_WITHOUT_CONTENTS < len(absent):
            detail += f"; this letter stands for the {len(absent) - number} offsets after it, too"
        letters.append(DeadLetter(part.topic, part.partition, offset, ROLLED_BACK, detail, None))
    return letters
