"""What is corrected in the two Kafka libraries: names of headers, and topics that are created by asking."""

import aiokafka.client
import aiokafka.consumer.fetcher as fetcher
import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.protocol.metadata import MetadataRequest_v5
from kafka import KafkaConsumer, KafkaProducer
from kafka.cluster import ClusterMetadata
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


def test_no_client_creates_a_topic_by_asking_for_it():
    for client in (KafkaConsumer, KafkaProducer, ClusterMetadata):
        assert client.DEFAULT_CONFIG["allow_auto_create_topics"] is False
    request = aiokafka.client.MetadataRequest(["topic"]).build(MetadataRequest_v5)
    assert request.allow_auto_topic_creation is False
    wanted = aiokafka.client.MetadataRequest(["topic"], True).build(MetadataRequest_v5)
    assert wanted.allow_auto_topic_creation is True
