"""Event files as they exist: odd types, null words, hidden and empty files. What leaves no choice is read; the rest is named."""

from __future__ import annotations

import datetime
import gzip
import json

import numpy as np
import polars as pl
import pytest
import zstandard

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.text_lists import list_of_text
from ecdctr.replay.sources import EventFiles, SourceLog, open_source
from ecdctr.state.errors import DataError, RowsRejectedError
from tests.support.logged_events import event_rows, write_csv, write_json, write_lines

SPECS = [
    FeatureSpec(name="user", field="user_id"),
    FeatureSpec(name="item", field="item_id"),
    FeatureSpec(name="category"),
    FeatureSpec(name="price", kind="numeric", transform="log1p"),
    FeatureSpec(name="tags", kind="bag", max_length=3),
]
ROWS = event_rows(400)


def read(path):
    log = SourceLog(open_source(str(path), features=SPECS), EventDecoder(SPECS))
    found = [*log.batches()]
    return (Batch.concat(found) if found else log.decoder.empty()), log.rejects


def same(a, b):
    for name in ("ts", "domain", "user", "item", "features", "dense", "label"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    batch, rejects = read(write_json(tmp_path_factory.mktemp("base") / "e.jsonl", ROWS))
    assert (len(batch), dict(rejects)) == (400, {})
    return batch


@pytest.mark.parametrize(
    "words", [("True", "False"), ("true", "false"), ("yes", "no"), ("Y", "N"), ("1.0", "0.0")]
)
def test_case_f4_labels_as_words_are_read(tmp_path, expected, words):
    rows = [row | {"label": words[1 - row["label"]]} for row in ROWS]
    batch, rejects = read(write_csv(tmp_path / "e.csv", rows))
    assert not rejects
    same(batch, expected)


@pytest.mark.parametrize(
    ("time", "sentence"),
    [
        (
            lambda ts: ts // 1000,
            r"ts is 1767225600, not within .* it looks like seconds.*e\.csv, row 1\).*unit = \"s\"",
        ),
        (lambda ts: ts * 1000, r'it looks like microseconds.*unit = "us"'),
        (lambda ts: ts * 1_000_000, r'it looks like nanoseconds.*unit = "ns"'),
        (
            lambda ts: datetime.datetime.fromtimestamp(ts / 1000, datetime.UTC).strftime(
                "%m/%d/%Y %I:%M:%S %p"
            ),
            r'every row was left out; 400 because ts is "01/01/2026 12:00:00 AM", expected milliseconds.*format = ',
        ),
    ],
)
def test_case_f4_times_in_another_form_are_one_sentence_with_the_way_out(tmp_path, time, sentence):
    batch, rejects = read(write_csv(tmp_path / "e.csv", [row | {"ts": time(row["ts"])} for row in ROWS]))
    assert len(batch) == 0
    with pytest.raises(RowsRejectedError, match=sentence):
        rejects.check("e.csv")
    assert RowsRejectedError.exit_code == 6


def test_case_f4_most_rows_left_out_is_an_error_and_a_few_are_not(tmp_path):
    for bad, fails in ((201, True), (199, False), (0, False)):
        rows = [row | {"label": 7} if i < bad else row for i, row in enumerate(ROWS)]
        _, rejects = read(write_json(tmp_path / "e.jsonl", rows))
        if fails:
            with pytest.raises(
                RowsRejectedError,
                match=r"201 of 400 rows were left out; 201 because label is 7, neither 0 nor 1",
            ):
                rejects.check("e")
        else:
            rejects.check("e")
    _, rejects = read(write_json(tmp_path / "e.jsonl", ROWS))
    with pytest.raises(RowsRejectedError, match="300 of 400 rows"):
        rejects.check("e", lost=300)


def test_case_f4_decimal_binary_and_nanosecond_columns_are_read(tmp_path, expected):
    frame = pl.DataFrame(ROWS)
    odd = frame.with_columns(
        user_id=pl.col("user_id").cast(pl.Binary),
        ts=pl.col("ts").cast(pl.Datetime("ms")).cast(pl.Datetime("ns")),
        label=pl.col("label").cast(pl.Boolean),
        price=pl.col("price").cast(pl.Decimal(10, 2)),
    )
    odd.write_parquet(tmp_path / "e.parquet")
    batch, rejects = read(tmp_path / "e.parquet")
    assert not rejects
    same(batch, expected)


@pytest.mark.parametrize("word", ["\\N", "NULL", "null", "None", "nan", "NaN", "<NA>", "NA", "N/A", ""])
def test_case_f5_words_for_null_are_null(tmp_path, word):
    rows = [row | {"price": word, "category": word} if i % 10 == 0 else row for i, row in enumerate(ROWS)]
    nulls = [row | {"price": None} if i % 10 == 0 else row for i, row in enumerate(ROWS)]
    batch, rejects = read(write_csv(tmp_path / "e.csv", rows))
    wanted, _ = read(write_json(tmp_path / "e.jsonl", nulls))
    assert not rejects
    np.testing.assert_array_equal(batch.dense, wanted.dense)
    category = EventDecoder(SPECS).schema.group("category").first_col
    missing = batch.features[::10, category] == 0
    assert missing.all() == (word not in ("NA", "N/A"))  # in a category, NA may be a value


@pytest.mark.parametrize(
    "form",
    [
        repr,
        json.dumps,
        lambda v: "[" + " ".join(map(repr, v)) + "]",
        lambda v: "[" + ",".join(v) + "]",
        lambda v: "{" + ",".join(v) + "}",
        lambda v: repr(tuple(v)),
    ],
)
def test_case_f5_lists_as_text_are_lists(tmp_path, expected, form):
    frame = pl.DataFrame([row | {"tags": form(row["tags"])} for row in ROWS])
    frame.write_csv(tmp_path / "e.csv")
    batch, rejects = read(tmp_path / "e.csv")
    assert not rejects
    same(batch, expected)


def test_a_list_as_text_that_cannot_be_read_is_named(tmp_path):
    pl.DataFrame(
        [row | {"tags": "[['a'], {}]"} if i == 5 else row | {"tags": "a|b"} for i, row in enumerate(ROWS)]
    ).write_csv(tmp_path / "e.csv")
    batch, rejects = read(tmp_path / "e.csv")
    assert len(batch) == 399
    assert "tags is \"[['a'], {}]\", expected ids separated by" in rejects.causes()[0]["detail"]
    assert list_of_text("[" * 5000 + "]" * 5000) is None


def test_case_f8_hidden_and_temporary_files_are_no_data(tmp_path, expected):
    write_json(tmp_path / "h00.jsonl", ROWS)
    for place in (
        ".ipynb_checkpoints/h00-checkpoint.jsonl",
        "_temporary/0/part-0.jsonl",
        "_SUCCESS.jsonl",
        ".h00.jsonl",
    ):
        write_json(tmp_path / place, ROWS)
    for path in (tmp_path, f"{tmp_path}/**/*.jsonl", f"{tmp_path}/*.jsonl"):
        batch, _ = read(path)
        same(batch, expected)
    assert any("4 files were passed over" in s for s in read(tmp_path)[1].remarks)
    # what is named is read; a folder of a column whose name begins with _ is data
    same(read(tmp_path / "_temporary/0/part-0.jsonl")[0], expected)
    same(read(f"{tmp_path}/_temporary/0/*.jsonl")[0], expected)
    write_json(tmp_path / "table" / "_date=1" / "e.jsonl", ROWS)
    same(read(tmp_path / "table")[0], expected)


def test_case_f9_a_column_that_no_feature_reads_may_change_its_type(tmp_path, expected):
    frame = pl.DataFrame(ROWS)
    frame[:200].with_columns(segments=pl.lit(["a"])).write_parquet(tmp_path / "h0.parquet")
    frame[200:].with_columns(segments=pl.lit("a,b")).write_parquet(tmp_path / "h1.parquet")
    batch, rejects = read(tmp_path)
    assert not rejects
    same(batch, expected)


@pytest.mark.parametrize("name", ["h01.csv", "h01.parquet", "h01.jsonl", "h01.csv.gz"])
def test_case_f10_empty_files_are_passed_over_and_named(tmp_path, expected, name):
    write_json(tmp_path / "h00.jsonl", ROWS[:200])
    (tmp_path / name).write_bytes(b"")
    write_json(tmp_path / "h02.jsonl", ROWS[200:])
    batch, rejects = read(tmp_path)
    same(batch, expected)
    assert rejects.remarks == [f"1 empty file was passed over: {tmp_path}/{name}"]
    for file in ("h00.jsonl", "h02.jsonl"):
        (tmp_path / file).unlink()
    batch, rejects = read(tmp_path)
    with pytest.raises(RowsRejectedError, match="contains no rows"):
        rejects.check("x")


def test_case_f10_byte_order_marks_arrays_and_utf_16_are_known(tmp_path, expected):
    content = [json.dumps(row).encode() for row in ROWS]
    batch, rejects = read(write_lines(tmp_path / "e.jsonl", [b"\xef\xbb\xbf" + content[0], *content[1:]]))
    assert not rejects
    same(batch, expected)
    for text in (json.dumps(ROWS), json.dumps(ROWS, indent=1)):
        (tmp_path / "a.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"a\.jsonl is a JSON array, and one object a line is needed"):
            read(tmp_path / "a.jsonl")
    (tmp_path / "u.jsonl").write_text(json.dumps(ROWS[0]), encoding="utf-16")
    with pytest.raises(DataError, match="encoded in UTF-16"):
        read(tmp_path / "u.jsonl")
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(row, indent=1) for row in ROWS[:9]))
    _, rejects = read(tmp_path / "p.jsonl")
    with pytest.raises(RowsRejectedError, match="every row was left out"):
        rejects.check("p.jsonl")
    with_mark = tmp_path / "b.csv"
    write_csv(with_mark, ROWS)
    with_mark.write_bytes(b"\xef\xbb\xbf" + with_mark.read_bytes())
    same(read(with_mark)[0], expected)


def test_a_source_counts_what_a_live_message_is_refused_for(tmp_path):
    frame = pl.DataFrame(ROWS).with_columns(pl.col("price").cast(pl.String)).drop("event_id")
    frame.write_parquet(tmp_path / "e.parquet")
    _, rejects = read(tmp_path / "e.parquet")
    assert dict(rejects.differs) == {"price is text": 400, "event_id is absent": 400}
    assert rejects.notices() == [
        "note: read from files, but refused in a live message: event_id is absent (400 rows), price is text (400 rows)"
    ]


def test_extra_fields_are_found_in_every_form(tmp_path):
    write_json(tmp_path / "e.jsonl", [row | {"list_id": "l"} for row in ROWS])
    assert EventFiles(tmp_path / "e.jsonl").extra_fields == ("list_id",)


def _as_table(suffix):
    def write(path):
        frame = pl.DataFrame(ROWS)
        frame.write_parquet(path) if suffix == ".parquet" else frame.write_ipc(
            path, compression="uncompressed"
        )

    return write


def _as_bytes(change):
    def write(path):
        text = write_csv(path, ROWS) if path.name.startswith("e.csv") else write_json(path, ROWS)
        path.write_bytes(change(text.read_bytes()))

    return write


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("e.jsonl", _as_bytes(gzip.compress), "compressed with gzip: add .gz to its name"),
        ("e.csv", _as_bytes(zstandard.compress), "compressed with Zstandard: add .zst to its name"),
        ("e.jsonl.gz", _as_bytes(bytes), "not compressed with gzip, as its name says: remove .gz"),
        ("e.csv.zst", _as_bytes(bytes), "not compressed with Zstandard, as its name says: remove .zst"),
        ("e.csv", _as_table(".parquet"), "in the format Parquet: its name needs the suffix .parquet"),
        ("e.jsonl", _as_table(".arrow"), "in the format Arrow: its name needs the suffix .arrow"),
        ("e.arrow", lambda path: pl.DataFrame(ROWS).write_ipc_stream(path), "an Arrow IPC stream"),
        ("e.csv", _as_bytes(lambda b: b.decode().encode("utf-16")), "UTF-16: convert it to UTF-8"),
        ("e.jsonl", _as_bytes(lambda b: b.decode().encode("utf-16-be")), "UTF-16: convert it to UTF-8"),
        ("e.csv", _as_bytes(lambda b: b.replace(b"\r\n", b"\n").replace(b"\n", b"\r")), "carriage returns alone"),
        ("e.jsonl", _as_bytes(lambda b: b.replace(b"\n", b"\r")), "carriage returns alone"),
    ],
)  # fmt: skip
def test_case_f10_a_file_that_is_not_what_its_name_says_is_called_what_it_is(tmp_path, name, write, sentence):
    path = tmp_path / name
    write(path)
    with pytest.raises(DataError, match=sentence) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("end", ["", "\r", "\r\n"])
def test_a_file_of_one_line_may_end_without_a_newline(tmp_path, end):
    (tmp_path / "e.jsonl").write_bytes(json.dumps(ROWS[0]).encode() + end.encode())
    batch, rejects = read(tmp_path / "e.jsonl")
    assert (len(batch), dict(rejects)) == (1, {})
