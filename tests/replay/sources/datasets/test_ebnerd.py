"""The EB-NeRD adapter: on the real files exact counts, on generated ones order, labels and errors."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ecdctr.events.decoder import EventDecoder
from ecdctr.replay.sources.datasets.ebnerd import EbNerd
from ecdctr.state.errors import DataError

DATA = Path(os.environ.get("ECDCTR_DATA", "/nonexistent")) / "ebnerd"
real = pytest.mark.skipif(
    not DATA.is_dir(), reason="needs the real logs: set ECDCTR_DATA to the folder that holds ebnerd/"
)

# What is only known after the click, or tells the length of the list or the place in it.
FORBIDDEN = ("read_time", "scroll", "next_", "inview", "clicked", "place", "event_id", "list_id", "session")


@pytest.fixture
def folder(tmp_path):
    """Two lists of one second, one earlier in the other file, and a history."""
    moment = dt.datetime(2023, 5, 20, 12)
    common = {
        "gender": None,
        "age": 40,
        "postcode": None,
        "is_subscriber": True,
        "is_sso_user": False,
        "device_type": 2,
    }
    types = {"gender": pl.Int8, "postcode": pl.Int8, "article_id": pl.Int32}

    def behaviors(split, rows):
        (tmp_path / split).mkdir()
        lists = [
            {
                "impression_id": i,
                "impression_time": t,
                "user_id": u,
                "article_id": page,
                "article_ids_inview": seen,
            }
            | {"article_ids_clicked": clicked, "next_read_time": 9.0}
            | common
            for i, t, u, page, seen, clicked in rows
        ]
        pl.DataFrame(lists, schema_overrides=types).write_parquet(tmp_path / split / "behaviors.parquet")

    behaviors("train", [(7, moment, 1, None, [10, 11, 12], [11]), (5, moment, 2, 10, [12, 13], [12, 13])])
    behaviors("validation", [(9, moment - dt.timedelta(hours=1), 1, 11, [13, 10], [10])])
    times = [moment - dt.timedelta(days=9, minutes=m) for m in range(40, 0, -1)]
    history = {
        "user_id": [1, 2],
        "impression_time_fixed": [times[::2], times[1::2]],
        "article_id_fixed": [[10, 11] * 10, [12, 13] * 10],
    }
    pl.DataFrame(history).write_parquet(tmp_path / "train" / "history.parquet")
    articles = pl.DataFrame({"article_id": [10, 11, 12, 13], "premium": [0.0, 0.0, 1.0, 0.0]})
    articles.write_parquet(tmp_path / "premium_articles.parquet")
    lengths = pl.DataFrame({"article_id": [10, 11, 13], "article_length": [0, 1_023, 1_024]})
    lengths.write_parquet(tmp_path / "article_length.parquet")
    return tmp_path


def test_rows_come_list_by_list_in_the_order_of_time(folder):
    rows = pl.concat(EbNerd(folder, "A").frames())
    assert rows["list_id"].to_list() == [9, 9, 5, 5, 7, 7, 7]
    assert rows["item_id"].to_list() == [13, 10, 12, 13, 10, 11, 12]
    assert rows["label"].to_list() == [0, 1, 1, 1, 0, 1, 0]
    assert rows["ts"][0] == int(dt.datetime(2023, 5, 20, 11, tzinfo=dt.UTC).timestamp() * 1000)
    assert rows["ts"].is_sorted()


def test_the_mappings(folder):
    a, b = EbNerd(folder, "A"), EbNerd(folder, "B")
    assert pl.concat(a.frames())["domain"].to_list() == [0, 0, 1, 0, 0, 0, 1]
    assert pl.concat(b.frames())["domain"].to_list() == [1, 1, 1, 1, 0, 0, 0]
    assert a.count() == b.count() == 7


def test_articles_are_joined_and_unknown_values_are_null(folder):
    rows = pl.concat(EbNerd(folder, "A").frames())
    length = dict(zip(rows["item_id"], rows["length"], strict=True))
    assert length == {10: 0, 11: 10, 12: None, 13: 10}
    assert rows["gender"].null_count() == 7
    assert rows["subscriber"].to_list() == [1] * 7
    assert rows["page"].to_list() == ["article"] * 4 + ["front"] * 3


def test_the_table_of_articles_serves_as_well(folder):
    (folder / "premium_articles.parquet").unlink()
    (folder / "article_length.parquet").unlink()
    table = {
        "article_id": [10, 11, 12, 13],
        "premium": [False, False, True, False],
        "body": ["", "x" * 1_023, "y", "z"],
    }
    pl.DataFrame(table).write_parquet(folder / "articles.parquet")
    rows = pl.concat(EbNerd(folder, "A").frames())
    assert rows["domain"].to_list() == [0, 0, 1, 0, 0, 0, 1]
    assert rows["length"].to_list()[4:6] == [0, 10]


def test_history_in_mapping_a_leaves_out_what_plays_the_ads(folder):
    a, b = (pl.concat(EbNerd(folder, m).history()) for m in "AB")
    assert 12 not in a["item_id"]
    assert a["label"].sum() == 30
    assert b["label"].sum() == 40


def test_sampled_negatives_are_items_clicked_before(folder):
    rows = pl.concat(EbNerd(folder, "B", seed=1).history())
    clicks, made = (rows.filter(pl.col("label") == v) for v in (1, 0))
    assert made.height > 0
    for ts, user, item in made.select("ts", "user_id", "item_id").iter_rows():
        before = clicks.filter((pl.col("ts") < ts) & (pl.col("ts") >= ts - 86_400_000))
        assert item in before["item_id"]
        own = clicks.filter((pl.col("ts") == ts) & (pl.col("user_id") == user))
        assert item not in own["item_id"]
    assert rows["ts"].is_sorted()
    assert rows["event_id"].n_unique() == rows.height
    assert rows.equals(pl.concat(EbNerd(folder, "B", seed=1).history()))
    assert not rows.equals(pl.concat(EbNerd(folder, "B", seed=2).history()))


@pytest.mark.parametrize("mapping", ["A", "B"])
def test_everything_decodes_and_no_feature_gives_the_click_away(folder, mapping):
    source = EbNerd(folder, mapping)
    decoder = EventDecoder(source.feature_specs())
    for frames in (source.frames(), source.history()):
        for frame in frames:
            decoded = decoder.from_frame(frame)
            assert decoded.rejects == []
            assert len(decoded.batch) == frame.height
    for spec in source.feature_specs():
        assert not any(word in spec.field for word in FORBIDDEN), spec.field


def test_errors_name_the_path_and_where_to_get_the_data(folder, tmp_path):
    with pytest.raises(DataError, match=r"no folder .*nowhere.*recsys\.eb\.dk"):
        EbNerd(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not 'C'"):
        EbNerd(folder, "C")
    behaviors = folder / "train" / "behaviors.parquet"
    table = pl.read_parquet(behaviors)
    table.drop("gender", "age").write_parquet(behaviors)
    with pytest.raises(DataError, match=r"behaviors\.parquet has no column gender, age"):
        list(EbNerd(folder).frames())
    behaviors.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"behaviors\.parquet cannot be read as Parquet"):
        list(EbNerd(folder).frames())
    behaviors.unlink()
    with pytest.raises(DataError, match=r"behaviors\.parquet is missing.*recsys\.eb\.dk"):
        EbNerd(folder).count()


@real
@pytest.mark.parametrize(
    ("mapping", "natural", "ads"),
    [
        ("A", (467_835, 46_705, 1_935), (115_219, 3_568, 1_796)),
        ("B", (407_010, 35_904, 1_697), (176_044, 14_369, 1_269)),
    ],
)
def test_real_counts(mapping, natural, ads):
    source = EbNerd(DATA, mapping)
    rows = pl.concat(source.frames())
    for domain, expected in enumerate((natural, ads)):
        part = rows.filter(pl.col("domain") == domain)
        assert (part.height, part["label"].sum(), part["user_id"].n_unique()) == expected
    assert source.count() == rows.height == 583_054
    assert rows["user_id"].n_unique() == 1_935
    assert rows["item_id"].n_unique() == 3_729
    assert rows["label"].mean() == pytest.approx(0.0862, abs=5e-5)
    assert rows["list_id"].n_unique() == len(rows["list_id"].rle()) == 50_080
    assert rows["ts"].is_sorted()
    assert rows["length"].null_count() == 0


@real
def test_real_history_is_older_than_every_impression():
    first = next(EbNerd(DATA, "B").frames())["ts"][0]
    rows = pl.concat(EbNerd(DATA, "B").history())
    assert rows["label"].sum() == 258_318
    assert rows["label"].mean() == pytest.approx(0.2, abs=0.001)
    assert rows["ts"].max() < first
    assert pl.concat(EbNerd(DATA, "A").history())["label"].sum() == 245_284
    # Popular items are about as frequent among non-clicks as among clicks.
    clicks, made = (rows.filter(pl.col("label") == v)["item_id"].value_counts(normalize=True) for v in (1, 0))
    both = clicks.join(made, on="item_id", how="inner")
    assert np.corrcoef(both["proportion"], both["proportion_right"])[0, 1] > 0.95
