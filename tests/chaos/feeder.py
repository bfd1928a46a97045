"""Sends the log to Apache Kafka: plain records and transactions in turn, with aborted transactions between them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import polars as pl
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from ecdctr.events.decoder import to_json_messages
from ecdctr.streams.producer import partition_of
from tests.chaos.committed import CommittedReader

__all__ = ["Feeder"]

CHUNK_ROWS = 1_000
_REQUEST_MS = 20_000
Message = tuple[str, int, bytes, bytes]


class Feeder:
    """Sends rows in event order at a steady rate, in a thread of its own, each exactly once.

    Every third part of :data:`CHUNK_ROWS` rows is a transaction. The same rows are sent before in a transaction that is
    aborted, so that a consumer that reads aborted records learns rows twice.

    1. A part is sent, and its acknowledgements are awaited.
    2. If that fails, it is not known which rows are in the log. Both producers are made anew, which ends a transaction that
       is open, and the reader of committed records tells which rows are missing: these are sent again.

    Parameters
    ----------
    rows
        Event frame in event order, whose ``domain`` is 0 or 1.
    topics
        Name of the topic of each domain.
    partitions
        Partitions of each topic.
    """

    def __init__(
        self,
        brokers: str,
        rows: pl.DataFrame,
        topics: Sequence[str],
        partitions: int,
        committed: CommittedReader,
        rows_per_s: float,
    ) -> None:
        self._brokers, self._rows, self._topics, self._partitions = brokers, rows, topics, partitions
        self._committed, self._rows_per_s = committed, rows_per_s
        self.sent = 0
        """Rows that are in the log."""
        self.transactions = self.aborted = self.repeated = 0
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="feeder", daemon=True)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def rows(self) -> int:
        """Rows that are to be sent."""
        return self._rows.height

    @property
    def finished(self) -> bool:
        """Whether all rows are sent.

        Raises
        ------
        RuntimeError
            Sending has failed.
        """
        if self.error is not None:
            raise RuntimeError("the rows could not be sent") from self.error
        return self.sent == self.rows

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self.error = error

    async def _run(self) -> None:
        producers: dict[str, AIOKafkaProducer] = {}
        began = time.monotonic()
        try:
            for number, part in enumerate(self._rows.iter_slices(CHUNK_ROWS)):
                missing = self._messages(part)
                while missing:
                    if self._stop.is_set():
                        return
                    try:
                        if not producers:
                            producers = await self._producers()
                        await self._send(producers, number, missing)
                        break
                    except (KafkaError, TimeoutError):
                        await self._end(producers)
                        producers = await self._producers()  # which ends the transaction that may be open
                        await asyncio.to_thread(self._committed.catch_up)
                        missing = {k: v for k, v in missing.items() if k not in self._committed.ids}
                        self.repeated += len(missing)
                self.sent += part.height
                ahead = self.sent / self._rows_per_s - (time.monotonic() - began)
                await asyncio.sleep(max(0.0, ahead))
        finally:
            await self._end(producers)

    async def _producers(self) -> dict[str, AIOKafkaProducer]:
        common: dict[str, Any] = {
            "bootstrap_servers": self._brokers, "acks": "all", "linger_ms": 20, "request_timeout_ms": _REQUEST_MS,
            "metadata_max_age_ms": 2_000,
        }  # fmt: skip
        made = {
            "plain": AIOKafkaProducer(**common, enable_idempotence=True),
            "transactional": AIOKafkaProducer(
                **common, transactional_id="chaos", transaction_timeout_ms=2 * _REQUEST_MS
            ),
        }
        while True:
            try:
                for producer in made.values():
                    await producer.start()
            except (KafkaError, OSError):
                await asyncio.sleep(0.5)
            else:
                return made

    @staticmethod
    async def _end(producers: Mapping[str, AIOKafkaProducer]) -> None:
        for producer in producers.values():
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(producer.stop(), timeout=5.0)
            await producer.client.close()  # what is still to be sent is not sent

    async def _send(
        self, producers: Mapping[str, AIOKafkaProducer], number: int, messages: Mapping[str, Message]
    ) -> None:
        if number % 3 != 1:
            await _all(producers["plain"], messages)
            return
        transactional = producers["transactional"]
        await transactional.begin_transaction()
        await _all(transactional, messages)
        await transactional.abort_transaction()
        self.aborted += 1
        async with transactional.transaction():
            await _all(transactional, messages)
        self.transactions += 1

    def _messages(self, part: pl.DataFrame) -> dict[str, Message]:
        """``{event id: (topic, partition, key, value)}``; a user's rows are in one partition."""
        out: dict[str, Message] = {}
        ids, domains = part["event_id"].to_list(), part["domain"].to_list()
        for event_id, domain, (key, value) in zip(ids, domains, to_json_messages(part), strict=True):
            out[event_id] = (self._topics[domain], partition_of(key, self._partitions), key, value)
        return out


async def _all(producer: AIOKafkaProducer, messages: Mapping[str, Message]) -> None:
    futures = [
        await producer.send(topic, value, key=key, partition=partition)
        for topic, partition, key, value in messages.values()
    ]
    for future in futures:
        await future
