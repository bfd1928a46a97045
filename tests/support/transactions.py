"""A transactional producer for tests, without an event loop of the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable
from typing import Any

import polars as pl
from aiokafka import AIOKafkaProducer

from ecdctr.events.settings import KafkaSettings

__all__ = ["TransactionalProducer", "messages"]


def messages(rows: pl.DataFrame) -> list[bytes]:
    """The rows as JSON events; the topic tells their domain."""
    return [json.dumps(row).encode() for row in rows.drop("domain").to_dicts()]


class TransactionalProducer:
    """Sends messages in transactions that the test ends, or leaves open.

    Parameters
    ----------
    connection
        Brokers and security.
    name
        The transactional id.
    """

    def __init__(self, connection: KafkaSettings, name: str) -> None:
        self._loop = asyncio.new_event_loop()

        async def start() -> AIOKafkaProducer:
            producer = AIOKafkaProducer(
                **connection.aiokafka(), transactional_id=name, transaction_timeout_ms=300_000
            )
            await producer.start()
            return producer

        self._producer = self._run(start())

    def __enter__(self) -> TransactionalProducer:
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._producer.stop())
        self._loop.close()

    def begin(self) -> None:
        """Begin a transaction."""
        self._run(self._producer.begin_transaction())

    def send(self, topic: str, values: Iterable[bytes], partition: int = 0) -> None:
        """Send messages, and wait until the broker has them."""

        async def send() -> None:
            futures = [await self._producer.send(topic, value, partition=partition) for value in values]
            await asyncio.gather(*futures)

        self._run(send())

    def end(self, *, commit: bool = True) -> None:
        """Commit or abort the transaction."""
        self._run(self._producer.commit_transaction() if commit else self._producer.abort_transaction())

    def transaction(
        self, topic: str, values: Iterable[bytes], partition: int = 0, *, commit: bool = True
    ) -> None:
        """One whole transaction."""
        self.begin()
        self.send(topic, values, partition)
        self.end(commit=commit)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)
