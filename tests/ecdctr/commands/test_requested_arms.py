"""Arms side by side: each is what it would be alone, on the same rows; a frozen one learns nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from ecdctr import factory
from ecdctr.cli import app
from ecdctr.commands.requested_arms import parse_arms
from ecdctr.replay.metrics import gauc_difference
from ecdctr.replay.sources import SourceLog, steps_of
from ecdctr.settings import load_settings
from ecdctr.sources import open_with_features
from ecdctr.state.checkpoints import CheckpointStore
from ecdctr.state.errors import ConfigError
from ecdctr.state.row_logs import ScoreLog
from tests.support import logs
from tests.support.logs import SMALL, StopAfter, replay

pytestmark = pytest.mark.slow  # replays of the small log

SETTINGS = (
    *logs.SETTINGS,
    "model.history=none",
    "schedule.release_every=1d",
    "schedule.gate=false",
)
ONCE = "schedule.releases=once"
ARMS = {"arms": "full,ads-only,mixed,bn-kept", "variants": ["small:model.dim=4,model.hidden=[8, 4]"]}


def run(source, folder, *more, arms=None, **options):
    loaded = load_settings(None, (*SETTINGS, *more), environ={})
    asked = parse_arms(**arms) if arms else parse_arms(None)
    return replay(loaded, source, folder, width=100, arms=asked, **options)


def scores(folder):
    return ScoreLog(folder / "scores", read_only=True).read()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    return run(SMALL, folder, arms=ARMS) | {"folder": folder}


def test_each_arm_scores_as_it_would_alone(together, tmp_path):
    state = together["folder"] / "state"
    alone = {
        "bn-kept": ("schedule.reset_batch_norm=false",),
        "small": ("model.dim=4", "model.hidden=[8, 4]"),
    }
    for name, changed in alone.items():
        run(SMALL, tmp_path / name, *changed)
        wanted, found = scores(tmp_path / name / "state"), scores(state / "arms" / name)
        assert set(wanted) - set(found) == {
            "s_user_gap_both"
        }  # kept once, beside the configuration's own scores
        for column in found:
            np.testing.assert_array_equal(found[column], wanted[column], err_msg=f"{name} {column}")
    assert {p.name for p in (state / "arms" / "small").iterdir()} == {"scores"}
    assert not np.array_equal(scores(state)["p_actr"], scores(state / "arms" / "bn-kept")["p_actr"])


def test_the_report_compares_them_on_identical_rows(together):
    result, state = together["result"], together["folder"] / "state"
    assert list(result["totals"]["ad"]) == ["actr", "ads_only", "mixed", "bn-kept", "small", "oracle"]
    assert len({f["n"] for f in result["totals"]["ad"].values()}) == 1
    assert set(result["totals"]["natural"]) == {"bn-kept", "small", "oracle"}  # cpm was not asked for
    ours, theirs = scores(state), scores(state / "arms" / "small")
    ads = ours["domain"] == 1
    gain = gauc_difference(
        ours["label"][ads], theirs["p_actr"][ads], ours["p_ads_only"][ads], ours["user"][ads], samples=1000
    )
    got = result["differences"]["ad"]["small"]
    assert (got["value"], got["low"], got["high"]) == (gain.value, gain.low, gain.high)
    page = (together["folder"] / "report.html").read_text()
    assert "bn-kept" in page
    assert json.loads((together["folder"] / "report.json").read_text())["meta"]["arms"] == {
        "bn-kept": "schedule.reset_batch_norm=false",
        "small": "model.dim=4, model.hidden=[8, 4]",
    }


def test_gone_on_with_they_equal_the_uninterrupted(together, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        StopAfter(patch, 3_000)
        assert run(SMALL, tmp_path, arms=ARMS)["meta"]["interrupted"]
    done = run(SMALL, tmp_path, arms=ARMS, resume=True)
    assert json.dumps(done["result"]) == json.dumps(together["result"])
    assert done["meta"]["rows"] == together["meta"]["rows"]


def test_an_arm_whose_step_is_taken_back_is_not_judged_there_and_nor_are_the_others(tmp_path):
    arms = {"arms": "full,ads-only", "variants": ["wild:model.lr=1e30,model.ad_embedding_lr=1e30"]}
    done = run(SMALL, tmp_path, arms=arms)
    found = scores(tmp_path / "state" / "arms" / "wild")
    ads = found["domain"] == 1
    missing = int(np.isnan(found["p_actr"][ads]).sum())
    assert 0 < missing <= ads.sum()
    judged = done["result"]["totals"].get("ad", {}).get("wild", {"n": 0})["n"]
    assert judged + done["result"]["left_out"].get("ad", missing) == ads.sum()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The models of two days before the end, the one release behind them."""
    folder = tmp_path_factory.mktemp("tuesday")
    done = run(SMALL, folder, ONCE, until="2026-01-07", keep=True)
    (found,) = (folder / "state" / "checkpoints").glob("*-step-*")
    assert str(found) == done["meta"]["checkpoint"]
    assert f"--frozen NAME:{found}" in done["out"]
    assert {p.name for p in (folder / "state").iterdir()} - {"snapshots"} == {"LOCK", "scores", "checkpoints"}
    return found


def as_it_was(checkpoint):
    """What the restored model says of every ad row of the log."""
    source, settings = open_with_features(SMALL, load_settings(None, (*SETTINGS, ONCE), environ={}))
    trainer = factory.memory_engine(settings).trainer
    trainer.restore(CheckpointStore(checkpoint.parent).load(checkpoint.name))
    steps = steps_of(SourceLog(source, factory.decoder(settings)).batches(), natural_batch=128, ad_batch=64)
    return np.concatenate([trainer.score(step)[1]["actr"] for step in steps if step.kind == "ad"])


def test_a_frozen_checkpoint_learns_nothing_and_is_asked_only_of_what_it_has_not_seen(checkpoint, tmp_path):
    done = run(SMALL, tmp_path, ONCE, arms={"arms": "full,ads-only", "frozen": [f"tuesday:{checkpoint}"]})
    about = done["meta"]["frozen"]["tuesday"]
    ours, old = scores(tmp_path / "state"), scores(tmp_path / "state" / "arms" / "tuesday")
    ads = ours["domain"] == 1
    late = ours["ts"] > about["clock"]
    assert 0 < (ads & late).sum() < ads.sum()
    assert about["not_asked"] == (~late).sum()
    assert "tuesday did not predict" in done["err"]
    np.testing.assert_array_equal(np.isnan(old["p_actr"][ads]), ~late[ads])
    # Its predictions are those of the model as it was then, to the last row; the learning arm has moved on.
    np.testing.assert_array_equal(old["p_actr"][ads & late], as_it_was(checkpoint)[late[ads]])
    assert (old["p_actr"][ads & late] != ours["p_actr"][ads & late]).mean() > 0.9
    assert {f["n"] for f in done["result"]["totals"]["ad"].values()} == {int((ads & late).sum())}
    assert done["result"]["left_out"]["ad"] == (ads & ~late).sum()


def test_a_checkpoint_of_another_network_is_refused(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="other features or networks"):
        run(SMALL, tmp_path, "model.dim=8", arms={"arms": "full", "frozen": [f"old:{checkpoint}"]})
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        run(SMALL, tmp_path, arms={"arms": "full", "frozen": [f"old:{checkpoint}-2"]})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"arms": "full,fulll"}, "--arms 'fulll' is unknown; the known arms are full, ads-only"),
        ({"arms": None, "variants": ["model.dim=8"]}, "write it as --arm small:model.dim=8"),
        ({"arms": "no-tpm", "variants": ["no-tpm:model.dim=8"]}, "there is already an arm 'no-tpm'"),
        ({"arms": None, "variants": ["x:model.ad_batch=8"]}, "arm x changes model.ad_batch: all arms"),
        ({"arms": None, "variants": ["x:model.dimm=8"]}, "model.dimm.*--arm x"),
        ({"arms": None, "frozen": ["tuesday"]}, "write it as --frozen tuesday:"),
    ],
)
def test_wrong_words_are_named(tmp_path, words, message):
    with pytest.raises(ConfigError, match=message):
        run(SMALL, tmp_path, arms=words)


def test_the_command_takes_them(tmp_path):
    words = ["replay", SMALL, "--out", str(tmp_path), "--until", "2026-01-06"]
    words += [w for text in SETTINGS for w in ("--set", text)]
    words += ["--arms", "full,ads-only,init-once", "--arm", "fast:model.lr=0.01"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert {"init-once", "fast"} <= set(json.loads((tmp_path / "report.json").read_text())["result"]["arms"])
