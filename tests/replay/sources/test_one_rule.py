"""Files and live messages obey one rule: the same bytes give the same rows, values and reasons."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import uuid

import numpy as np
import polars as pl
import pytest
import zstandard

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder, to_arrow_message
from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.sources import EventFiles, SourceLog
from ecdctr.state.hashing import mix64
from tests.support.logged_events import T0, good_events, write_lines

SPECS = [
    FeatureSpec(name="user", field="user_id"),
    FeatureSpec(name="item", field="item_id"),
    FeatureSpec(name="category"),
    FeatureSpec(name="price", kind="numeric"),
    FeatureSpec(name="tags", kind="bag", max_length=2),
    FeatureSpec(name="hour", field="@hour", buckets=24),
]
DECODER = EventDecoder(SPECS, max_string=40)
GOOD = {
    "event_id": '"e"',
    "ts": str(T0),
    "user_id": '"u1"',
    "item_id": "7",
    "label": "1",
    "category": '"c"',
    "price": "2.5",
    "tags": '["a"]',
    "list_id": '"l"',
}


def line(**changes):
    """One event as JSON text; a value is raw text, None leaves the field out, a tuple writes it several times."""
    fields = [(k, v) for k, v in {**GOOD, **changes}.items() if v is not None]
    pairs = [(k, one) for k, v in fields for one in (v if isinstance(v, tuple) else (v,))]
    return ("{" + ",".join(f'"{k}":{v}' for k, v in pairs) + "}").encode("utf-8", "surrogatepass")


def read(path, decoder=DECODER, **options):
    log = SourceLog(EventFiles(path, domain="natural", **options), decoder)
    found = [*log.batches()]
    return (Batch.concat(found) if found else decoder.empty()), log.rejects


def same(a, b):
    for name in ("ts", "user", "item", "features", "dense", "label", "list_id"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_one_whole_float_or_fraction_among_big_ids_changes_no_other_row(tmp_path, packed):
    """Cases F1 and F2, for each way to compress."""
    ids = [2**53 + 1 + 2 * (i % 40) for i in range(2000)]
    for odd, rejected in ((12.5, 1), (12.0, 0)):
        values = [line(ts=str(T0 + i), user_id=str(odd if i == 700 else u)) for i, u in enumerate(ids)]
        content = b"\n".join(values)
        path = tmp_path / f"{odd}.jsonl{packed}"
        content = {"": content, ".gz": gzip.compress(content), ".zst": zstandard.compress(content)}[packed]
        path.write_bytes(content)
        batch, rejects = read(path)
        assert dict(rejects) == ({"type": 1} if rejected else {})
        same(batch, DECODER.from_json(values, 0).batch)
        assert len(set(batch.user.tolist())) == 40 + (not rejected)
    [cause] = read(tmp_path / f"12.5.jsonl{packed}")[1].causes()
    assert cause["detail"] == "user_id is 12.5, expected a string or an integer"
    assert cause["where"] == f"{tmp_path}/12.5.jsonl{packed}, line 701"


def test_case_f1_one_fraction_among_ids_of_a_parquet_column_rejects_its_row_only(tmp_path):
    frame = good_events(300).with_columns(user_id=pl.int_range(300).cast(pl.Float64))
    frame = frame.with_columns(user_id=pl.when(pl.int_range(300) == 70).then(12.5).otherwise("user_id"))
    frame.write_parquet(tmp_path / "e.parquet")
    batch, rejects = read(tmp_path / "e.parquet")
    assert (len(batch), dict(rejects)) == (299, {"type": 1})
    assert rejects.causes()[0]["where"].endswith("e.parquet, row 71")
    # beyond 2**53 two integers may be the same float: such a float is no id
    frame.with_columns(user_id=pl.lit(2.0**53 + 2)).write_parquet(tmp_path / "e.parquet")
    assert dict(read(tmp_path / "e.parquet")[1]) == {"type": 300}


def test_case_f2_files_whose_types_differ_keep_every_id(tmp_path):
    frame = good_events(200).with_columns(user_id=2**53 + 1 + 2 * (pl.int_range(200) % 40))
    frame[:100].write_parquet(tmp_path / "1.parquet")
    rest = frame[100:]
    rest.with_columns(pl.col("user_id").cast(pl.UInt64)).write_parquet(tmp_path / "2.parquet")
    late = frame[:50].with_columns(pl.col("ts") + 10_000_000, user_id=pl.lit(3.0))
    late.write_parquet(tmp_path / "3.parquet")
    batch, rejects = read(tmp_path)
    assert not rejects
    assert len(set(batch.user.tolist())) == 41


def test_case_f3_labels_of_two_types_absent_fields_and_repeated_keys(tmp_path):
    bools = [line(ts=str(T0 + i), label=("true", "1", "false", "0")[i % 4]) for i in range(40)]
    batch, rejects = read(write_lines(tmp_path / "b.jsonl", bools))
    assert not rejects
    assert batch.label.tolist() == [1, 1, 0, 0] * 10
    absent = [line(ts=str(T0 + i), price="1" if i % 2 else None) for i in range(40)]
    batch, rejects = read(write_lines(tmp_path / "a.jsonl", absent))
    assert (len(batch), dict(rejects)) == (20, {"missing": 20})
    assert rejects.causes()[0]["detail"] == "there is no field price"
    twice = [line(ts=str(T0 + i), label=("1", "0")) for i in range(40)]
    batch, rejects = read(write_lines(tmp_path / "t.jsonl", twice))
    assert (len(batch), batch.label.sum()) == (40, 0)  # the last one counts, as live


def test_a_file_without_a_column_of_a_feature_does_not_borrow_it_from_its_neighbour(tmp_path):
    frame = good_events(100)
    frame[:50].write_parquet(tmp_path / "1.parquet")
    frame[50:].drop("price").write_parquet(tmp_path / "2.parquet")
    batch, rejects = read(tmp_path)
    assert (len(batch), dict(rejects)) == (50, {"missing": 50})


ARROW = {
    "decimal": (pl.Series(["7", str(2**64)]).cast(pl.Decimal(38, 0)), ["7", "18446744073709551616"]),
    "scaled decimal": (pl.Series(["7.00", "7.50"]).cast(pl.Decimal(38, 2)), ["7", None]),
    "binary": (pl.Series([b"u7", b"\xff\x00"]), ["u7", "ff00"]),
    "uuid": (pl.Series([uuid.UUID(int=2**127 + 1).bytes, b"\xff" * 16]), [str(uuid.UUID(int=2**127 + 1)), str(uuid.UUID(bytes=b"\xff" * 16))]),
    "whole floats": (pl.Series([7.0, 2.0**53 + 2]), ["7", None]),
    "float32": (pl.Series([7.0, 2.0**25], dtype=pl.Float32), ["7", None]),
    "booleans": (pl.Series([True, False]), [None, None]),
    "enum": (pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])), ["a", "b"]),
    "large": (pl.Series([2**63 + 1, 1], dtype=pl.UInt64), [str(2**63 + 1), "1"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ARROW)
def test_columns_mean_the_same_in_parquet_in_live_arrow_and_in_json(tmp_path, kind):
    column, expected = ARROW[kind]
    frame = good_events(2).with_columns(user_id=column)
    wanted = DECODER.from_json(
        [line(user_id=None if e is None else json.dumps(e)) for e in expected], 0
    ).batch.user
    frame.write_parquet(tmp_path / "e.parquet")
    batch, rejects = read(tmp_path / "e.parquet")
    live = DECODER.from_arrow(to_arrow_message(frame), 0)
    for found, left_out in ((batch, dict(rejects)), (live.batch, {r.reason: 1 for r in live.rejects})):
        np.testing.assert_array_equal(found.user, wanted)
        assert set(left_out) == ({"type"} if None in expected else set())


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([datetime.datetime(2026, 1, 1, 5)] * 2, dtype=pl.Datetime("ns")),
        pl.Series([datetime.datetime(2026, 1, 1, 5)] * 2, dtype=pl.Datetime("us")),
        pl.Series([datetime.datetime(2026, 1, 1, 5)] * 2)
        .dt.replace_time_zone("UTC")
        .dt.convert_time_zone("Europe/Berlin"),
        pl.Series(["2026-01-01T05:00:00", "2026-01-01T06:00:00+01:00"]),
        pl.Series([float(T0 + 5 * 3_600_000)] * 2),
        pl.Series([decimal.Decimal(T0 + 5 * 3_600_000)] * 2),
    ],
)
def test_case_f4_times_that_leave_no_choice_are_read_in_files_and_live(tmp_path, column):
    frame = good_events(2).with_columns(ts=column)
    frame.write_parquet(tmp_path / "e.parquet")
    for batch in (read(tmp_path / "e.parquet")[0], DECODER.from_arrow(to_arrow_message(frame), 0).batch):
        assert batch.ts.tolist() == [T0 + 5 * 3_600_000] * 2


def test_a_hash_of_converted_values_is_that_of_their_digits():
    batch = DECODER.from_json(
        [line(category="12.0"), line(category='"12"'), line(category="true"), line(category="1")], 0
    ).batch
    column = DECODER.schema.group("category").first_col
    a, b, c, d = batch.features[:, column].tolist()
    assert (a, c) == (b, d)
    assert a != c
    assert mix64(batch.user).shape == (4,)


def test_one_bad_byte_and_a_byte_order_mark_cost_no_other_row(tmp_path):
    lines = [line(ts=str(T0 + i)) for i in range(20)]
    lines[3] = lines[3].replace(b'"c"', b'"\xff"')
    path = tmp_path / "e.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    batch, rejects = read(path)
    assert (len(batch), dict(rejects)) == (19, {"json": 1})


def test_a_file_without_event_ids_is_read_and_the_difference_to_live_messages_counted(tmp_path):
    lines = [line(ts=str(T0 + i), event_id=None) for i in range(20)]
    batch, rejects = read(write_lines(tmp_path / "e.jsonl", lines))
    assert (len(batch), dict(rejects.differs)) == (20, {"event_id is absent": 20})
    assert {r.reason for r in DECODER.from_json(lines, 0).rejects} == {"missing"}


def test_durations_are_no_ids_and_no_categories(tmp_path):
    """A duration has no text: the conversion was an error that ended the reading of a file, and of messages."""
    for field, reason in (("event_id", "type"), ("category", "type"), ("user_id", "type"), ("price", "type")):
        frame = good_events(3).with_columns(pl.duration(seconds=pl.int_range(3)).alias(field))
        frame.write_parquet(tmp_path / "e.parquet")
        assert dict(read(tmp_path / "e.parquet")[1]) == {reason: 3}
        assert [r.reason for r in DECODER.from_packed([to_arrow_message(frame)], 0).rejects] == [reason]
