"""Mapped tables as they exist: odd time formats, lists, files of different types. What is wrong is a sentence."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.time import DAY_MS
from ecdctr.replay.sources import SourceLog
from ecdctr.replay.sources.mapped_tables import MappedTables
from ecdctr.state.errors import DataError, RowsRejectedError
from tests.support.logged_events import HOUR, T0, event_rows

MAPPING = """
[[tables]]
path = "{path}"
domain = "ad"
order = "{order}"
[tables.columns]
ts = {ts}
user_id = "user_id"
item_id = "item_id"
label = "label"
[tables.fields]
tags = {{column = "tags", separator = "^"}}
[[features]]
name = "user"
field = "user_id"
[[features]]
name = "price"
kind = "numeric"
[[features]]
name = "tags"
kind = "bag"
"""
ROWS = pl.DataFrame(event_rows(300)).drop("domain")


def mapped(folder, path="e.parquet", ts='"ts"', order="sorted"):
    (folder / "m.toml").write_text(MAPPING.format(path=path, ts=ts, order=order))
    return MappedTables(folder / "m.toml")


def read(source):
    log = SourceLog(source, EventDecoder(source.feature_specs(), list_field=None, max_ahead_ms=DAY_MS))
    found = [*log.batches()]
    return (Batch.concat(found) if found else log.decoder.empty()), log.rejects


def same(a, b):
    for name in ("ts", "user", "item", "features", "dense", "label"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.fixture
def expected(tmp_path):
    ROWS.write_parquet(tmp_path / "e.parquet")
    batch, rejects = read(mapped(tmp_path))
    assert (len(batch), dict(rejects)) == (300, {})
    return batch


@pytest.mark.parametrize("integers", [True, False])
def test_case_f13_a_time_without_minutes_is_read(tmp_path, integers):
    hours = [f"2601{1 + i // 24:02d}{i % 24:02d}" for i in range(48)]
    frame = ROWS[:48].with_columns(hour=pl.Series(hours).cast(pl.Int64 if integers else pl.String))
    frame.write_parquet(tmp_path / "e.parquet")
    batch, rejects = read(mapped(tmp_path, ts='{column = "hour", format = "%y%m%d%H"}'))
    assert not rejects
    assert batch.ts.tolist() == [T0 + i * HOUR for i in range(48)]


def test_case_f13_nanoseconds_and_half_days(tmp_path, expected):
    odd = ROWS.with_columns(
        ns=pl.col("ts") * 1_000_000 + 7,
        us=pl.col("ts").cast(pl.Datetime("ms")).dt.strftime("%m/%d/%Y %I:%M:%S %p"),
    )
    odd.write_parquet(tmp_path / "e.parquet")
    same(read(mapped(tmp_path, ts='{column = "ns", unit = "ns"}'))[0], expected)
    batch, _ = read(mapped(tmp_path, ts='{column = "us", format = "%m/%d/%Y %I:%M:%S %p"}'))
    assert batch.ts.tolist() == (expected.ts // 1000 * 1000).tolist()


@pytest.mark.parametrize(
    ("ts", "sentence"),
    [
        (
            '{column = "ts", format = "%H", zone = "Europe/Berln"}',
            "'Europe/Berln' is no time zone: write it as Europe/Berlin",
        ),
        ('{column = "ts", format = "%H", zone = "../etc/passwd"}', "is no time zone"),
        ('{column = "ts", format = "%H", zone = ""}', "is no time zone"),
    ],
)
def test_case_f13_a_wrong_zone_is_a_sentence(tmp_path, ts, sentence):
    with pytest.raises(DataError, match=sentence):
        mapped(tmp_path, ts=ts)


def test_case_f13_a_separator_for_a_list_is_not_needed(tmp_path, expected):
    ROWS.with_columns(pl.col("tags").list.join("^")).write_parquet(tmp_path / "e.parquet")
    same(read(mapped(tmp_path))[0], expected)


def test_times_that_the_mapping_cannot_read_are_named(tmp_path):
    ROWS.with_columns(when=pl.lit("01/02/26")).write_parquet(tmp_path / "e.parquet")
    _, rejects = read(mapped(tmp_path, ts='{column = "when", format = "%Y-%m-%d %H:%M:%S"}'))
    with pytest.raises(
        RowsRejectedError,
        match=r'every row was left out; 300 because ts cannot be read from when = "01/02/26" by the format %Y-%m-%d %H:%M:%S '
        r"\(.*e\.parquet, row 1\)\. Correct the mapping file",
    ):
        rejects.check("m")


@pytest.mark.parametrize("order", ["sorted", "any"])
@pytest.mark.parametrize("run_rows", [2_000_000, 100])
def test_files_of_different_types_in_any_order_give_the_same_rows(
    tmp_path, expected, monkeypatch, order, run_rows
):
    monkeypatch.setattr("ecdctr.replay.sources.sort.runs.__defaults__", (run_rows,))
    (tmp_path / "e.parquet").unlink()
    (tmp_path / "t").mkdir()
    ROWS[:100].with_columns(pl.col("price").cast(pl.Float32).cast(pl.Float64)).write_parquet(
        tmp_path / "t" / "1.parquet"
    )
    ROWS[100:200].with_columns(pl.col("user_id").cast(pl.Binary)).write_parquet(tmp_path / "t" / "2.parquet")
    last = ROWS[200:] if order == "sorted" else ROWS[200:].sample(fraction=1, shuffle=True, seed=1)
    last.with_columns(unread=pl.lit(1)).write_parquet(tmp_path / "t" / "3.parquet")
    batch, rejects = read(mapped(tmp_path, path="t", order=order))
    assert not rejects
    same(batch, expected)


@pytest.mark.parametrize("order", ["sorted", "any"])
def test_a_row_of_2099_in_a_table_is_rejected(tmp_path, expected, order):
    frame = ROWS.with_columns(ts=pl.when(pl.int_range(300) == 120).then(4_070_908_800_000).otherwise("ts"))
    frame.write_parquet(tmp_path / "e.parquet")
    batch, rejects = read(mapped(tmp_path, order=order))
    assert (len(batch), dict(rejects)) == (299, {"ts": 1})


def test_a_date_and_a_time_of_day_in_two_columns(tmp_path, expected):
    moment = pl.col("ts").cast(pl.Datetime("ms"))
    odd = ROWS.with_columns(
        day=moment.dt.strftime("%d.%m.%Y"), clock=moment.dt.strftime("%-H%M").cast(pl.Int64)
    )
    odd.write_parquet(tmp_path / "e.parquet")
    batch, rejects = read(mapped(tmp_path, ts='{column = "day", clock = "clock", format = "%d.%m.%Y %H%M"}'))
    assert not rejects
    assert batch.ts.tolist() == (expected.ts // 60_000 * 60_000).tolist()
    with pytest.raises(DataError, match="clock needs a format"):
        mapped(tmp_path, ts='{column = "day", clock = "clock", unit = "s"}')


def test_numbers_with_a_decimal_comma(tmp_path, expected):
    texts = pl.col("price").cast(pl.String).str.replace(".", ",", literal=True)
    ROWS.with_columns(preis="1.000." + texts).write_parquet(tmp_path / "e.parquet")
    source = mapped(tmp_path, ts='"ts"')
    text = (tmp_path / "m.toml").read_text()
    (tmp_path / "m.toml").write_text(
        text.replace("[tables.fields]", '[tables.fields]\nprice = {column = "preis", decimal = ","}')
    )
    batch, rejects = read(MappedTables(source.path))
    assert not rejects
    np.testing.assert_allclose(batch.dense[:, 0], [float(f"1000{p}") for p in ROWS["price"]], rtol=1e-6)
