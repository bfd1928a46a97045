"""Case F5: bags that are written as text, and words for a missing value, mean the same in every form of an event."""

from __future__ import annotations

import csv
import json

import numpy as np
import polars as pl
import pytest

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder, to_arrow_message
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.text_lists import UNREADABLE, ids_of_text, split_lists
from ecdctr.replay.sources import EventFiles, MappedTables, SourceLog

T0 = 1_767_225_600_000
SPECS = [FeatureSpec(name="price", kind="numeric"), FeatureSpec(name="tags", kind="bag", max_length=4)]
DECODER = EventDecoder(SPECS, list_field=None)
MAPPING = """
[[tables]]
path = "{path}"
domain = "natural"
[tables.columns]
ts = "ts"
user_id = "user_id"
item_id = "item_id"
label = "label"
event_id = "event_id"
{fields}
[[features]]
name = "price"
kind = "numeric"
[[features]]
name = "tags"
kind = "bag"
max_length = 4
"""

TEXTS = {
    "a,b": ["a", "b"], "a, b": ["a", "b"], "a|b": ["a", "b"], "a|b,c": ["a", "b,c"], "a": ["a"], "a b": ["a b"], " a ": ["a"],
    "['t0', 't1']": ["t0", "t1"], '["t0","t1"]': ["t0", "t1"], "['t0' 't1']": ["t0", "t1"], "[7, 8.0]": ["7", "8"],
    "[7. 8.]": ["7", "8"], "{a,b}": ["a", "b"], "('a', 'b')": ["a", "b"], "[]": [], "": None, "null": None, "None": None, "\\N": None,
    " NaN ": None, "['a'": ..., "[[1]]": ..., "[1.5]": ..., "[None]": ..., "[True]": ..., "[1e300]": ..., "[007, 1_0, x]": ["007", "1_0", "x"], "[a, null]": ..., "['\\ud800']": ...,
    "[" * 3000: ...,
}  # fmt: skip


def event(i: int, tags) -> dict:
    return {
        "event_id": f"e{i}", "ts": T0 + i, "user_id": f"u{i}", "item_id": "i", "label": i % 2, "price": 1.5, "tags": tags,
    }  # fmt: skip


EVENTS = [event(i, text) for i, text in enumerate(TEXTS)]
GOOD = [i for i, ids in enumerate(TEXTS.values()) if ids is not ...]


@pytest.fixture(scope="module")
def expected() -> Batch:
    """The rows with the ids that each text means, as JSON lists."""
    values = [json.dumps(event(i, list(TEXTS.values())[i])).encode() for i in GOOD]
    decoded = DECODER.from_json(values, 0)
    assert not decoded.rejects
    return decoded.batch


def same(a: Batch, b: Batch) -> None:
    for name in ("ts", "user", "item", "features", "dense", "label"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def live_json(_folder):
    decoded = DECODER.from_json([json.dumps(e).encode() for e in EVENTS], 0)
    return decoded.batch, {
        r.reason: sum(x.reason == r.reason for x in decoded.rejects) for r in decoded.rejects
    }


def live_arrow(dtype):
    def read(_folder):
        frame = pl.DataFrame(EVENTS).with_columns(pl.col("tags").cast(dtype))
        decoded = DECODER.from_packed([to_arrow_message(frame)], 0)
        return decoded.batch, {"type": sum(r.rows for r in decoded.rejects)}

    return read


def write(folder, kind):
    path = folder / f"e.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(e) + "\n" for e in EVENTS))
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(EVENTS[0]))
            writer.writeheader()
            writer.writerows(EVENTS)
    else:
        getattr(pl.DataFrame(EVENTS), "write_parquet" if kind == "parquet" else "write_ipc")(path)
    return path


def read_log(source, decoder):
    log = SourceLog(source, decoder)
    return Batch.concat([*log.batches()]), dict(log.rejects)


def files(kind):
    return lambda folder: read_log(EventFiles(write(folder, kind), domain="natural"), DECODER)


def mapped(kind):
    def read(folder):
        path = write(folder, kind)
        (folder / "m.toml").write_text(MAPPING.format(path=path.name, fields=""))
        return read_log(MappedTables(folder / "m.toml"), DECODER)

    return read


FORMS = {
    "JSON": live_json, "Arrow text": live_arrow(pl.String), "Arrow categories": live_arrow(pl.Categorical),
    **{f"file {kind}": files(kind) for kind in ("jsonl", "csv", "parquet", "arrow")},
    **{f"mapping {kind}": mapped(kind) for kind in ("jsonl", "csv", "parquet", "arrow")},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_case_f5_a_bag_in_text_means_the_same_in_every_form(tmp_path, expected, form):
    batch, rejects = FORMS[form](tmp_path)
    same(batch, expected)
    assert rejects == {"type": len(TEXTS) - len(GOOD)}


def test_case_f5_a_text_that_is_no_list_is_named():
    [reject] = DECODER.from_json([json.dumps(event(0, "['a'")).encode()], 0).rejects
    assert (
        reject.detail == """tags is "['a'", expected ids separated by "|" or ",", or a list as ["a", "b"]"""
    )


def test_case_f5_a_mapping_names_another_separator(tmp_path):
    texts = {
        "a;b": ["a", "b"],
        "a,b;c|d": ["a,b", "c|d"],
        "['a', 'b']": ["a", "b"],
        "": None,
        "null": None,
        "x": ["x"],
    }
    frame = pl.DataFrame([event(i, text) for i, text in enumerate(texts)])
    values = [json.dumps(event(i, ids)).encode() for i, ids in enumerate(texts.values())]
    for kind in ("csv", "parquet"):
        getattr(frame, f"write_{kind}")(tmp_path / f"e.{kind}")
        fields = '[tables.fields]\ntags = {column = "tags", separator = ";"}'
        (tmp_path / "m.toml").write_text(MAPPING.format(path=f"e.{kind}", fields=fields))
        batch, rejects = read_log(MappedTables(tmp_path / "m.toml"), DECODER)
        assert not rejects
        same(batch, DECODER.from_json(values, 0).batch)


@pytest.mark.parametrize(
    "word", ["\\N", "NA", "n/a", "NaN", "none", "(null)", "-", " - ", "", "NaT", "?", "undefined"]
)
def test_case_f5_usual_words_for_null_are_missing_numbers_in_csv(tmp_path, word):
    path = tmp_path / "e.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(EVENTS[0]))
        writer.writeheader()
        writer.writerows(event(i, "a") | {"price": word if i % 2 else 2.5} for i in range(10))
    batch, rejects = read_log(EventFiles(path, domain="natural"), DECODER)
    assert not rejects
    assert batch.dense[:, 0].tolist() == [2.5, 0.0] * 5


def test_a_column_is_read_as_its_texts_alone():
    column = pl.Series([*TEXTS, None])
    lists, bad = split_lists(column)
    for row, text in enumerate(TEXTS):
        alone = ids_of_text(text)
        assert bad[row] == (alone is UNREADABLE)
        assert lists.to_list()[row] == (None if bad[row] else alone)
    assert not bad[-1]
    assert lists[-1] is None
    only_plain, bad = split_lists(pl.Series(["a", None, "b c"]))
    assert only_plain.to_list() == [["a"], None, ["b c"]]
    assert not bad.any()


@pytest.mark.parametrize("word", ["None", "NA", " - ", ""])
def test_case_f5_a_word_for_null_in_a_required_field_is_missing_with_and_without_a_mapping(tmp_path, word):
    """Found by `make fuzz`: with a mapping, such a label was of the wrong type."""
    for field in ("label", "ts"):
        rows = [
            {name: word if name == field else value for name, value in event(i, "a").items()}
            for i in range(3)
        ]
        path = tmp_path / "e.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(EVENTS[0]))
            writer.writeheader()
            writer.writerows([*rows, event(9, "a")])
        (tmp_path / "m.toml").write_text(MAPPING.format(path=path.name, fields=""))
        for source in (EventFiles(path, domain="natural"), MappedTables(tmp_path / "m.toml")):
            batch, rejects = read_log(source, DECODER)
            assert (len(batch), rejects) == (1, {"missing": 3}), (field, type(source))
