"""The click topics replayed: the same rows and steps as files of the same events, whatever the log's order."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ecdctr.events.decoder import EventDecoder, to_json_messages
from ecdctr.events.kafka import KafkaLog
from ecdctr.replay.sources import EventFiles, KafkaSource, RowFilter, SourceLog, steps_of
from ecdctr.state.errors import DataError
from ecdctr.streams.producer import produce
from tests.support.intakes import event, frame

pytestmark = pytest.mark.broker

COLUMNS = ("ts", "domain", "user", "item", "features", "dense", "label")
SIZES = {"natural_batch": 64, "ad_batch": 32}
START = 1_700_000_000_000


@pytest.fixture
def log(streams):
    decoder = EventDecoder(streams.decoder.schema)
    with KafkaLog(streams.connection, decoder, streams.topics.domains) as log:
        yield log


def events(rows=1_500):
    """A minute between two events: distinct moments, so that event order leaves no choice."""
    return frame(rows).with_columns(ts=START + 60_000 * pl.int_range(rows, dtype=pl.Int64))


def send(streams, frame):
    produce([frame], streams.connection, streams.topics)


def file_log(streams, frame, path, **options):
    frame.write_parquet(path)
    return SourceLog(EventFiles(path, **options), EventDecoder(streams.decoder.schema))


def assert_same_steps(a, b):
    a, b = list(a), list(b)
    assert [s.kind for s in a] == [s.kind for s in b]
    assert [s.clock for s in a] == [s.clock for s in b]
    for x, y in zip(a, b, strict=True):
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(x.batch, name), getattr(y.batch, name), err_msg=name)


@pytest.mark.parametrize(
    "rows",
    [RowFilter(), RowFilter(START + 3_000_000, START + 60_000_000), RowFilter(users=0.5)],
    ids=["all", "time range", "half of the users"],
)
def test_kafka_equals_parquet_of_the_same_events(streams, log, tmp_path, rows):
    frame = events()
    send(streams, frame)
    kafka = KafkaSource(log, window="1h")
    files = file_log(streams, frame, tmp_path / "e.parquet")
    assert_same_steps(
        steps_of(rows.apply(kafka.batches()), **SIZES), steps_of(rows.apply(files.batches()), **SIZES)
    )
    assert kafka.stragglers == 0
    assert kafka.count() == frame.height
    assert kafka.newest() == files.newest() == frame["ts"].max()


def test_out_of_order_within_the_window_is_the_same_as_sorted(streams, log, tmp_path):
    frame = events(600)
    # Blocks of ten minutes, each turned round: no row is ten minutes behind.
    shuffled = frame.sort(pl.int_range(600) // 10, -pl.int_range(600))
    assert shuffled["ts"].to_list() != frame["ts"].to_list()
    send(streams, shuffled)
    kafka = KafkaSource(log, window="10m")
    files = file_log(streams, frame, tmp_path / "sorted.parquet")
    assert_same_steps(steps_of(kafka.batches(), **SIZES), steps_of(files.batches(), **SIZES))
    assert kafka.stragglers == 0
    # Files out of order by no more than their window come to the same, too.
    turned = file_log(streams, shuffled, tmp_path / "turned.parquet", window="10m")
    assert_same_steps(steps_of(turned.batches(), **SIZES), steps_of(files.batches(), **SIZES))


@pytest.mark.brokers("embedded", reason="70,000 rows are not sent twice")
def test_rows_beyond_the_window_are_counted_and_still_given(streams, log):
    topic = streams.topics.natural
    ts = [START + 60_000 * i for i in range(70_000)]
    late = 69_990
    ts[late] = START
    frame = pl.DataFrame({"ts": ts}).with_columns(
        domain=pl.lit("natural"), event_id=pl.int_range(70_000), user_id=pl.lit("u"), item_id=pl.lit(1),
        label=pl.lit(0), site=pl.lit("s"), price=pl.lit(1.0),
    )  # fmt: skip
    streams.send(topic, [value for _, value in to_json_messages(frame)], partition=0)
    kafka = KafkaSource(log, window="10m")
    given = np.concatenate([b.ts for b in kafka.batches()])
    assert kafka.stragglers == 1
    assert sorted(given.tolist()) == sorted(ts)


def test_offset_ranges_are_clamped_and_said(streams, log):
    frame = events(100)
    natural = streams.topics.natural
    values = [v for _, v in to_json_messages(frame.with_columns(domain=pl.lit("natural")))]
    streams.send(natural, values, partition=0)
    kafka = KafkaSource(log, offsets=f"{natural}/0:10-30")
    assert np.concatenate([b.ts for b in kafka.batches()]).tolist() == frame["ts"].to_list()[10:30]
    assert kafka.count() == 20
    assert kafka.clamped == []
    wide = KafkaSource(log, offsets=f"{natural}/0:90-500")
    assert wide.count() == 10
    assert wide.clamped == [f"{natural}/0: requested 90 to 500, the log holds 0 to 100"]
    with pytest.raises(DataError, match=r"no partition nowhere/0; there are"):
        KafkaSource(log, offsets="nowhere/0:1-2")
    with pytest.raises(DataError, match="'nonsense' is not of the form"):
        KafkaSource(log, offsets="nonsense")


def test_what_does_not_decode_is_counted_each_time_anew(streams, log):
    streams.send(streams.topics.natural, [event(0), b"{", event(1)], partition=0)
    kafka = KafkaSource(log)
    assert kafka.newest() == START + 1
    for _ in range(2):
        assert sum(len(b) for b in kafka.batches()) == 2
        assert kafka.rejects == {"json": 1}


def test_an_empty_log_has_no_newest_row(streams, log):
    kafka = KafkaSource(log)
    assert kafka.newest() is None
    assert list(steps_of(kafka.batches(), **SIZES)) == []
