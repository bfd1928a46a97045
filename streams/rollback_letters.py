"""``RollbackLetters``: sends the records of a step that was rolled back to the dead-letter topics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka import KafkaLog
from ecdctr.events.records import decode_records
from ecdctr.streams.dead_letters import DeadLetter, DeadLetters
from ecdctr.streams.retry import StopRequestedError, call_until_available

__all__ = ["RollbackLetters"]


class RollbackLetters:
    """Sends the records of rolled-back steps to the dead-letter topics.

    A batch does not contain the original bytes, so the records are read from the log a second time.

    Parameters
    ----------
    make_log
        ``make_log(decoder)`` connects to the click topics.
    decoder
        Decodes the records, to find those from which a row was decoded.
    domains
        ``{topic: domain}``.
    stop_requested
        Whether the worker was asked to stop: it ends the wait for a broker.
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
        self._pending: list[tuple[Batch, str]] = []

    async def start(self, letters: DeadLetters) -> None:
        """Send what was rolled back during recovery, and send later steps at once. Called in the running loop.

        Letters that were sent before a crash are not sent a second time: see :class:`DeadLetters`.
        """
        self._loop, self._letters = asyncio.get_running_loop(), letters
        pending, self._pending = self._pending, []
        for batch, reason in pending:
            found = await self._loop.run_in_executor(None, self._letters_of, batch, reason)
            await letters.send(found)

    def add(self, batch: Batch, reason: str) -> None:
        """Called in the trainer's thread with a batch that was rolled back; returns when its letters are acknowledged.

        During recovery there is no event loop: the batch is retained until :meth:`start`.

        Raises
        ------
        StopRequestedError
            The worker was asked to stop before a broker answered.
        """
        if self._loop is None or self._letters is None:
            self._pending.append((batch, reason))
            return
        letters = call_until_available(
            lambda: self._letters_of(batch, reason), float("inf"), self._stop_requested
        )
        asyncio.run_coroutine_threadsafe(self._letters.send(letters), self._loop).result()

    def _raise_if_stopping(self) -> None:
        if self._stop_requested():
            raise StopRequestedError

    def _letters_of(self, batch: Batch, reason: str) -> list[DeadLetter]:
        letters = []
        with self._make_log(self._decoder) as kafka:
            kafka.on_wait = self._raise_if_stopping
            for part in batch.parts:
                records = kafka.raw(part)
                if not records:
                    continue
                chunk, _ = decode_records(
                    self._decoder,
                    part.topic,
                    part.partition,
                    part.first,
                    records,
                    self._domains[part.topic],
                )
                # The other records were rejected and are already dead letters.
                with_rows = set(chunk.offset.tolist())
                letters += [
                    DeadLetter(
                        part.topic,
                        part.partition,
                        r.offset,
                        "loss",
                        reason,
                        r.value,
                        r.key,
                        tuple(r.headers or ()),
                    )
                    for r in records
                    if r.offset in with_rows
                ]
        return letters
