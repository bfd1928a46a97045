"""The mapping file: any tables as events, and every wrong key by its name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ecdctr.events.decoder import EventDecoder
from ecdctr.replay.sources import SourceLog, steps_of
from ecdctr.replay.sources.mapped_tables import MappedTables
from ecdctr.replay.sources.mapping import Mapping, label_expression
from ecdctr.replay.sources.registry import Source, open_source
from ecdctr.state.errors import DataError

ONE_TABLE = """
name = "Shop"

[[tables]]
path = "log.csv"
domain = {column = "slot", ad = ["sponsored"], natural = ["organic", "search"]}
order = "any"

[tables.columns]
ts = {column = "time", format = "%d/%m/%Y %H:%M:%S", zone = "Europe/Berlin"}
user_id = "customer"
item_id = "sku"
label = "dwell > 10"
list_id = "request"

[tables.fields]
tags = {column = "tag_list", separator = "^"}
price = "item_price"

[[features]]
name = "user"
field = "user_id"
tpm = true

[[features]]
name = "tags"
kind = "bag"

[[features]]
name = "price"
kind = "numeric"

[[features]]
name = "hour"
field = "@hour"
"""

CSV = """time,slot,customer,sku,dwell,request,tag_list,item_price
02/07/2026 12:00:00,organic,u1,s1,11,r1,a^b,1.5
02/07/2026 11:00:00,sponsored,u2,s2,3,r2,,2
02/07/2026 11:00:00,banner,u2,s3,30,r2,c,2
02/07/2026 13:00:00,search,u1,s2,,r3,a,
nonsense,search,u1,s2,1,r3,a,2
"""


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "shop.toml").write_text(ONE_TABLE)
    (tmp_path / "log.csv").write_text(CSV)
    return tmp_path / "shop.toml"


def test_one_table_in_which_a_column_decides(shop):
    source = open_source(f"map:{shop}")
    assert isinstance(source, Source)
    assert (source.name, source.extra_fields, source.count()) == ("Shop", ("list_id",), None)
    frame = pl.concat(source.frames())
    # Berlin is two hours ahead of UTC in July.
    noon = np.datetime64("2026-07-02T10:00:00", "ms").astype(int)
    assert frame["ts"].to_list() == [None, noon - 3_600_000, noon - 3_600_000, noon, noon + 3_600_000]
    decoded = EventDecoder(source.feature_specs()).from_frame(frame)
    assert decoded.index.tolist() == [1, 3]
    assert decoded.batch.domain.tolist() == [1, 0]
    assert decoded.batch.label.tolist() == [0.0, 1.0]
    assert frame["tags"].to_list()[1:4] == [None, ["c"], ["a", "b"]]
    assert decoded.batch.dense[:, 0].tolist() == [2.0, 1.5]
    reasons = {r.index: r.reason for r in decoded.rejects}
    assert set(reasons) == {0, 2, 4}  # no time, no domain, no label


TWO_TABLES = """
[[tables]]
path = "views/*.parquet"
domain = "natural"
[tables.columns]
ts = {column = "at", unit = "s"}
user_id = "uid"
item_id = "doc"
label = 'action in ["open", "share"]'

[[tables]]
path = "ads.jsonl"
domain = "ad"
order = "any"
[tables.columns]
ts = "ts"
user_id = "user"
item_id = "ad"
label = "clicked"
[tables.fields]
section = "placement"

[[features]]
name = "user"
field = "user_id"
[[features]]
name = "section"
[[features]]
name = "advertiser"
"""


@pytest.fixture
def media(tmp_path):
    (tmp_path / "media.toml").write_text(TWO_TABLES)
    (tmp_path / "views").mkdir()
    seconds = 1_767_225_600
    for day in range(2):
        pl.DataFrame({"at": [seconds + 86_400 * day + 60 * i for i in range(50)]}).with_columns(
            uid=pl.int_range(50) % 7, doc=pl.int_range(50), section=pl.lit("news"),
            action=pl.Series(["open", "skip", "share", "skip", "skip"] * 10),
        ).write_parquet(tmp_path / "views" / f"{day}.parquet")  # fmt: skip
    ads = pl.DataFrame({"ts": [1000 * (seconds + 60 * i + 30) for i in range(40)]}).with_columns(
        user=pl.int_range(40) % 7, ad=pl.int_range(40) % 3, clicked=pl.int_range(40) % 4 == 0,
        placement=pl.lit("top"), advertiser=pl.lit("acme"),
    )  # fmt: skip
    ads.sample(fraction=1.0, shuffle=True, seed=1).write_ndjson(tmp_path / "ads.jsonl")
    return tmp_path / "media.toml"


def test_two_tables_are_merged_by_time(media):
    source = MappedTables(media)
    frame = pl.concat(source.frames(), how="diagonal_relaxed")
    assert frame.height == 140
    assert frame["ts"].is_sorted()
    assert source.stragglers == 0
    natural, ad = frame.filter(domain="natural"), frame.filter(domain="ad")
    assert natural["label"].sum() == 40
    assert ad["label"].sum() == 10
    assert set(natural["section"]) == {"news"}
    assert set(ad["section"]) == {"top"}
    assert natural["advertiser"].null_count() == 100
    log = SourceLog(source, EventDecoder(source.feature_specs()))
    steps = list(steps_of(log.batches(), natural_batch=32, ad_batch=16))
    assert sum(len(s.batch) for s in steps) == 140
    assert not log.rejects


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('order = "any"', 'ordr = "any"', r"unknown key tables\.0\.ordr"),
        ('list_id = "request"', 'list = "request"', r"unknown key tables\.0\.columns\.list"),
        ('separator = "^"', 'seperator = "^"', r"unknown key tables\.0\.fields\.tags\.seperator"),
        ('name = "Shop"', 'title = "Shop"', "unknown key title"),
        ('name = "price"\nkind', 'name = "price"\nkinds', r"unknown key features\.2\.kinds"),
        ('sku"\nlabel = "dwell > 10"', 'sku"', r"the key tables\.0\.columns\.label is missing"),
        ('"dwell > 10"', '"dwell >> 10"', r"tables\.0\.columns\.label: 'dwell >> 10' is not a condition"),
        ('format = "%d/%m/%Y %H:%M:%S", ', "", r"tables\.0\.columns\.ts: give either unit"),
        (
            '"dwell > 10"',
            '"stay > 10"',
            r"label of log.csv reads the column 'stay'; .*log.csv has time, slot",
        ),
        ('"item_price"', '"cost"', "price of log.csv reads the column 'cost'"),
        ('price = "item_price"', "", "feature 'price' reads the column 'price', which no table has"),
        ('price = "item_price"', 'prices = "item_price"', "fields prices of log.csv are read by no feature"),
        ('name = "price"', 'name = "price"\nfield = "label"', "is never a feature"),
        ('column = "slot", ad', 'column = "slot", ads', r"unknown key tables\.0\.domain\.ads"),
        ("domain = {", 'domain = "both" #', r"tables\.0\.domain: Input should be 'natural' or 'ad'"),
        ("[[features]]", "[[features]", "not valid TOML"),
        ('"log.csv"', '"logs.csv"', "logs.csv: no such file"),
    ],
)
def test_what_is_wrong_is_named(shop, old, new, message):
    text = shop.read_text()
    assert old in text
    shop.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        MappedTables(shop)


def test_a_missing_mapping_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"mapping .*/none.toml cannot be read"):
        open_source(f"map:{tmp_path}/none.toml")


@pytest.mark.parametrize("text", ["a b", "x > one", 'x > "b"', "x in [", "x =", "x == "])
def test_conditions_that_cannot_be_read_are_refused(text):
    if text == "a b":  # a column may have a blank in its name
        assert label_expression(text).meta.root_names()[0] == "a b"
        return
    with pytest.raises(ValueError, match=r"condition"):
        label_expression(text)


def test_the_example_of_the_documentation_is_valid():
    text = (Path(__file__).parents[3] / "docs" / "replay.md").read_text(encoding="utf-8")
    example = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0]
    mapping = Mapping(**tomllib.loads(example))
    assert [t.domain for t in mapping.tables] == ["natural", "ad"]
