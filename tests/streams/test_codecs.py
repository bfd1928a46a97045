"""Every codec of Kafka, from both clients: the worker and the replay read the same rows."""

import asyncio

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from kafka import KafkaProducer

from ecdctr.events.batch import Batch
from ecdctr.events.kafka import KafkaLog
from ecdctr.state.errors import DataError
from ecdctr.state.positions import Part
from tests.support.intakes import MemoryIntake, Streams, event, running

CODECS = ("gzip", "snappy", "lz4", "zstd")
ROWS = 1_500
PACKAGES = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}


def values(rows: int = ROWS) -> list[bytes]:
    return [event(i, price=i / 7) for i in range(rows)]


def send_kafka_python(streams, topic: str, messages: list[bytes], **options) -> None:
    producer = KafkaProducer(**streams.connection.kafka_python(), **{"linger_ms": 50, **options})
    for message in messages:
        producer.send(topic, message, partition=0)
    producer.flush()
    producer.close()


def send_aiokafka(streams, topic: str, messages: list[bytes], **options) -> None:
    async def main():
        producer = AIOKafkaProducer(**streams.connection.aiokafka(), **{"linger_ms": 50, **options})
        await producer.start()
        try:
            for sent in [await producer.send(topic, message, partition=0) for message in messages]:
                await sent
        finally:
            await producer.stop()

    asyncio.run(main())


def read_by_worker(streams, rows: int):
    """What the stream app hands in, of both topics."""
    intake = MemoryIntake()

    async def main():
        async with running(streams.app(intake)) as until:
            await until(lambda: sum(intake.positions.values()) == 2 * rows)

    asyncio.run(main())
    return intake


def check_both_ways(streams, rows: int = ROWS) -> None:
    """The worker's rows are those of the log read by offset, and none is missing."""
    intake = read_by_worker(streams, rows)
    expected = (np.arange(rows) / 7).astype(np.float32)
    with KafkaLog(streams.connection, streams.decoder, streams.topics.domains, timeout_s=20) as log:
        for topic in streams.topics.domains:
            batch = log.fetch([Part(topic, 0, 0, rows)])
            live = Batch.concat([chunk.batch for chunk in intake.chunks[(topic, 0)]])
            assert intake.offsets(topic) == {0: list(range(rows))}
            for name, column in batch.columns().items():
                np.testing.assert_array_equal(getattr(live, name), column)
            np.testing.assert_array_equal(batch.dense[:, 0], expected)


@pytest.mark.broker
@pytest.mark.parametrize("codec", CODECS)
def test_case_a14_each_codec_compressed_by_the_producer_is_read(codec, broker):
    streams = Streams(broker, partitions=1)
    send_kafka_python(streams, streams.topics.natural, values(), compression_type=codec)
    send_aiokafka(streams, streams.topics.ad, values(), compression_type=codec)
    check_both_ways(streams)


@pytest.mark.slow
@pytest.mark.brokers("apache", reason="the embedded broker does not compress")
@pytest.mark.parametrize("codec", CODECS)
def test_case_a14_each_codec_compressed_by_the_broker_is_read_in_batches_above_a_mebibyte(
    codec, broker, apache_broker
):
    """The JVM writes frames without their content size, which a decoder with a fixed buffer does not read."""
    streams = Streams(broker, partitions=1, create=False)
    for topic in streams.topics.domains:
        apache_broker.create_topic(topic, compression_type=codec, max_message_bytes="8388608")
    padded = [event(i, price=i / 7, padding="x" * 1_000) for i in range(3_000)]
    large = {"max_request_size": 8 << 20, "linger_ms": 1_000}  # all records go into one batch
    send_kafka_python(streams, streams.topics.natural, padded, batch_size=4 << 20, **large)
    send_aiokafka(streams, streams.topics.ad, padded, max_batch_size=4 << 20, **large)
    check_both_ways(streams, 3_000)


@pytest.mark.broker
@pytest.mark.parametrize("codec", CODECS[1:])
def test_case_a14_a_codec_without_its_package_is_named(codec, streams, monkeypatch):
    send_kafka_python(streams, streams.topics.natural, values(20), compression_type=codec)
    monkeypatch.setattr(f"kafka.codec.has_{codec}", lambda: False)
    with (
        KafkaLog(streams.connection, streams.decoder, streams.topics.domains, timeout_s=20) as log,
        pytest.raises(DataError, match=rf"compressed with {codec}, .*pip install {PACKAGES[codec]}$"),
    ):
        log.fetch([Part(streams.topics.natural, 0, 0, 20)])

    monkeypatch.setattr(f"aiokafka.codec.has_{codec}", lambda: False)
    with pytest.raises(DataError, match=rf"compressed with {codec}, .*pip install cramjam$"):
        read_by_worker(streams, 20)
