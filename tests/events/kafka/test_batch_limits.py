"""Case S6: a compressed batch that would take gigabytes is one dead letter that counts its records, in both Kafka clients."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import aiokafka.consumer.fetcher
import kafka.consumer.fetcher
import numpy as np
import pytest
from aiokafka.structs import TopicPartition
from kafka.record.default_records import DefaultRecordBatchBuilder

from ecdctr.events.decoder import EventDecoder
from ecdctr.events.isolation.wire import pack_request, request_of
from ecdctr.events.kafka import KafkaLog, batch_limits
from ecdctr.events.records import Fetched, RefusedBatch, chunks_of, decode_values
from ecdctr.events.settings import FeatureSpec
from ecdctr.state.positions import Part
from ecdctr.streams.dead_letters import MemoryDeadLetters, letters_of
from tests.support.intakes import MemoryIntake, Streams, event, running
from tests.support.raw_records import GZIP, send_raw

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
CLIENTS = {"aiokafka": aiokafka.consumer.fetcher, "kafka-python": kafka.consumer.fetcher}
LIMIT = 1 << 20


def batch(codec: int, values: list[bytes], base: int = 0) -> bytes:
    """A record batch as a producer sends it."""
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 31)
    for i, value in enumerate(values):
        builder.append(i, 1, b"k", value, [])
    data = bytearray(builder.build())
    data[:8] = base.to_bytes(8, "big")  # not part of the checksum
    return bytes(data)


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(batch_limits, "MAX_BATCH_BYTES", LIMIT)
    monkeypatch.setattr(batch_limits, "_SMALL", LIMIT // 1_032)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("codec", CODECS)
def test_case_s6_a_bomb_is_one_record_that_stands_for_its_batch(small_limit, codec, client):
    inside = [b"a" * 1000] * 1000
    beyond = [b"a" * 1000] * 1100
    data = batch(CODECS[codec], inside) + batch(CODECS[codec], beyond, 1000) + batch(0, [b"b"], 2100)
    records = CLIENTS[client].MemoryRecords(data)
    found = [list(records.next_batch()) for _ in range(3)]
    assert [record.value for record in found[0]] == inside
    assert [record.value for record in found[2]] == [b"b"]
    [one] = found[1]
    assert isinstance(one.value, RefusedBatch)
    assert (one.value, one.offset, one.key, one.value.records) == (b"", 2099, None, 1100)
    assert one.value.detail.startswith("a compressed batch (offsets 1000 to 2099) takes more than 1 MiB")


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_read_of_each_codec_is_what_was_sent(small_limit, codec):
    rng = np.random.default_rng(1)
    values = [rng.bytes(700) for _ in range(1000)]
    for fetcher in CLIENTS.values():
        found = list(fetcher.MemoryRecords(batch(CODECS[codec], values)).next_batch())
        assert [record.value for record in found] == values


def test_case_s6_records_are_taken_from_a_response_up_to_a_number_of_bytes(small_limit):
    data = b"".join(batch(1, [b"a" * 900_000], i) for i in range(5))
    records = aiokafka.consumer.fetcher.MemoryRecords(data)
    partition = TopicPartition("t", 0)
    fetched = aiokafka.consumer.fetcher.PartitionRecords(partition, records, [], 0, None, None, True, 0)
    state = SimpleNamespace(position=0, paused=False)
    state.consumed_to = lambda offset: setattr(state, "position", offset)
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)
    result = aiokafka.consumer.fetcher.FetchResult(
        partition, assignment=assignment, partition_records=fetched, backoff=0
    )
    offsets = []
    while result.has_more():
        offsets.append([record.offset for record in result.getall(500)])
    assert offsets == [[0, 1], [2, 3], [4]]
    assert state.position == 5


def test_case_s6_a_refused_batch_is_a_letter_that_counts_its_records():
    decoder = EventDecoder([FeatureSpec(name="site")])
    refused = RefusedBatch(12, "a compressed batch (offsets 5 to 16) takes more than 64 MiB")
    records = [
        SimpleNamespace(offset=offset, value=value, key=None, headers=[])
        for offset, value in ((4, event(1)), (16, refused), (17, event(2)))
    ]
    decoded = decode_values(decoder, [r.value for r in records], [False] * 3, 0)
    [(chunk, rejects)] = chunks_of([Fetched("ads", 0, 4, records)], decoded)
    assert (chunk.offset.tolist(), chunk.end) == ([4, 17], 18)
    [letter] = letters_of("ads", 0, rejects)
    assert (letter.offset, letter.reason, letter.events, letter.message().value) == (16, "large", 12, b"")
    assert type(letter.message().value) is bytes
    assert request_of(pack_request([refused, None], [False, False], 0, [])).values == [b"", None]


@pytest.mark.slow
@pytest.mark.brokers("embedded", reason="what the broker is does not matter: it stores the batch as it is")
def test_case_s6_good_records_around_a_bomb_are_learned_live_and_by_offset(small_limit, broker):
    streams = Streams(broker)
    topic = streams.topics.natural
    good = [(b"k", event(i), ()) for i in range(3)]
    send_raw(streams.connection, topic, 0, good)
    send_raw(streams.connection, topic, 0, [(b"k", b"a" * 100_000, ())] * 20, compression=GZIP)
    send_raw(streams.connection, topic, 0, good)
    intake, letters = MemoryIntake(), MemoryDeadLetters()

    async def main():
        async with running(streams.app(intake, letters)) as until:
            await until(lambda: intake.positions[topic, 0] == 26)

    asyncio.run(main())
    assert intake.offsets(topic)[0] == [0, 1, 2, 23, 24, 25]
    assert dict(letters.counts) == {"large": 20}
    with KafkaLog(streams.connection, streams.decoder, streams.topics.domains, timeout_s=20) as log:
        rows = log.fetch([Part(topic, 0, 0, 26)])
        assert (len(rows), log.dead_rows) == (6, 20)
