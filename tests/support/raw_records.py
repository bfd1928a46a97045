"""Records that no Python producer would send: null values of headers, names of headers that are not UTF-8, no key and no value."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from kafka.record.default_records import DefaultRecordBatchBuilder

from ecdctr.events.settings import KafkaSettings

__all__ = ["Record", "send_raw"]

Record = tuple[bytes | None, bytes | None, Sequence[tuple[bytes, bytes | None]]]
"""Key, value and headers."""

GZIP = 1


class _Name(str):
    """A name of a header that encodes to the given bytes."""

    def __new__(cls, data: bytes) -> _Name:
        made = super().__new__(cls, data.decode("latin-1"))
        made.data = data
        return made

    def encode(self, *_: object, **__: object) -> bytes:
        return self.data


def send_raw(
    connection: KafkaSettings, topic: str, partition: int, records: Sequence[Record], *, compression: int = 0
) -> int:
    """Send the records as one batch; the result is the offset of the first one."""
    builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 1 << 30)
    for number, (key, value, headers) in enumerate(records):
        builder.append(number, None, key, value, [(_Name(name), content) for name, content in headers])
    data = bytes(builder.build())

    async def send() -> int:
        client = AIOKafkaClient(**connection.aiokafka(), request_timeout_ms=30_000)
        try:
            await client.bootstrap()
            await client.set_topics([topic])
            leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
            request = ProduceRequest(None, -1, 20_000, [(topic, [(partition, data)])])
            answer = await client.send(leader, request)
            _, error, offset, *_ = answer.topics[0][1][0]
            assert error == 0, f"the broker answers with error {error}"
            return int(offset)
        finally:
            await client.close()

    return asyncio.run(send())
