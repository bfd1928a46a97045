"""A batch is damaged on the disk of Apache Kafka: it is named, and nothing is skipped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import TopicPartition

from ecdctr.events.kafka import KafkaLog
from ecdctr.state.errors import BrokerUnavailableError, OffsetsLostError
from ecdctr.state.positions import Part
from ecdctr.streams.intake import damaged_batches
from tests.support.apache_kafka import ApacheKafka
from tests.support.intakes import MemoryIntake, Streams, event, running
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.brokers("apache", reason="the embedded broker keeps nothing on a disk")

BATCH = 40
"""Records of each batch."""
_HEADER = 61


class DamagedBatch:
    """The second of some batches of the natural topic, on the disk of the broker; each is sent by itself."""

    def __init__(self, kafka: ApacheKafka, streams: Streams, batches: int = 3) -> None:
        self.streams, self.topic = streams, streams.topics.natural
        for number in range(batches):
            streams.send(self.topic, [event(number * BATCH + i) for i in range(BATCH)], partition=0)
        (node,) = kafka.nodes
        self._path = Path(node.folder) / "data" / f"{self.topic}-0" / f"{0:020d}.log"
        self._at = self._batch_at(BATCH) + _HEADER + 9
        self._flip()

    def mend(self) -> None:
        self._flip()

    def _flip(self) -> None:
        with self._path.open("r+b") as file:
            file.seek(self._at)
            (byte,) = file.read(1)
            file.seek(self._at)
            file.write(bytes([byte ^ 0x55]))

    def _batch_at(self, offset: int) -> int:
        """Where the batch with this first offset begins in the file."""
        data, at = self._path.read_bytes(), 0
        while int.from_bytes(data[at : at + 8], "big") < offset:
            at += 12 + int.from_bytes(data[at + 8 : at + 12], "big")
        return at


@pytest.fixture
def damaged(apache_broker, broker):
    return DamagedBatch(apache_broker, Streams(broker, partitions=1))


def read(damaged: DamagedBatch, mend: Callable[[], None]) -> tuple[MemoryIntake, dict]:
    """Read until the damage is found, mend it, and read to the end; the intake and what was found."""
    streams, intake, found = damaged.streams, MemoryIntake(), {}
    ad = streams.topics.ad

    async def main():
        app = streams.app(intake)
        async with running(app) as until:
            await until(lambda: bool(app.damaged()))
            found.update(app.damaged())
            assert intake.positions[(damaged.topic, 0)] == BATCH, "what precedes it is delivered"
            await asyncio.to_thread(streams.send, ad, [event(i) for i in range(9)], 0)
            await until(lambda: intake.positions[(ad, 0)] == 9)  # other partitions are read
            assert intake.positions[(damaged.topic, 0)] == BATCH
            await asyncio.to_thread(mend)
            await until(lambda: intake.positions[(damaged.topic, 0)] == 3 * BATCH)
            assert not app.damaged()

    asyncio.run(main())
    return intake, found


def test_a_damaged_batch_is_named_and_waited_for_while_other_partitions_are_read(damaged, monkeypatch):
    monkeypatch.setattr(damaged_batches, "PAUSE_S", 0.2)
    intake, found = read(damaged, damaged.mend)
    assert intake.offsets(damaged.topic) == {0: list(range(3 * BATCH))}
    assert list(found) == [(damaged.topic, 0)]
    sentence = found[(damaged.topic, 0)]
    assert sentence.startswith(f"{damaged.topic}[0] cannot be read at offset {BATCH}: ")
    assert "damaged" in sentence and "--reset-offsets" in sentence


def test_records_that_are_deleted_because_they_are_damaged_are_reported_as_lost(
    damaged, apache_broker, monkeypatch
):
    monkeypatch.setattr(damaged_batches, "PAUSE_S", 0.2)

    def delete():
        with apache_broker.admin() as admin:
            admin.delete_records({TopicPartition(damaged.topic, 0): 2 * BATCH})

    lost = f"begins at offset {2 * BATCH}, training needs {BATCH}: {BATCH} offsets were deleted unread"
    with pytest.raises(OffsetsLostError, match=lost):
        read(damaged, delete)


@pytest.mark.parametrize("read", ["fetch", "chunks"])
def test_reading_by_offset_names_a_damaged_batch_and_waits_for_it(damaged, read, caplog):
    streams, topic = damaged.streams, damaged.topic
    key = (topic, 0)

    def mend_when_named():
        if f"{topic}[0] cannot be read at offset {BATCH}" in caplog.text:
            mended.append(1)
            if len(mended) == 1:
                damaged.mend()

    mended: list[int] = []
    with (
        caplog.at_level(logging.WARNING, "ecdctr.kafka"),
        KafkaLog(streams.connection, streams.decoder, streams.topics.domains, stall_s=PATIENCE_S) as log,
    ):
        log.on_wait = mend_when_named
        if read == "fetch":
            rows = len(log.fetch([Part(topic, 0, 0, 3 * BATCH)]))
        else:
            rows = sum(len(chunk.batch) for chunk in log.chunks({key: 0}, {key: 3 * BATCH}))
    assert rows == 3 * BATCH and mended


def test_reading_by_offset_ends_with_what_is_damaged(damaged):
    streams = damaged.streams
    with (
        KafkaLog(streams.connection, streams.decoder, streams.topics.domains, stall_s=0.0) as log,
        pytest.raises(BrokerUnavailableError, match=rf"cannot be read at offset {BATCH}: "),
    ):
        log.fetch([Part(damaged.topic, 0, 0, 3 * BATCH)])


def test_the_end_of_a_partition_is_known_though_its_last_batch_is_damaged(apache_broker, broker):
    damaged = DamagedBatch(apache_broker, Streams(broker, partitions=1), batches=2)
    streams, keys = damaged.streams, [(damaged.topic, 0)]
    with KafkaLog(streams.connection, streams.decoder, streams.topics.domains) as log:
        assert list(log.written(keys).values()) == list(log.end(keys).values()) == [2 * BATCH]
