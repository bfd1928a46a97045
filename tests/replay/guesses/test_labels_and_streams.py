"""Which column says what was clicked, which rows are ads, and what the item is, where names are foreign or say nothing."""

from __future__ import annotations

import random

import polars as pl
import pytest

from ecdctr.replay.guesses import sample_files
from ecdctr.replay.guesses.findings import Found
from ecdctr.replay.guesses.identities import find_identities
from ecdctr.replay.guesses.labels import find_label
from ecdctr.replay.guesses.profiles import Profile
from ecdctr.replay.guesses.streams import find_stream
from ecdctr.replay.guesses.times import TimeReading
from ecdctr.replay.sources import label_expression

RNG = random.Random(11)
CLICKS = [int(RNG.random() < 0.2) for _ in range(400)]
FLAGS = [int(RNG.random() < 0.3) for _ in range(400)]


def profiles(**columns):
    return [Profile(pl.Series(name, values, strict=False)) for name, values in columns.items()]


@pytest.mark.parametrize(
    "words", ["oui/non", "Sim/Não", "ja/nein", "sí/no", "vrai/faux", "да/нет", "はい/いいえ", "是/否", "Y/N"]
)
def test_words_for_yes_and_no_are_a_label_in_several_languages(words):
    yes, no = words.split("/")
    columns = profiles(prix=[RNG.random() for _ in CLICKS], clique=[yes if c else no for c in CLICKS])
    reading = find_label(columns, Found())
    assert reading is not None
    assert reading.label == "clique"
    assert reading.clicked.tolist() == CLICKS
    read = columns[1].raw.to_frame().select(label_expression(reading.label)).to_series().to_list()
    assert read == CLICKS  # a replay reads the same


def test_without_a_name_the_column_that_another_bears_out_is_the_label():
    dwell = [RNG.random() if c else None for c in CLICKS]
    found = Found()
    reading = find_label(profiles(a=FLAGS, b=CLICKS, c=dwell), found)
    assert reading is not None
    assert reading.label == "b"
    assert found.all[0].confidence == "guess"
    assert "c is filled" in found.all[0].why
    assert find_label(profiles(a=FLAGS, b=CLICKS), Found()) is None


def test_a_flag_of_ads_is_no_label():
    reading = find_label(profiles(is_sponsored=FLAGS, reaction=CLICKS), Found())
    assert reading is not None
    assert reading.label == "reaction"


def test_folders_that_are_named_as_streams_split_the_log(tmp_path, monkeypatch):
    for name in ("ads", "organic"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-0.csv").write_text("ts,user,item,click\n1,a,b,0\n")
    folders = [tmp_path / "ads", tmp_path / "organic"]
    assert [s.stream for s in sample_files([str(f) for f in folders], 20)[0]] == ["ad", "natural"]
    monkeypatch.chdir(tmp_path)
    assert [s.stream for s in sample_files(["ads", "organic/"], 20)[0]] == ["ad", "natural"]


@pytest.mark.parametrize(
    ("path", "paired", "column", "domain"),
    [
        ("natural", False, {"is_sponsored": FLAGS}, None),  # feed.csv, which holds both
        ("natural", False, {"placement": ["sponsored" if f else "organic" for f in FLAGS]}, None),
        ("ad", False, {"channel": ["display" if f else "search" for f in FLAGS]}, "ad"),
        ("ad", True, {"is_sponsored": FLAGS}, "ad"),
    ],
)
def test_a_column_that_tells_streams_apart_is_believed_before_the_name_of_a_file(
    path, paired, column, domain
):
    reading = find_stream(profiles(**column), path, "x.csv", Found(), paired=paired)
    assert reading.domain == domain


def test_an_item_without_a_name_is_what_determines_prices_and_ids_may_have_decimals():
    items = [RNG.randrange(40) for _ in CLICKS]
    users = [RNG.randrange(60) for _ in CLICKS]
    columns = profiles(
        cust_no=[f"{u + 100}.0" for u in users],
        z=[f"{i}.0" for i in items],
        price=[f"{(i * 7 % 31) + 0.5}" for i in items],
    )
    time = TimeReading(columns[0], "ms", pl.Series([i * 60_000 for i in range(len(items))]), "")
    ids = find_identities(columns, time, Found(), item=None, wanted={}, expanded=False, key=None, later=[])
    assert (ids.user, ids.item) == ("cust_no", "z")
