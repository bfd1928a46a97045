"""Which column says what was clicked, which rows are ads, and what the item is, where names are foreign or say nothing."""

from __future__ import annotations

import random

import polars as pl
import pytest

from ecdctr.replay.guesses import propose, sample_files
from ecdctr.replay.guesses.features import FeatureGuess, LeftOut, guess_feature
from ecdctr.replay.guesses.findings import Found
from ecdctr.replay.guesses.identities import find_identities
from ecdctr.replay.guesses.labels import find_label
from ecdctr.replay.guesses.profiles import Profile
from ecdctr.replay.guesses.streams import find_stream
from ecdctr.replay.guesses.times import TimeReading
from ecdctr.replay.sources import label_expression
from ecdctr.state.errors import DataError

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
        ("ad", False, {"type": ["sponsorisé" if f else "éditorial" for f in FLAGS]}, None),  # annonces.csv
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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b"\x00\x93noise\nmore noise\n", "none of its first lines is a JSON object"),
        ("x.csv", "a,b\nnaïve,1\n".encode("latin1"), "convert it to UTF-8"),
        ("x.csv", b"\n \n", "the file is empty"),
        ("x.json", b'{"a": 1}\n', "rename the file"),
        ("", b"", "there are no event files there"),
        ("../none.csv", None, "no such file or folder"),
    ],
)
def test_what_cannot_be_sampled_is_named_with_the_way_out(tmp_path, name, content, message):
    folder = tmp_path / "log"
    folder.mkdir()
    if content:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        sample_files([str(folder / name)], 20)


@pytest.mark.parametrize(("rows", "message"), [(0, "has no rows"), (1, "has only 1 row")])
def test_a_log_with_hardly_a_row_is_told_so(tmp_path, rows, message):
    (tmp_path / "x.csv").write_text("ts,user,item,click\n" + "1767225600000,a,b,0\n" * rows)
    with pytest.raises(DataError, match=message):
        propose(sample_files([str(tmp_path / "x.csv")], 20)[0], {})


@pytest.mark.parametrize(
    "values",
    [["$1,234.50", "$3.00"], ["12,00 €", "1.200,00 €"], ["5%", "7.5%"], ["EUR 4", "EUR 2"], ["1,234.5", "3"]],
)
def test_amounts_in_text_are_no_lists(values):
    guess = guess_feature(profiles(price=values * 50)[0], "price", 100)
    assert isinstance(guess, LeftOut)
    assert repr(values[0]) in guess.why


def test_ids_with_commas_stay_lists():
    guess = guess_feature(profiles(tags=["12,345", "7", "3,4,5"] * 50)[0], "tags", 150)
    assert isinstance(guess, FeatureGuess)
    assert guess.spec.kind == "bag"
