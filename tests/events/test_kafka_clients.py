"""What is corrected in the two Kafka libraries: names of headers, and topics that are created by asking."""

import aiokafka.client
import aiokafka.consumer.fetcher as fetcher
import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.protocol.metadata import MetadataRequest_v5
from crc32c import crc32c
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.cluster import ClusterMetadata
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder

from ecdctr.events.kafka import correct_clients
from tests.support.raw_records import GZIP, _Name

HEADERS = [(b"plain", b"v"), (b"\xff\xfename", b"\x00"), (b"", None), ("é".encode(), b"e")]
TEXTS = [("plain", b"v"), (r"\xff\xfename", b"\x00"), ("", None), ("é", b"e")]


def batch(records, compression=0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 1 << 20)
    for i, headers in enumerate(records):
        builder.append(
            i, 1_000 + i, b"k%d" % i, None if i == 3 else b"v%d" % i, [(_Name(n), v) for n, v in headers]
        )
    return bytes(builder.build())


def read_aiokafka(data):
    records, out = fetcher.MemoryRecords(data), []
    while records.has_next():
        found = records.next_batch()
        assert found.validate_crc()
        assert not found.is_control_batch
        out.append([(r.offset, r.key, r.value, r.timestamp, list(r.headers)) for r in found])
        assert found.next_offset == len(out[-1])
    return out


def read_kafka_python(data):
    return [
        [(r.offset, r.key, r.value, r.timestamp, list(r.headers)) for r in found]
        for found in MemoryRecords(data)
    ]


@pytest.mark.parametrize("read", [read_aiokafka, read_kafka_python])
@pytest.mark.parametrize("compression", [0, GZIP], ids=["plain", "gzip"])
def test_names_of_headers_may_be_any_bytes(read, compression):
    correct_clients()  # a second time
    plain = [[], [(b"a", b"b")], []]
    odd = [[(b"a", b"b")], HEADERS, [], HEADERS, [(b"z", b"y")]]
    data = batch(plain, compression) + batch(odd, compression) + batch(plain, compression)
    found = read(data + data[:40])  # the last batch is cut, as in a response of the broker
    expected = [[("a", b"b")], TEXTS, [], TEXTS, [("z", b"y")]]
    assert [[headers for *_, headers in records] for records in found] == [
        [[], [("a", b"b")], []],
        expected,
        [[], [("a", b"b")], []],
    ]
    assert [r[:4] for r in found[1]] == [
        (i, b"k%d" % i, None if i == 3 else b"v%d" % i, 1_000 + i) for i in range(5)
    ]


def test_a_damaged_batch_is_still_an_error():
    data = bytearray(batch([HEADERS, HEADERS]))
    data[-3:] = b"\xff\xff\xff"
    records = fetcher.MemoryRecords(bytes(data))
    found = records.next_batch()
    assert not found.validate_crc()
    with pytest.raises((CorruptRecordException, IndexError, ValueError)):
        list(found)


def headers_of(data: bytes) -> list[list]:
    return [[headers for *_, headers in records] for records in read_aiokafka(data)]


def test_batches_before_a_damaged_one_are_returned_and_the_damaged_one_when_it_is_the_next():
    first, second, third = batch([[]]), bytearray(batch([[], []])), batch([[]])
    second[-1] ^= 0xFF
    assert headers_of(first + bytes(second) + third) == [[[]]]
    records = fetcher.MemoryRecords(bytes(second) + third)
    assert records.has_next()
    assert not records.next_batch().validate_crc()
    assert headers_of(first + first + first) == [[[]]] * 3


@pytest.mark.parametrize("length", [-9, 0, 30])
def test_a_damaged_length_ends_the_batches_before_it(length):
    damaged = bytearray(batch([[], []]))
    damaged[8:12] = length.to_bytes(4, "big", signed=True)
    assert headers_of(batch([[]]) + bytes(damaged)) == [[[]]]
    records = fetcher.MemoryRecords(bytes(damaged))
    assert records.has_next()
    with pytest.raises(CorruptRecordException):
        found = records.next_batch()
        if not found.validate_crc():
            raise CorruptRecordException


def test_kafka_python_fetches_again_after_a_damaged_batch():
    damaged = bytearray(batch([[], []]))
    damaged[-1] ^= 0xFF
    tp, drained = TopicPartition("ads", 0), []
    found = Fetcher.PartitionRecords(
        0, tp, MemoryRecords(batch([[]]) + bytes(damaged)), on_drain=drained.append
    )
    assert [record.offset for record in found.take()] == [0]
    assert found, "the error is still to come"
    with pytest.raises(CorruptRecordError):
        found.take()
    assert not found and drained == [found]


def test_what_cannot_be_decompressed_is_damaged_whatever_the_checksum():
    data = bytearray(batch([[]] * 50, GZIP))
    data[-20:-8] = bytes(12)
    data[17:21] = crc32c(bytes(data[21:])).to_bytes(4, "big")
    records = fetcher.MemoryRecords(bytes(data))
    found = records.next_batch()
    assert found.validate_crc()
    with pytest.raises(CorruptRecordException, match="cannot be parsed"):
        list(found)


def test_no_client_creates_a_topic_by_asking_for_it():
    for client in (KafkaConsumer, KafkaProducer, ClusterMetadata):
        assert client.DEFAULT_CONFIG["allow_auto_create_topics"] is False
    request = aiokafka.client.MetadataRequest(["topic"]).build(MetadataRequest_v5)
    assert request.allow_auto_topic_creation is False
    wanted = aiokafka.client.MetadataRequest(["topic"], True).build(MetadataRequest_v5)
    assert wanted.allow_auto_topic_creation is True
