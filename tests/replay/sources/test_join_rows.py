"""Impressions and clicks in files of their own: the same rows as the labelled log, and what a window loses."""

from __future__ import annotations

import math
import re

import numpy as np
import polars as pl
import pytest

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.join import JoinSettings
from ecdctr.replay.metrics import pcoc
from ecdctr.replay.sources import SourceLog, open_source
from ecdctr.replay.sources.simulator import Simulator
from ecdctr.state.errors import ConfigError, DataError

FEATURES = """
[[features]]
name = "user"
field = "user_id"
[[features]]
name = "category"
[[features]]
name = "x"
kind = "numeric"
"""

APART = """
[[tables]]
path = "impressions.*"
event = "impression"
domain = {column = "domain", ad = [1], natural = [0]}
[tables.columns]
ts = "ts"
user_id = "user_id"
item_id = "item_id"
impression_id = "impression_id"

[[tables]]
path = "clicks.*"
event = "click"
[tables.columns]
ts = "ts"
impression_id = "impression_id"
"""

LABELLED = """
[[tables]]
path = "labelled.parquet"
domain = {column = "domain", ad = [1], natural = [0]}
[tables.columns]
ts = "ts"
user_id = "user_id"
item_id = "item_id"
label = "label"
"""

MEAN_DELAY_MS = 60_000


def read(folder, tables, **join):
    path = folder / "map.toml"
    path.write_text(tables + FEATURES)
    source = open_source(f"map:{path}", join=JoinSettings(**join))
    log = SourceLog(source, EventDecoder(source.feature_specs()))
    return Batch.concat(list(log.batches())), log.rejects


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apart")
    sim = Simulator(3, days=2, live_from=0, users=500, items=80, natural_per_day=12_000, ads_per_day=3_000)
    parts = [sim.day_apart(day, MEAN_DELAY_MS) for day in range(2)]
    pl.concat([impressions for impressions, _ in parts]).write_parquet(folder / "impressions.parquet")
    pl.concat([clicks for _, clicks in parts]).sort("ts").write_parquet(folder / "clicks.parquet")
    labelled = pl.concat([sim.day(day) for day in range(2)])
    labelled.write_parquet(folder / "labelled.parquet")
    return folder, labelled


def equal(one, other):
    for name, column in one.columns().items():
        np.testing.assert_array_equal(column, getattr(other, name), err_msg=name)


def test_joined_rows_of_a_long_window_are_the_labelled_rows(simulated):
    folder, _ = simulated
    joined, rejects = read(folder, APART, natural_window="1h", ad_window="1h")
    equal(joined, read(folder, LABELLED)[0])
    assert joined.notes is None
    assert not rejects and rejects.accepted == 30_000
    assert any("_window = 1h catches 100.0%" in remark for remark in rejects.remarks)


def test_short_window_loses_the_known_share_of_clicks(simulated):
    folder, labelled = simulated
    joined, _ = read(folder, APART, natural_window="1m", ad_window="30s")
    for domain, window in enumerate((60_000, 30_000)):
        rows = labelled.filter(pl.col("domain") == domain)
        label = joined.label[joined.domain == domain]
        caught = 1 - math.exp(-window / MEAN_DELAY_MS)
        clicks = rows["label"].sum()
        spread = 4 * math.sqrt(caught * (1 - caught) / clicks)
        assert label.sum() / clicks == pytest.approx(caught, abs=spread)
        # The true probabilities, measured on the labels that are left, are too high by the share that is lost.
        known = pcoc(rows["label"].to_numpy(), rows["oracle"].to_numpy())
        assert pcoc(label, rows["oracle"].to_numpy()) == pytest.approx(
            known / caught, rel=spread / caught * 2
        )


def test_labelled_rows_of_one_table_stand_beside_joined_rows_of_others(simulated, tmp_path):
    folder, labelled = simulated
    for name in ("impressions", "clicks"):
        frame = pl.read_parquet(folder / f"{name}.parquet")
        if name == "impressions":
            frame = frame.filter(pl.col("domain") == 1)
        frame.write_parquet(tmp_path / f"{name}.parquet")
    labelled.filter(pl.col("domain") == 0).write_parquet(tmp_path / "labelled.parquet")
    joined, _ = read(tmp_path, LABELLED + APART, ad_window="1h")
    whole, _ = read(folder, LABELLED)
    for domain in (0, 1):
        equal(joined.take(joined.domain == domain), whole.take(whole.domain == domain))


ONE_FILE = """
[[tables]]
path = "log.csv"
event = {column = "action", impression = ["view"], click = ["click", "tap"]}
domain = "ad"
order = "any"
[tables.columns]
ts = {column = "at", unit = "s"}
user_id = "user"
item_id = "item"
request_id = "request"
[tables.fields]
category = "kind"
x = "price"
"""

# Two items of one request are two impressions; a "dwell" row is neither; the click of user u4 has no impression.
CSV = """at,action,user,item,request,kind,price
1767225630,click,,a,r1,,
1767225600,view,u1,a,r1,k1,1.5
1767225600,view,u1,b,r1,k2,2.5
1767225700,dwell,u1,b,r1,,
1767225601,view,u2,a,r2,k1,
1767225602,view,,a,r9,k1,
1767225640,tap,,a,r2,,
1767225641,tap,,a,r2,,
1767225650,click,u4,c,r7,,
1767225651,click,u4,c,,,
"""


def test_one_file_with_both_events_by_request_and_item(tmp_path):
    (tmp_path / "log.csv").write_text(CSV)
    joined, rejects = read(tmp_path, ONE_FILE)
    assert (joined.ts // 1000 - 1767225600).tolist() == [0, 0, 1]
    assert joined.label.tolist() == [1, 0, 1]
    assert joined.dense[:, 0].tolist() == [1.5, 2.5, 0.0]
    assert sorted(rejects.sentences()) == [
        f"1 row, missing: request_id is null ({tmp_path}/log.csv, row 10)",
        f"1 row, missing: user_id is null ({tmp_path}/log.csv, row 6)",
    ]
    assert f"{tmp_path}/log.csv: 1 row is neither impressions nor clicks" in rejects.remarks
    assert "join: 2 positive, 1 negative (docs/join.md)" in rejects.remarks
    assert "join: 2 click, 1 duplicate_click, 1 click_without_impression (docs/join.md)" in rejects.remarks


def test_ids_of_both_tables_may_differ_in_type(tmp_path):
    pl.DataFrame({"ts": [1767225600000], "user_id": [1], "item_id": [2], "impression_id": [7], "domain": [0],
                  "category": ["a"], "x": [0.0]}).write_parquet(tmp_path / "impressions.parquet")  # fmt: skip
    (tmp_path / "clicks.csv").write_text("ts,impression_id\n1767225600500,7\n")
    assert read(tmp_path, APART)[0].label.tolist() == [1]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('event = "click"', 'event = "seen"', "tables.1.event"),
        ('event = "click"\n[tables.columns]', 'event = "impression"\ndomain = "ad"\n[tables.columns]\nuser_id = "u"\nitem_id = "i"',
         'no table has event = "click"'),
        ('user_id = "user_id"\n', "", "the key tables.0.columns.user_id is missing"),
        ('item_id = "item_id"\n', 'item_id = "item_id"\nlabel = "x"\n', "the clicks of the join give the label"),
        ('ts = "ts"\nimpression_id = "impression_id"\n', 'ts = "ts"\n', "tables.1.columns needs one of impression_id and request_id"),
        ('ts = "ts"\nimpression_id = "impression_id"\n', 'ts = "ts"\nitem_id = "item_id"\nrequest_id = "r"\n', "by one of them"),
        ('event = "click"', 'domain = "ad"', "tables.1.columns.impression_id is given, but tables.1.event is not"),
    ],
)  # fmt: skip
def test_wrong_keys_of_events_are_named(simulated, old, new, words):
    folder, _ = simulated
    assert old in APART
    with pytest.raises(DataError, match=re.escape(words)):
        read(folder, APART.replace(old, new))


def test_what_cannot_be_done_yet_is_said(simulated):
    folder, _ = simulated
    with pytest.raises(ConfigError, match="needs sample weights, which training does not apply yet"):
        read(folder, APART, late_clicks="correct")
    with pytest.raises(DataError, match="cannot be sent to topics"):
        next(open_source(f"map:{folder}/map.toml").frames())
