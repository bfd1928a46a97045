"""Adapters of published data sets: on their schema samples, and on generated files of the true shape."""

from __future__ import annotations

import csv
import gzip
import io
import os
import random
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ecdctr.events.decoder import EventDecoder
from ecdctr.replay.sources import SourceLog, steps_of
from ecdctr.replay.sources.datasets.digix import Digix
from ecdctr.replay.sources.datasets.kuairand import KuaiRand
from ecdctr.replay.sources.datasets.taobao import Taobao
from ecdctr.replay.sources.registry import Source, open_source
from ecdctr.state.errors import DataError

DATA = Path(os.environ.get("ECDCTR_DATA", "/nonexistent"))
samples = pytest.mark.skipif(
    not (DATA / "digix2022_schema").is_dir(),
    reason="needs the schema samples: set ECDCTR_DATA to the folder that holds digix2022_schema/ and kuairand_schema/",
)

KUAIRAND_LOG = [
    "user_id",
    "video_id",
    "date",
    "hourmin",
    "time_ms",
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "long_view",
    "play_time_ms",
    "duration_ms",
    "profile_stay_time",
    "comment_stay_time",
    "is_profile_enter",
    "is_rand",
    "tab",
]
KUAIRAND_VIDEO = [
    "video_id",
    "author_id",
    "video_type",
    "upload_dt",
    "upload_type",
    "visible_status",
    "video_duration",
    "server_width",
    "server_height",
    "music_id",
    "music_type",
    "tag",
]
KUAIRAND_USER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    "register_days_range," + ",".join(f"onehot_feat{i}" for i in range(18))
).split(",")
DIGIX_ADS = [
    "log_id",
    "label",
    "user_id",
    "age",
    "gender",
    "residence",
    "city",
    "city_rank",
    "series_dev",
    "series_group",
    "emui_dev",
    "device_name",
    "device_size",
    "net_type",
    "task_id",
    "adv_id",
    "creat_type_cd",
    "adv_prim_id",
    "inter_type_cd",
    "slot_id",
    "site_id",
    "spread_app_id",
    "hispace_app_tags",
    "app_second_class",
    "app_score",
    "ad_click_list_v001",
    "ad_click_list_v002",
    "ad_click_list_v003",
    "ad_close_list_v001",
    "ad_close_list_v002",
    "ad_close_list_v003",
    "pt_d",
    "u_newsCatInterestsST",
    "u_refreshTimes",
    "u_feedLifeCycle",
]
DIGIX_FEEDS = [
    "u_userId",
    "u_phonePrice",
    "u_browserLifeCycle",
    "u_browserMode",
    "u_feedLifeCycle",
    "u_refreshTimes",
    "u_newsCatInterests",
    "u_newsCatDislike",
    "u_newsCatInterestsST",
    "u_click_ca2_news",
    "i_docId",
    "i_s_sourceId",
    "i_regionEntity",
    "i_cat",
    "i_entities",
    "i_dislikeTimes",
    "i_upTimes",
    "i_dtype",
    "e_ch",
    "e_m",
    "e_po",
    "e_pl",
    "e_rn",
    "e_section",
    "e_et",
    "label",
    "cillabel",
    "pro",
]

# What is known only after the click, tells the label, or sums up the future.
OUTCOMES = {
    KuaiRand: {
        "is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms",
        "profile_stay_time", "comment_stay_time", "is_profile_enter",
    },
    Digix: {"label", "cillabel", "pro", "e_po", "i_upTimes", "i_dislikeTimes", "log_id"},
    Taobao: {"clk", "nonclk", "btag"},
}  # fmt: skip


def write(path, header, rows, packed=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, header, restval="0")
    writer.writeheader()
    writer.writerows(rows)
    if packed:
        Path(f"{path}.gz").write_bytes(gzip.compress(text.getvalue().encode()))
    else:
        path.write_text(text.getvalue())


def kuairand(folder, rows=300, videos=None, users=None, packed=False):
    """Logs sorted by user, as published; gives the rows written."""
    rng = random.Random(3)
    videos = videos or [str(i) for i in range(40)]
    users = users or [str(i) for i in range(12)]
    start = 1_649_400_000_000
    log = [
        {
            "user_id": rng.choice(users), "video_id": rng.choice(videos), "date": "20220408",
            "hourmin": str(rng.choice([0, 900, 2300])), "time_ms": str(start + rng.randrange(10**9)),
            "is_click": str(rng.randrange(2)), "play_time_ms": "77", "tab": str(rng.randrange(4)),
        }
        for _ in range(rows)
    ]  # fmt: skip
    log.sort(key=lambda r: int(r["user_id"]))
    half = len(log) // 2
    write(folder / "log_standard_4_08_to_4_21_pure.csv", KUAIRAND_LOG, log[:half], packed)
    write(folder / "log_standard_4_22_to_5_08_pure.csv", KUAIRAND_LOG, log[half:], packed)
    return log


def kuairand_tables(folder):
    videos = [
        {"video_id": str(i), "author_id": str(i % 7), "video_type": "AD" if i % 4 == 0 else "NORMAL"}
        | {"upload_type": "X", "video_duration": "90000.0", "music_type": "", "tag": "3,9" if i % 2 else ""}
        for i in range(40)
    ]
    write(folder / "video_features_basic_pure.csv", KUAIRAND_VIDEO, videos)
    users = [{"user_id": str(i), "user_active_degree": "full_active"} for i in range(12)]
    write(folder / "user_features_pure.csv", KUAIRAND_USER, users)


def digix(folder, rows=200):
    rng = random.Random(5)

    def minute():
        return f"202206{rng.randrange(1, 9):02d}{rng.randrange(24):02d}{rng.randrange(60):02d}"

    feeds = [
        {
            "u_userId": str(rng.randrange(9)),
            "i_docId": f"d{rng.randrange(30)}",
            "e_et": minute(),
            "i_cat": "210",
        }
        | {"label": rng.choice(["1", "-1"]), "u_newsCatInterestsST": "195^44", "i_entities": ""}
        for _ in range(rows)
    ]
    ads = [
        {
            "log_id": str(i),
            "user_id": str(rng.randrange(9)),
            "adv_id": str(rng.randrange(20)),
            "pt_d": minute(),
        }
        | {"label": rng.choice(["0", "1"]), "u_newsCatInterestsST": "195^44", "ad_click_list_v001": "1^2^3"}
        for i in range(rows // 2)
    ]
    write(folder / "train_data_feeds.csv", DIGIX_FEEDS, feeds)
    write(folder / "train_data_ads.csv", DIGIX_ADS, ads)
    return feeds, ads


def taobao(folder, rows=200):
    rng = random.Random(7)
    start = 1_494_000_000
    behaviours = [
        {
            "user": str(rng.randrange(9)),
            "time_stamp": str(start + rng.randrange(10**5)),
            "cate": "4505",
            "brand": "7",
        }
        | {"btag": rng.choice(["pv"] * 8 + ["cart", "fav", "buy"])}
        for _ in range(rows)
    ]
    behaviours.append({"user": "1", "time_stamp": "-2082844800", "btag": "pv", "cate": "1", "brand": "1"})
    behaviours.append({"user": "1", "time_stamp": str(start), "btag": "look", "cate": "1", "brand": "1"})
    sample = [
        {"user": str(rng.randrange(9)), "time_stamp": str(start + rng.randrange(10**5)), "pid": "430548_1007"}
        | {"adgroup_id": str(i % 15), "clk": str(i % 5 // 4), "nonclk": str(1 - i % 5 // 4)}
        for i in range(rows // 2)
    ]
    ads = [
        {"adgroup_id": str(i), "cate_id": "4505", "campaign_id": "2", "customer": "3", "brand": "NULL"}
        | {"price": "170.0"}
        for i in range(15)
    ]
    write(folder / "behavior_log.csv", ["user", "time_stamp", "btag", "cate", "brand"], behaviours)
    write(folder / "raw_sample.csv", ["user", "time_stamp", "adgroup_id", "pid", "nonclk", "clk"], sample)
    header = ["adgroup_id", "cate_id", "campaign_id", "customer", "brand", "price"]
    write(folder / "ad_feature.csv", header, ads)
    # The published header ends with a blank.
    header = ["userid", "cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level"]
    header += ["shopping_level", "occupation", "new_user_class_level "]
    write(folder / "user_profile.csv", header, [{"userid": str(i), "age_level": "5"} for i in range(8)])
    return behaviours, sample


def frame_of(source):
    frame = pl.concat(source.frames())
    assert frame["ts"].drop_nulls().is_sorted()
    assert frame["event_id"].n_unique() == frame.height
    return frame


def decode(source):
    return EventDecoder(source.feature_specs()).from_frame(frame_of(source))


def test_kuairand_joins_both_tables_and_knows_its_ads(tmp_path):
    log = kuairand(tmp_path / "data", packed=True)
    kuairand_tables(tmp_path / "data")
    source = open_source(f"kuairand:{tmp_path}")
    frame = frame_of(source)
    assert frame.height == len(log)
    ads = sum(int(r["video_id"]) % 4 == 0 for r in log)
    assert frame["domain"].sum() == ads
    assert frame["label"].sum() == sum(int(r["is_click"]) for r in log)
    row = frame.filter(item_id="1").row(0, named=True)
    assert (row["author"], row["length"], row["tag"]) == ("1", 6, ["3", "9"])
    assert row["user_active_degree"] == "full_active"
    assert set(frame["hour"].to_list()) == {0, 9, 23}
    decoded = decode(source)
    assert decoded.rejects == []
    assert len(decoded.batch) == len(log)


def test_kuairand_videos_of_no_known_type_are_rejected_by_name(tmp_path):
    log = kuairand(tmp_path, videos=[str(i) for i in range(44)])
    kuairand_tables(tmp_path)
    decoded = decode(KuaiRand(tmp_path))
    unknown = sum(int(r["video_id"]) >= 40 for r in log)
    assert unknown > 0
    assert [r.reason for r in decoded.rejects] == ["type"] * unknown
    assert 'neither "natural" nor "ad"' in decoded.rejects[0].detail


def test_digix_maps_users_and_labels_of_both_logs(tmp_path):
    feeds, ads = digix(tmp_path / "train")
    source = open_source(f"digix:{tmp_path}")
    frame = frame_of(source)
    natural, ad = frame.filter(domain=0), frame.filter(domain=1)
    assert (natural.height, ad.height) == (len(feeds), len(ads))
    assert natural["label"].sum() == sum(r["label"] == "1" for r in feeds)
    assert ad["label"].sum() == sum(r["label"] == "1" for r in ads)
    assert set(natural["user_id"]) == set(ad["user_id"]) == {str(i) for i in range(9)}
    first = min(r["e_et"] for r in feeds)
    wanted = pl.Series([first]).str.to_datetime("%Y%m%d%H%M").dt.epoch("ms")[0]
    assert natural["ts"].min() == wanted
    assert ad["ad_click_list_v001"][0].to_list() == ["1", "2", "3"]
    assert natural["ad_click_list_v001"].null_count() == natural.height
    decoded = decode(source)
    assert decoded.rejects == []
    # One person, one hash, whichever log names them.
    assert len(np.unique(decoded.batch.user)) == 9


def test_taobao_labels_behaviour_beyond_looking(tmp_path):
    behaviours, sample = taobao(tmp_path)
    source = open_source(f"taobao:{tmp_path}")
    frame = frame_of(source)
    natural, ad = frame.filter(domain=0), frame.filter(domain=1)
    assert (natural.height, ad.height) == (len(behaviours), len(sample))
    assert natural["label"].sum() == sum(r["btag"] in ("cart", "fav", "buy") for r in behaviours)
    assert ad["label"].sum() == sum(r["clk"] == "1" for r in sample)
    assert set(natural["item_id"]) == {"4505-7", "1-1"}
    assert ad["price"].to_list() == [170.0] * ad.height
    assert frame.filter(user_id="8")["age_level"].null_count() == frame.filter(user_id="8").height
    decoded = decode(source)
    assert sorted(r.reason for r in decoded.rejects) == ["missing", "ts"]
    assert "proxy" in source.name


@pytest.fixture(params=[KuaiRand, Digix, Taobao], ids=lambda kind: kind.__name__)
def made(request, tmp_path):
    if request.param is KuaiRand:
        kuairand(tmp_path)
        kuairand_tables(tmp_path)
    else:
        {Digix: digix, Taobao: taobao}[request.param](tmp_path)
    return request.param(tmp_path)


def test_no_outcome_is_among_the_columns(made):
    columns = set(frame_of(made).columns) - {"label"}
    assert not columns & OUTCOMES[type(made)]
    fields = {spec.field for spec in made.feature_specs()}
    assert not fields & OUTCOMES[type(made)]
    assert {f for f in fields if not f.startswith("@")} <= columns


def test_it_is_a_source_that_can_be_replayed(made):
    assert isinstance(made, Source)
    log = SourceLog(made, EventDecoder(made.feature_specs()))
    steps = list(steps_of(log.batches(), natural_batch=64, ad_batch=32))
    assert sum(len(s.batch) for s in steps) + sum(log.rejects.values()) == frame_of(made).height
    assert {s.kind for s in steps} == {"natural", "ad"}
    assert made.count() is None


def test_each_missing_file_and_column_is_named_with_its_data_set(made):
    files = sorted(p for p in made.folder.iterdir() if p.is_file())
    for path in files:
        text = path.read_text()
        path.unlink()
        with pytest.raises(DataError, match=r"is missing in .*It is published as") as error:
            type(made)(made.folder)
        assert made.title in str(error.value)
        first, _, rest = text.partition("\n")
        wrong = ",".join(f"x{name}" for name in first.split(","))
        path.write_text(f"{wrong}\n{rest}")
        with pytest.raises(DataError, match=f"{path.name} has no column "):
            type(made)(made.folder)
        path.write_text(text)
    type(made)(made.folder)


@pytest.mark.parametrize("kind", ["kuairand", "digix", "taobao"])
def test_a_folder_that_is_not_there_says_where_to_get_it(kind):
    with pytest.raises(DataError, match=r"there is no folder /nowhere.*published as"):
        open_source(f"{kind}:/nowhere")


@samples
def test_digix_schema_sample():
    source = Digix(DATA / "digix2022_schema")
    decoded = decode(source)
    assert decoded.rejects == []
    assert np.bincount(decoded.batch.domain).tolist() == [10, 10]
    raw = pl.read_csv(DATA / "digix2022_schema" / "train_data_ads.csv")
    assert decoded.batch.label[decoded.batch.domain == 1].sum() == raw["label"].sum()
    assert list(pl.read_csv(DATA / "digix2022_schema" / "train_data_feeds.csv").columns) == DIGIX_FEEDS
    assert list(raw.columns) == DIGIX_ADS


@samples
def test_kuairand_schema_samples(tmp_path):
    folder = DATA / "kuairand_schema"
    for name in ("video_features_basic_pure", "user_features_pure"):
        shutil.copyfile(folder / f"{name}.head.csv", tmp_path / f"{name}.csv")
    videos = pl.read_csv(tmp_path / "video_features_basic_pure.csv", infer_schema=False)
    users = pl.read_csv(tmp_path / "user_features_pure.csv", infer_schema=False)
    assert (videos.columns, users.columns) == (KUAIRAND_VIDEO, KUAIRAND_USER)
    log = kuairand(tmp_path, 500, videos["video_id"].to_list(), users["user_id"].to_list())
    decoded = decode(KuaiRand(tmp_path))
    assert decoded.rejects == []
    kinds = dict(zip(videos["video_id"], videos["video_type"], strict=True))
    assert decoded.batch.domain.sum() == sum(kinds[r["video_id"]] == "AD" for r in log)
