"""Mapped tables whose rows stand for several impressions: lists of shown and clicked items, counts of views and clicks."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.replay.sources import SourceLog
from ecdctr.replay.sources.expansion import LABEL, CountsMap
from ecdctr.replay.sources.mapped_tables import MappedTables
from ecdctr.state.errors import DataError
from tests.support.logged_events import HOUR, T0

MAPPING = """
[[tables]]
path = {path}
domain = "ad"
order = "any"
[tables.columns]
ts = {ts}
user_id = "user"
{item}
{expansion}
[[features]]
name = "item"
field = "item_id"
[[features]]
name = "price"
kind = "numeric"
"""


def mapped(folder, expansion, *, item="", path='"log.parquet"', ts='"ts"'):
    (folder / "m.toml").write_text(MAPPING.format(path=path, ts=ts, item=item, expansion=expansion))
    return MappedTables(folder / "m.toml")


def read(source):
    log = SourceLog(source, EventDecoder(source.feature_specs()))
    found = [*log.batches()]
    return (Batch.concat(found) if found else log.decoder.empty()), log.rejects


SHOWN = [["a", "b", "c"], ["d"], [], None, ["a", "b"]]
TIMES = [T0 + i * HOUR for i in range(5)]


@pytest.mark.parametrize(
    ("expansion", "columns"),
    [
        ('clicked = "clicks"', {"clicks": [["b"], None, None, ["z"], ["a", "z"]]}),
        ('clicked = "clicks"', {"clicks": ["b", None, None, None, "a"]}),
        ('labels = "clicks"', {"clicks": [[0, 1, 0], [0], [], None, [1, 0]]}),
        ('labels = "clicks"', {"clicks": [[False, True, False], [False], [], None, [True, False]]}),
    ],
)
def test_a_row_with_a_list_of_items_is_one_impression_for_each(tmp_path, expansion, columns):
    prices = pl.Series([[1.0, 2.0, 3.0], [4.0], [], None, None], dtype=pl.List(pl.Float64))
    frame = pl.DataFrame({"ts": TIMES, "user": range(5), "shown": SHOWN, "price": prices, **columns})
    frame.write_parquet(tmp_path / "log.parquet")
    source = mapped(tmp_path, f'[tables.lists]\nitems = "shown"\n{expansion}\nalong = ["price"]')
    batch, rejects = read(source)
    assert batch.label.tolist() == [0, 1, 0, 0, 1, 0]
    assert (batch.ts - T0).tolist() == [0, 0, 0, HOUR, 4 * HOUR, 4 * HOUR]
    assert batch.dense[:, 0].tolist() == [1, 2, 3, 4, 0, 0]
    assert len(np.unique(batch.item)) == 4
    assert not rejects
    assert any("2 rows show nothing" in remark for remark in rejects.remarks)
    foreign = [r for r in rejects.remarks if "does not show" in r]
    assert len(foreign) == ("z" in str(columns))


def test_lists_in_text_and_labels_inside_of_items(tmp_path):
    (tmp_path / "log.csv").write_text(f"ts,user,shown,price\n{T0},u,N1-0 N2-1,3\n{T0 + 1},v,N-3-1,5\n")
    source = mapped(
        tmp_path, '[tables.lists]\nitems = "shown"\nlabel_after = "-"\nseparator = " "', path='"log.csv"'
    )
    frame = pl.concat(source.frames())
    assert frame.select("user_id", "item_id", "label").rows() == [
        ("u", "N1", 0.0),
        ("u", "N2", 1.0),
        ("v", "N-3", 1.0),
    ]


def test_lists_of_different_lengths_are_one_rejected_row(tmp_path):
    pl.DataFrame(
        {
            "ts": TIMES[:3],
            "user": range(3),
            "shown": [["a"], ["b", "c"], ["d"]],
            "clicks": [[1], [0], [0]],
            "price": [1.0, 2.0, 3.0],
        }
    ).write_parquet(tmp_path / "log.parquet")
    batch, rejects = read(mapped(tmp_path, '[tables.lists]\nitems = "shown"\nlabels = "clicks"'))
    assert batch.label.tolist() == [1, 0]
    assert rejects.sentences() == [
        f"1 row, type: clicks is [0], expected a list of 2 values ({tmp_path}/log.parquet, row 2)"
    ]


def test_a_text_that_is_no_list_is_one_rejected_row(tmp_path):
    (tmp_path / "log.csv").write_text(
        f'ts,user,shown,hits,price\n{T0},u,"[a, b]","[1, 0]",3\n{T0 + 1},v,"[a","[1]",5\n'
    )
    batch, rejects = read(
        mapped(tmp_path, '[tables.lists]\nitems = "shown"\nlabels = "hits"', path='"log.csv"')
    )
    assert batch.label.tolist() == [1, 0]
    assert [(c["rows"], c["detail"]) for c in rejects.causes()] == [(1, 'shown is "[a", expected a list')]


def test_counts_become_impressions_and_wrong_counts_are_named(tmp_path):
    (tmp_path / "log.csv").write_text(
        "ts,user,ad,price,views,clicks\n"
        + "".join(
            f"{T0 + i},u{i},a{i},1,{v},{c}\n"
            for i, (v, c) in enumerate([(4, 2), (0, 0), (2, 3), ("x", 0), (3, ""), (1, 1), (5, 0)])
        )
    )
    source = mapped(
        tmp_path,
        '[tables.counts]\nviews = "views"\nclicks = "clicks"',
        item='item_id = "ad"',
        path='"log.csv"',
    )
    assert source.count() is None
    batch, rejects = read(source)
    assert batch.label.tolist() == [0, 1, 0, 1, 1, 0, 0, 0, 0, 0]
    assert dict(rejects) == {"type": 3}
    assert {(c["detail"], c["where"].split(", ")[1]) for c in rejects.causes()} == {
        ("clicks is 3, more than views = 2", "row 3"),
        ('views is "x", expected a whole number', "row 4"),
    }
    assert rejects.remarks == [f"{tmp_path}/log.csv: 1 row shows nothing"]


def test_many_views_are_expanded_in_parts_with_the_same_clicks():
    rng = np.random.default_rng(1)
    views = rng.integers(0, 40_000, 20)
    clicks = (views * rng.random(20)).astype(int)
    parts = list(CountsMap(views="v", clicks="c").expand(pl.DataFrame({"v": views, "c": clicks})))
    assert max(len(p.frame) for p in parts) <= 65_536
    rows = np.concatenate([p.source for p in parts])
    labels = np.concatenate([p.frame[LABEL].to_numpy() for p in parts])
    assert np.bincount(rows, minlength=20).tolist() == views.tolist()
    assert np.bincount(rows, labels, minlength=20).tolist() == clicks.tolist()


@pytest.mark.parametrize(
    ("expansion", "item", "message"),
    [
        ("", 'label = "x"', "the key tables.0.columns.item_id is missing"),
        ('[tables.counts]\nviews = "v"\nclicks = "c"', "", "the key tables.0.columns.item_id is missing"),
        (
            '[tables.counts]\nviews = "v"\nclicks = "c"',
            'item_id = "i"\nlabel = "c"',
            "tables.0.columns.label is given, but tables.0.counts gives it",
        ),
        (
            '[tables.lists]\nitems = "v"\nclicked = "c"',
            'item_id = "i"',
            "tables.0.columns.item_id is given, but tables.0.lists gives it",
        ),
        ('[tables.lists]\nitems = "v"', "", "give one of clicked, labels and label_after"),
        ('[tables.lists]\nitems = "v"\nclicked = "c"', "", "lists of log.parquet reads the column 'v'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, expansion, item, message):
    pl.DataFrame({"ts": TIMES, "user": 1, "price": 1.0, "x": 1}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=re.escape(message)):
        mapped(tmp_path, expansion, item=item)


def test_times_that_begin_at_another_moment(tmp_path):
    pl.DataFrame({"t": [0, 90], "user": [1, 2], "i": ["a", "b"], "price": 1.0, "c": [0, 1]}).write_parquet(
        tmp_path / "log.parquet"
    )
    ts = '{column = "t", unit = "s", origin = "2026-01-01"}'
    batch, _ = read(mapped(tmp_path, "", item='item_id = "i"\nlabel = "c"', ts=ts))
    assert batch.ts.tolist() == [T0, T0 + 90_000]
    with pytest.raises(DataError, match="'soon' is not a date"):
        mapped(tmp_path, "", item='item_id = "i"\nlabel = "c"', ts=ts.replace("2026-01-01", "soon"))
