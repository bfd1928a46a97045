"""``ecdctr replay --slice``, ``--base``: what they say against the events themselves, and that they survive an interruption."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

from ecdctr import factory
from ecdctr.cli import app
from ecdctr.commands.requested_arms import parse_arms
from ecdctr.commands.tpm_train import train_tpm
from ecdctr.events.encode import hash_ids
from ecdctr.replay.sources import Simulator
from ecdctr.settings import load_settings
from ecdctr.state.errors import ConfigError, StateError
from ecdctr.state.row_logs import ScoreLog
from tests.support import logs
from tests.support.logs import SMALL, StopAfter, replay

pytestmark = pytest.mark.slow  # replays of the small log

SETTINGS = (
    *logs.SETTINGS,
    "schedule.release_every=1d",
    "schedule.gate=false",
)
SLICES = ("category", "x", "hour")
ARMS = {"arms": "full,ads-only,mixed", "variants": ["small:model.dim=4,model.hidden=[8]"]}


def run(folder, *more, source=SMALL, arms=None, **options):
    loaded = load_settings(None, (*SETTINGS, *more), environ={})
    asked = parse_arms(**arms) if arms else parse_arms(None)
    return replay(loaded, source, folder, width=100, arms=asked, **options)


def scores(folder):
    return ScoreLog(folder / "state" / "scores", read_only=True).read()


@pytest.fixture(scope="module")
def events():
    simulator = Simulator(days=8, live_from=4, users=300, items=80, natural_per_day=1_500, ads_per_day=200)
    return pl.concat(simulator.frames())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    options = {"arms": ARMS, "slices": SLICES, "base": "mixed", "csv": True}
    return run(folder, "model.history=none", **options) | {"folder": folder}


def test_each_value_has_its_rows_under_its_own_name(whole, events):
    ads = events.filter(pl.col("domain") == 1)
    slices = pl.read_parquet(whole["folder"] / "slices.parquet").filter(domain="ad", arm="actr")
    wanted = ads.group_by(value=pl.col("category").cast(pl.String)).agg(
        n=pl.len(), clicks=pl.col("label").sum()
    )
    found = slices.filter(slice="category").select("value", "n", "clicks")
    assert found.height == wanted.height
    assert sorted(found.rows()) == sorted(wanted.rows())
    assert found["n"].to_list() == sorted(found["n"], reverse=True)
    hour = pl.from_epoch("ts", time_unit="ms").dt.hour().cast(pl.String)
    by_hour = ads.group_by(value=hour).agg(n=pl.len(), clicks=pl.col("label").sum())
    assert sorted(slices.filter(slice="hour").select("value", "n", "clicks").rows()) == sorted(by_hour.rows())
    assert slices.filter(slice="x")["n"].sum() == len(ads)
    assert slices.filter(slice="x").height == 5


def test_all_arms_stand_in_every_form(whole):
    folder = whole["folder"]
    table = pl.read_parquet(folder / "slices.parquet").filter(domain="ad", slice="category")
    assert set(table["arm"]) == {"actr", "ads_only", "mixed", "small", "oracle"}
    assert set(pl.read_csv(folder / "slices.csv")["slice"]) >= set(SLICES)
    page = (folder / "report.html").read_text()
    assert "<details open><summary>By category</summary>" in page
    assert "By earlier ads of the user" in page
    assert set(scores(folder)) >= {"f_category", "f_x", "f_hour"}
    assert not any(
        n.startswith("f_") for n in ScoreLog(folder / "state/arms/small/scores", read_only=True).columns
    )


def test_differences_are_to_the_arm_that_was_asked_for(whole):
    result = whole["result"]
    assert result["base"]["ad"] == "mixed"
    assert set(result["differences"]["ad"]) == {"actr", "ads_only", "small"}
    gauc = {arm: figures["gauc"] for arm, figures in result["totals"]["ad"].items()}
    got = result["differences"]["ad"]["ads_only"]
    assert got["value"] == pytest.approx(gauc["ads_only"] - gauc["mixed"], abs=1e-12)
    assert "minus mixed" in (whole["folder"] / "report.html").read_text()


@pytest.mark.parametrize("stops", [(1_500, 4_000)])
def test_gone_on_with_they_equal_the_uninterrupted(whole, tmp_path, monkeypatch, stops):
    asked = {"arms": ARMS, "slices": SLICES, "base": "mixed", "resume": True}
    for rows in stops:
        with monkeypatch.context() as patch:
            StopAfter(patch, rows)
            assert run(tmp_path, "model.history=none", **asked)["meta"]["interrupted"]
    with pytest.raises(StateError, match="started with --slice 'category,x,hour', but --slice is now None"):
        run(tmp_path, "model.history=none", **{**asked, "slices": ()})
    done = run(tmp_path, "model.history=none", **asked)
    assert json.dumps(done["result"]) == json.dumps(whole["result"])
    ours, theirs = scores(tmp_path), scores(whole["folder"])
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_tpm_vectors_are_looked_for_where_the_model_reads_them(tmp_path, events):
    more = ("model.history=attention", f'state.folder="{tmp_path / "worker"}"', "tpm.month=2d")
    loaded = load_settings(None, (*SETTINGS, *more), environ={})
    quiet = Console(quiet=True)
    months = train_tpm(quiet, quiet, loaded, SMALL)
    done = run(tmp_path / "out", *more)
    kept = scores(tmp_path / "out")
    snapshots = factory.snapshot_store(loaded.settings)
    assert months
    known = {
        kind: np.unique(np.concatenate(list(snapshots.iter_ids(kind, months)))) for kind in ("user", "item")
    }
    user, item = (np.isin(kept[kind], known[kind]) for kind in ("user", "item"))
    assert 0 < user.sum() < len(user) or 0 < item.sum() < len(item)
    read = kept["s_tpm"] < 4
    assert read.any()
    np.testing.assert_array_equal(kept["s_tpm"][read], (user + 2 * item)[read])
    ads = kept["domain"] == 1
    found = {
        row["value"]: row["n"]
        for row in done["result"]["slices"]
        if (row["slice"], row["domain"], row["arm"]) == ("tpm", "ad", "actr")
    }
    names = ("neither", "user only", "item only", "user and item", "no snapshot yet")
    counted = {name: int((kept["s_tpm"][ads] == code).sum()) for code, name in enumerate(names)}
    assert found == {name: n for name, n in counted.items() if n}
    some = hash_ids({"u": events["user_id"].cast(pl.String).unique()})["u"]
    assert np.isin(kept["user"], some).all()


def test_staleness_counts_the_rows_of_both_streams(whole, events):
    moments: dict[str, list[int]] = {}
    counted = dict.fromkeys(("first seen", "under 1 h", "1 to 24 h", "1 to 7 days", "over 7 days"), 0)
    for user, ts, domain in events.select("user_id", "ts", "domain").rows():
        older = [t for t in moments.setdefault(user, []) if t < ts]
        hours = (ts - older[-1]) / 3_600_000 if older else -1
        bounds = zip(counted, (0, 1, 24, 168, np.inf), strict=True)
        if domain == 1:
            counted[next(name for name, below in bounds if hours < below)] += 1
        moments[user].append(ts)
    slices = pl.read_parquet(whole["folder"] / "slices.parquet").filter(slice="user_gap_both", arm="small")
    assert dict(slices.select("value", "n").rows()) == {k: n for k, n in counted.items() if n}
    assert set(slices["domain"]) == {"ad"}
    alone = {
        r["value"]: r["n"]
        for r in whole["result"]["slices"]
        if (r["slice"], r["domain"], r["arm"]) == ("user_gap", "ad", "small")
    }
    assert counted["first seen"] < alone["first seen"]


def test_without_being_asked_no_feature_is_kept(tmp_path):
    done = run(tmp_path, "model.history=none", until="2026-01-06")
    assert not any(name.startswith("f_") for name in scores(tmp_path))
    found = {row["slice"] for row in done["result"]["slices"]}
    assert found == {"user_rows", "user_gap", "item_rows", "item_gap", "user_gap_both"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"slices": ("categories",)},
            r"--slice 'categories'.*there are user, item, category, slot, hour, x\.",
        ),
        ({"base": "mixed"}, r"--base 'mixed'.*there are full, ads-only, cpm"),
        ({"base": "big", "arms": ARMS}, r"--base 'big'.*there are full, ads-only, mixed, small$"),
    ],
)
def test_what_there_is_not_is_answered_with_what_there_is(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, "model.history=none", **options)
    assert not (tmp_path / "state" / "scores").exists()


def test_the_command_takes_them(tmp_path):
    ask = [
        "replay",
        SMALL,
        "--out",
        str(tmp_path),
        "--until",
        "2026-01-06",
        "--slice",
        "slot",
        "--slice",
        "x",
        "--base",
        "full",
    ]
    for text in (*SETTINGS, "model.history=none"):
        ask += ["--set", text]
    done = CliRunner().invoke(app, ask)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "report.json").read_text())["result"]
    assert {"slot", "x"} <= {row["slice"] for row in result["slices"]}
    assert result["base"]["ad"] == "actr"
