"""``ecdctr report compare``: the difference of two replays on the rows that both have scored."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from ecdctr.cli import app
from ecdctr.commands.compare import compare_reports
from ecdctr.replay.metrics import gauc_difference
from ecdctr.settings import load_settings
from ecdctr.state.errors import DataError
from ecdctr.state.row_logs import ScoreLog
from tests.support import logs
from tests.support.logs import SMALL

pytestmark = pytest.mark.slow  # replays of the small log

SETTINGS = ("model.threads=1", "model.natural_batch=128", "model.hidden=[16]", "model.history=none")


def replay(folder, *more, **options):
    loaded = load_settings(None, (*SETTINGS, *more), environ={})
    logs.replay(loaded, SMALL, folder, quiet=True, **options)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("replays")
    return replay(root / "a"), replay(root / "b", "model.ad_embedding_lr=0.01", until="2026-01-08")


def ads(folder):
    rows = ScoreLog(folder / "state" / "scores", read_only=True).read(domain=1)
    return {name: values[rows["ts"] < 1_767_830_400_000] for name, values in rows.items()}  # what both have


def compared(*folders, **options):
    out = Console(file=io.StringIO(), width=120)
    return compare_reports(out, *folders, **options), out.file.getvalue()


def test_the_difference_is_paired_and_on_common_days(folders, tmp_path):
    found, output = compared(*folders, tmp_path / "out")
    a, b = (ads(folder) for folder in folders)
    assert 0 < len(a["ts"]) == len(b["ts"])
    for arm in ("actr", "ads_only"):
        wanted = gauc_difference(b["label"], b[f"p_{arm}"], a[f"p_{arm}"], a["user"], samples=1000)
        got = found[arm]["differences"]["ad"]["B"]
        assert (got["value"], got["low"], got["high"]) == (wanted.value, wanted.low, wanted.high)
        assert found[arm]["totals"]["ad"]["A"]["n"] == len(a["ts"])
        assert f"{wanted.value:+.4f}" in output
    assert set(found) == {"actr", "ads_only", "cpm", "reload", "bayes_fm"}
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    lone = ScoreLog(folders[0] / "state" / "scores", read_only=True).read()["ts"] >= 1_767_830_400_000
    assert data["meta"]["rejects"] == {"of A on days that differ": int(lone.sum())}
    assert "GAUC minus A, by day" in (tmp_path / "out" / "report.html").read_text()


def test_a_replay_against_itself_differs_by_nothing(folders, tmp_path):
    found, _ = compared(folders[0], folders[0], tmp_path)
    assert found["actr"]["differences"]["ad"]["B"] == {
        "value": 0.0,
        "low": 0.0,
        "high": 0.0,
        "rela_impr": 0.0,
    }


def test_without_the_scores_no_difference_is_judged(folders, tmp_path):
    for name in ("report.json", "report.html"):
        shutil.copy(folders[1] / name, tmp_path / name)
    found, output = compared(folders[0], tmp_path, tmp_path / "out")
    assert set(found.values()) == {None}
    assert "no differences are computed" in output
    gauc = json.loads((tmp_path / "report.json").read_text())["result"]["totals"]["ad"]["actr"]["gauc"]
    assert f"{gauc:.4f}" in output
    assert not (tmp_path / "out" / "report.html").exists()


def test_other_rows_are_not_compared(folders, tmp_path):
    other = replay(tmp_path / "other", sample_users=0.5, until="2026-01-07")
    found, output = compared(folders[0], other, tmp_path / "out")
    assert set(found.values()) == {None}
    assert "have not scored the same rows" in output


def test_a_folder_without_a_report_is_named(folders, tmp_path):
    with pytest.raises(DataError, match=f"there is no report in {tmp_path}"):
        compared(folders[0], tmp_path, tmp_path / "out")


def test_the_command(folders, tmp_path):
    words = ["report", "compare", *map(str, folders), "--out", str(tmp_path), "--arm", "ads_only"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "report.json").read_text())["title"] == "ads_only: B against A"
    assert np.isfinite(
        json.loads((tmp_path / "report.json").read_text())["result"]["totals"]["ad"]["B"]["gauc"]
    )
