"""Nested values by dotted names, in JSON lines, Parquet and Arrow, give the same rows; columns separated by other signs."""

from __future__ import annotations

import json

import polars as pl
import pytest

from ecdctr.replay.sources.files import field_names, read_chunks
from ecdctr.replay.sources.mapped_tables import MappedTables
from tests.support.logged_events import T0

EVENTS = [
    {
        "at": {"ms": T0 + i},
        "user": {"id": f"u{i}", "home": {"city": f"c{i % 2}"}},
        "shown": [{"id": f"i{k}", "hit": int(k == i)} for k in range(2 + i % 2)],
    }
    for i in range(4)
]
MAPPING = """
[[tables]]
path = "{name}"
domain = "natural"
[tables.columns]
ts = "at.ms"
user_id = "user.id"
[tables.lists]
items = "shown.id"
labels = "shown.hit"
[tables.fields]
city = "user.home.city"
[[features]]
name = "city"
"""


def write(folder, form):
    path = folder / f"log.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    elif form == "parquet":
        pl.DataFrame(EVENTS).write_parquet(path)
    else:
        pl.DataFrame(EVENTS).write_ipc(path)
    return path


@pytest.mark.parametrize("form", ["jsonl", "parquet", "arrow", "feather", "ipc"])
def test_dotted_names_are_paths_into_objects_and_lists_of_objects(tmp_path, form):
    path = write(tmp_path, form)
    assert field_names(path) == ["at.ms", "user.id", "user.home.city", "shown.id", "shown.hit"]
    (tmp_path / "m.toml").write_text(MAPPING.format(name=path.name))
    frame = pl.concat(MappedTables(tmp_path / "m.toml").frames())
    expected = [
        (T0 + i, f"u{i}", f"i{k}", float(k == i), f"c{i % 2}") for i in range(4) for k in range(2 + i % 2)
    ]
    assert frame.select("ts", "user_id", "item_id", "label", "city").rows() == expected


def test_a_key_with_dots_comes_before_a_path(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"a.b": 1, "a": {"b": 2}}\n{"a": {"b": 3}}\n{"a": 4}\n')
    (chunk,) = read_chunks(tmp_path / "log.jsonl", None, {"a.b"})
    assert chunk["a.b"].to_list() == [1, 3, None]


def test_a_key_that_the_first_lines_lack_is_read(tmp_path):
    rows = [{"ts": T0 + i, "u": i, "i": i, "c": 0} | ({"x": f"v{i}"} if i > 1 else {}) for i in range(4)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "m.toml").write_text(
        '[[tables]]\npath = "log.jsonl"\ndomain = "ad"\n[tables.columns]\nts = "ts"\nuser_id = "u"\nitem_id = "i"\nlabel = "c"\n'
        '[[features]]\nname = "x"\n'
    )
    frame = pl.concat(MappedTables(tmp_path / "m.toml").frames(), how="vertical_relaxed")
    assert frame["x"].to_list() == [None, None, "v2", "v3"]


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_columns_of_csv_are_separated_by_what_the_header_has(tmp_path, sign):
    (tmp_path / "log.csv").write_text(f"a{sign}b\n1{sign}x\n")
    (chunk,) = read_chunks(tmp_path / "log.csv")
    assert chunk.rows() == [("1", "x")]
