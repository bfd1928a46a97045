"""``ecdctr replay``: which rows it takes, what it writes, and that an interrupted one comes to the same."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from ecdctr.commands.tpm_train import train_tpm
from ecdctr.interrupt import interruptible
from ecdctr.replay.sources import Simulator
from ecdctr.settings import load_settings
from ecdctr.sources import moment, open_with_features
from ecdctr.state.errors import ConfigError, DataError, StateError
from ecdctr.state.row_logs import ScoreLog
from ecdctr.tables import print_totals
from tests.support import logs
from tests.support.logs import SMALL, StopAfter, replay
from tests.support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.slow  # replays of the small log

DAY = 86_400_000
SETTINGS = (*logs.SETTINGS, "model.history=none")


@pytest.fixture(scope="module")
def loaded():
    return load_settings(None, SETTINGS, environ={})


run = replay


def test_a_replay_trains_months_of_its_own(tmp_path):
    """With `tpm.live` months close in the log that is replayed; the state folder's stay, and no other joins them."""
    state = tmp_path / "worker"
    texts = (*SETTINGS, f'state.folder="{state}"', "model.history=attention", "tpm.live=true", "tpm.month=2d")
    loaded = load_settings(
        None, (*texts, "schedule.release_every=1d", "schedule.first_release_after=12h"), environ={}
    )
    quiet = Console(quiet=True)
    before = train_tpm(quiet, quiet, loaded, SMALL)
    assert before == ["2026-01-01", "2026-01-03"]
    done = run(loaded, SMALL, tmp_path / "out")
    reports = done["engine"].releases
    assert reports[0].months == ("2026-01-01", "2026-01-03")
    assert reports[-1].months == ("2026-01-01", "2026-01-03", "2026-01-05")
    assert sorted(p.name for p in (state / "snapshots").iterdir()) == before


def test_a_replay_never_begins_in_the_state_folder_of_a_worker(tmp_path):
    loaded = load_settings(None, (*SETTINGS, f'state.folder="{tmp_path / "state"}"'), environ={})
    (tmp_path / "state" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="choose another folder"):
        run(loaded, SMALL, tmp_path)
    assert (tmp_path / "state" / "checkpoints").is_dir()


def scores(folder):
    return ScoreLog(folder / "state" / "scores", read_only=True).read()


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "events.parquet"
    sim = Simulator(days=8, live_from=4, users=300, items=80, natural_per_day=1_500, ads_per_day=200)
    pl.concat(sim.frames()).with_columns(
        pl.col("domain").replace_strict({0: "natural", 1: "ad"})
    ).write_parquet(path)
    return path


# -- what is written


@pytest.fixture(scope="module")
def whole(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return run(loaded, SMALL, folder, csv=True) | {"folder": folder}


def test_figures_by_day_and_slice_are_the_same_in_all_forms(whole):
    folder, result = whole["folder"], whole["result"]
    days = pl.read_parquet(folder / "days.parquet")
    assert days.equals(pl.read_csv(folder / "days.csv", schema_overrides=days.schema))
    for entry in result["days"]["ad"]:
        row = days.filter(domain="ad", arm="actr", day=entry["day"])
        assert row["n"].to_list() == [entry["n"]]
        assert row["gauc"].item() == entry["arms"]["actr"]["gauc"]
        assert row["difference"].item() == entry["differences"]["actr"]["value"]
    slices = pl.read_parquet(folder / "slices.parquet")
    assert slices.height == pl.read_csv(folder / "slices.csv").height == len(result["slices"])
    # The values of a slice part the rows: nothing is left out, nothing counted twice.
    total = result["totals"]["ad"]["actr"]["n"]
    parts = slices.filter(domain="ad", arm="actr").group_by("slice").agg(pl.col("n").sum())
    assert set(parts["slice"]) == {"user_rows", "item_rows", "user_gap", "item_gap", "user_gap_both"}
    assert parts["n"].to_list() == [total] * 5
    assert len(json.loads((folder / "report.json").read_text())["result"]["slices"]) == slices.height


def test_a_replay_that_ended_keeps_its_scores_alone(whole):
    left = {p.name for p in (whole["folder"] / "state").iterdir()}
    assert left == {"LOCK", "scores"}
    assert len(scores(whole["folder"])["ts"]) >= whole["result"]["totals"]["ad"]["actr"]["n"]


def test_totals_fit_80_columns_untruncated(whole):
    assert "…" not in whole["out"]
    figures = whole["result"]["totals"]["ad"]["actr"]
    line = next(line for line in whole["out"].splitlines() if line.strip().startswith("actr"))
    for name in ("gauc", "auc", "log_loss", "normalized_entropy"):
        assert f"{figures[name]:.4f}" in line
    narrow = Console(file=io.StringIO(), width=80)
    lists = {"list_auc": 0.5}
    result = json.loads(json.dumps(whole["result"]))
    for arm in result["totals"]["ad"].values():
        arm |= lists
    print_totals(narrow, result)
    assert "…" not in narrow.file.getvalue()


# -- which rows


def test_time_range_is_by_event_time(loaded, parquet, tmp_path):
    ts = pl.read_parquet(parquet)["ts"]
    first = int(ts.min()) // DAY * DAY
    since, until = first + DAY, first + 3 * DAY
    text = {k: np.datetime64(v, "ms").astype(str) for k, v in (("since", since), ("until", until))}
    done = run(loaded, str(parquet), tmp_path, **text)
    assert done["meta"]["rows"] == ((ts >= since) & (ts < until)).sum()
    found = scores(tmp_path)["ts"]
    assert found.min() >= since
    assert found.max() < until


def test_last_counts_back_from_the_newest_event(loaded, parquet, tmp_path):
    ts = pl.read_parquet(parquet)["ts"]
    done = run(loaded, str(parquet), tmp_path, last="36h")
    assert done["meta"]["rows"] == (ts > ts.max() - 36 * 3_600_000).sum()


def test_users_are_sampled_whole(loaded, parquet, tmp_path):
    everything = pl.read_parquet(parquet)
    done = run(loaded, str(parquet), tmp_path, sample_users=0.3)
    ads = scores(tmp_path)
    taken = np.unique(ads["user"][ads["domain"] == 1])
    users = everything.filter(pl.col("domain") == "ad")["user_id"].n_unique()
    assert 0.1 * users < len(taken) < 0.6 * users
    assert 0 < done["meta"]["rows"] < everything.height
    # Every ad row of a user that is taken is there: as many rows a user as in the log.
    counts = np.sort(np.unique(ads["user"][ads["domain"] == 1], return_counts=True)[1])
    of_log = everything.filter(pl.col("domain") == "ad").group_by("user_id").len()["len"].to_list()
    assert set(counts.tolist()) <= set(of_log)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sample_users": 0.0}, ConfigError, "--sample-users 0.0"),
        ({"last": "7d", "until": "2026-01-01"}, ConfigError, "choose one"),
        ({"until": "tomorrow"}, ConfigError, "--until 'tomorrow' is not a date"),
        ({"since": "1.2.26"}, ConfigError, "--from '1.2.26' is not a date"),
        ({"last": "1w"}, DataError, "'1w' is not a length of time"),
    ],
)
def test_wrong_options_are_named(loaded, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        run(loaded, SMALL, tmp_path, **options)


def test_moments_are_utc_unless_they_say_otherwise():
    assert moment("2026-01-01") == 1_767_225_600_000
    assert moment("2026-01-01T02:00+02:00") == moment("2026-01-01")
    assert moment(None) is None


def test_configured_features_type_the_columns_of_csv(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text("domain,ts,user_id,item_id,label,tags\nad,1700000000000,u,i,1,a|b\n")
    settings = load_settings(None, ['features=[{name="tags", kind="bag"}]'], environ={})
    source, _ = open_with_features(str(path), settings)
    assert next(source.frames())["tags"].to_list() == [["a", "b"]]


def test_stragglers_are_told(loaded, tmp_path):
    path = tmp_path / "e.jsonl"
    ts = [1_700_000_000_000 + 60_000 * i for i in range(70_000)]
    ts[69_990] = ts[0]
    pl.DataFrame({"ts": ts}).with_columns(
        domain=pl.lit("natural"), user_id=pl.int_range(70_000) % 50, item_id=pl.lit(1), label=pl.lit(0)
    ).write_ndjson(path)
    done = run(loaded, str(path), tmp_path / "out")
    assert done["meta"]["stragglers"] == 1
    assert "1 rows came later" in done["err"]


# -- ended early and resumed


def assert_same_replay(a, b, folder_a, folder_b):
    x, y = scores(folder_a), scores(folder_b)
    assert x.keys() == y.keys()
    for name in x:
        np.testing.assert_array_equal(x[name], y[name], err_msg=name)
    for name in ("rows", "steps", "rejects", "stragglers", "releases"):
        assert a["meta"][name] == b["meta"][name], name
    assert json.dumps(a["result"]) == json.dumps(b["result"])
    assert a["engine"].trainer.state_hash() == b["engine"].trainer.state_hash()


@pytest.mark.parametrize("stops", [(2_000,), (1_500, 5_000)])
def test_gone_on_with_it_equals_the_uninterrupted(loaded, whole, tmp_path, monkeypatch, stops):
    for rows in stops:
        with monkeypatch.context() as patch:
            StopAfter(patch, rows)
            part = run(loaded, SMALL, tmp_path, resume=True)
        assert part["meta"]["interrupted"]
        assert "--resume continues from here" in part["err"]
        assert 0 < part["meta"]["rows"] < whole["meta"]["rows"]
        assert (tmp_path / "report.html").is_file()
    done = run(loaded, SMALL, tmp_path, resume=True, csv=True)
    assert not done["meta"]["interrupted"]
    assert_same_replay(done, whole, tmp_path, whole["folder"])


def test_resume_wants_the_same_replay(loaded, tmp_path, monkeypatch):
    StopAfter(monkeypatch, 2_000)
    run(loaded, SMALL, tmp_path)
    with pytest.raises(StateError, match=r"started with --sample-users 1.0, but --sample-users is now 0.5"):
        run(loaded, SMALL, tmp_path, resume=True, sample_users=0.5)
    other = load_settings(None, (*SETTINGS, "model.lr=0.5"), environ={})
    with pytest.raises(StateError, match=r"lr = 0.001, but \[model\] is now lr = 0.5"):
        run(other, SMALL, tmp_path, resume=True)


def test_resume_refuses_a_log_that_has_changed(loaded, parquet, tmp_path, monkeypatch):
    log = tmp_path / "log.parquet"
    events = pl.read_parquet(parquet)
    events.write_parquet(log)
    with monkeypatch.context() as patch:
        StopAfter(patch, 5_000)
        run(loaded, str(log), tmp_path / "out")
    events.head(1_000).write_parquet(log)
    with pytest.raises(DataError, match="but the interrupted replay stopped at"):
        run(loaded, str(log), tmp_path / "out", resume=True)


def test_without_resume_it_begins_anew(loaded, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        StopAfter(patch, 2_000)
        run(loaded, SMALL, tmp_path)
    done = run(loaded, SMALL, tmp_path)
    assert_same_replay(done, whole, tmp_path, whole["folder"])
    nothing = run(loaded, SMALL, tmp_path / "other", resume=True)
    assert "there is no interrupted replay in" in nothing["err"]
    assert nothing["meta"]["rows"] == whole["meta"]["rows"]


def test_a_second_interrupt_ends_at_once():
    # A process that a shell started in the background inherits SIGINT as ignored; the statement is about Python's own handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt_twice()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_twice():
    with pytest.raises(KeyboardInterrupt), interruptible(lambda: None) as stopped:
        signal.raise_signal(signal.SIGINT)
        assert stopped()
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_on_the_command_itself(tmp_path):
    """A real process: SIGINT ends it with a report, --resume comes to the end."""
    folder = tmp_path / "out"
    source = "sim:days=12,live_from=4,users=300,items=80,natural_per_day=4000,ads_per_day=200"
    command = [sys.executable, "-m", "ecdctr", "replay", source, "--out", str(folder)]
    for text in SETTINGS:
        command += ["--set", text]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ECDCTR_")}
    learned = folder / "state" / "ad-window"
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    ) as process:
        try:
            # An ad step that was done has left its rows here.
            wait_for(
                lambda: list(learned.glob("day-*.rows")),
                "learn the first ads",
                alive=lambda: (
                    None if process.poll() is None else f"the replay ended: {process.stderr.read()}"
                ),
            )
            process.send_signal(signal.SIGINT)
            _, output = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert "stopping after this step" in output
    report = json.loads((folder / "report.json").read_text())["meta"]
    assert report["interrupted"]
    total = 8 * 4_200
    assert 0 < report["rows"] < total
    again = subprocess.run(
        [*command, "--resume"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=2 * PATIENCE_S,
    )
    assert again.returncode == 0, again.stderr
    report = json.loads((folder / "report.json").read_text())["meta"]
    assert not report["interrupted"]
    assert report["rows"] == total
