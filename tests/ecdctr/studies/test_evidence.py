"""``ecdctr evidence``: figures against an independent count, and the order of the arms."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import log_loss, roc_auc_score

from ecdctr.state.errors import ConfigError
from ecdctr.studies.evidence import run_evidence
from ecdctr.studies.evidence_figures import bars, figures, loss_difference
from ecdctr.studies.evidence_page import broken_order, write_page
from ecdctr.studies.evidence_runs import (
    EVERY_ARM,
    Run,
    Scored,
    run_all,
    seeds_of,
    studies,
    with_stack_all,
)

ARMS = (
    "default",
    "ads_only",
    "mixed_tpm",
    "mixed",
    "reload",
    "stack_all",
    "item_ctr",
    "bayes_fm",
    "ads_bayes_fm",
)


def scored(seed: int, quality: dict[str, float]) -> Scored:
    """Rows of 40 users whose true odds every arm sees through noise of its own size."""
    rng = np.random.default_rng(seed)
    n = 4_000
    z = rng.normal(-1, 1.5, n)

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    columns = {
        "ts": np.sort(rng.integers(0, 10**9, n)),
        "user": rng.integers(0, 40, n).astype(np.uint64),
        "label": (rng.random(n) < sigmoid(z)).astype(np.uint8),
        "oracle": sigmoid(z),
        "days_away": rng.integers(-1, 30, n).astype(float),
        "earlier_ads": rng.integers(0, 40, n),
    }
    for arm, noise in quality.items():
        columns[f"p_{arm}"] = sigmoid(z + rng.normal(0, noise, n)).astype(np.float32)
    return Scored(Run("simulator", f"sim:seed={seed}", ("a=1",), 1.0), columns, rows=n, seconds=1.0)


QUALITY = dict(zip(ARMS, (0.3, 2.0, 0.8, 1.0, 0.9, 0.4, 4.0, 0.5, 1.5), strict=True))


@pytest.fixture(scope="module")
def parts():
    return [scored(1, QUALITY), scored(2, QUALITY)]


def test_users_of_different_runs_are_different_users(parts):
    found = figures([p.columns for p in parts], samples=50)
    total = weight = 0.0
    for part in parts:
        c = part.columns
        for user in np.unique(c["user"]):
            rows = c["user"] == user
            if 0 < c["label"][rows].mean() < 1:
                total += rows.sum() * roc_auc_score(c["label"][rows], c["p_default"][rows])
                weight += rows.sum()
    arms = found["arms"]
    assert arms["default"]["gauc"] == pytest.approx(total / weight, abs=1e-12)
    way = arms["oracle"]["gauc"] - arms["ads_only"]["gauc"]
    share = (arms["default"]["gauc"] - arms["ads_only"]["gauc"]) / way
    assert arms["default"]["share_closed"] == pytest.approx(share)
    assert arms["ads_only"]["share_closed"] == 0 and arms["oracle"]["share_closed"] == 1
    better = arms["ads_bayes_fm"]["gauc"]  # nearer to the truth than ads_only
    assert arms["default"]["share_closed_best"] == pytest.approx(
        (arms["default"]["gauc"] - better) / (arms["oracle"]["gauc"] - better)
    )
    assert len(found["shares"]) == 2
    interval = arms["default"]["vs_mixed_tpm"]
    assert interval["low"] < interval["value"] < interval["high"]


def test_bars_name_what_was_not_run(parts):
    found = bars({"simulator": figures([p.columns for p in parts], samples=50)})
    assert found["share_closed"] is not None and found["vs_mixed_tpm_low"] > 0
    assert found["eb_a_vs_ads_low"] is None and found["eb_b_vs_ads_low"] is None


def test_an_order_that_does_not_hold_is_named(parts):
    assert broken_order(figures([p.columns for p in parts], samples=50)) == []
    worse = [scored(3, QUALITY | {"mixed": 3.0, "item_ctr": 0.1})]
    lines = broken_order(figures([p.columns for p in worse], samples=50))
    assert len(lines) == 2 and lines[0].startswith("mixed is not better")


def test_the_page_holds_every_arm_and_the_command(parts, tmp_path):
    found = {"simulator": figures([p.columns for p in parts], samples=50)}
    write_page(tmp_path / "a" / "evidence.md", found, [p.run for p in parts], "the command")
    text = (tmp_path / "a" / "evidence.md").read_text()
    assert "the command" in text and "](evidence.png)" in text
    assert (tmp_path / "a" / "evidence.png").read_bytes().startswith(b"\x89PNG")
    for arm in (*ARMS, "oracle"):
        assert f"|{arm}|" in text
    assert json.loads(text.split("```json\n")[1].split("\n```")[0]) == bars(found)


def test_the_default_is_what_served_and_the_stack_of_all_is_made_of_their_scores(parts):
    """Members that are equally informative get nearly equal weights: the mean of their logits."""
    scores = parts[0].columns
    members = [scores[f"p_{('mixed', 'reload', 'bayes_fm')[i % 3]}"] for i in range(len(EVERY_ARM))]
    columns = scores | {f"p_{name}": p for name, p in zip(EVERY_ARM, members, strict=True)}
    columns |= {"p_actr": scores["p_default"], "p_stack": scores["p_default"]}
    got = with_stack_all(columns, "1d")
    assert "p_actr" not in got and "p_stack" not in got
    np.testing.assert_array_equal(got["p_default"], scores["p_default"])
    loss = [log_loss(columns["label"], p) for p in (got["p_stack_all"], *members)]
    assert loss[0] < min(loss[1:]) + 0.02
    first = slice(0, 50)  # before any label was seen: equal weights
    mean = np.mean([np.log(p[first] / (1 - p[first].astype(float))) for p in members], axis=0)
    np.testing.assert_allclose(got["p_stack_all"][first], 1 / (1 + np.exp(-mean)), rtol=1e-5)


def test_studies_and_seeds(tmp_path):
    assert seeds_of("11-13,20") == [11, 12, 13, 20]
    with pytest.raises(ConfigError, match="--seeds"):
        seeds_of("all")
    assert [r.study for r in studies([1, 2], None, short=False)] == ["simulator"] * 2
    assert [r.study for r in studies([1], tmp_path, short=False)] == [
        "simulator",
        *["ebnerd_b"] * 3,
        *["ebnerd_a"] * 3,
    ]


@pytest.mark.slow
def test_the_short_form_finds_the_arms_in_order(tmp_path):
    out = Console(file=io.StringIO())
    broken, found = run_evidence(out, tmp_path / "evidence.md", short=True)
    assert broken == []
    assert 0.0 < found["share_closed"] < 1.0


def test_models_of_several_seeds_on_one_log_are_no_more_people(parts):
    """The same rows three times over must not make an interval narrower."""
    part = parts[0].columns
    once = figures([part], samples=400)["arms"]["default"]["vs_ads_only"]
    thrice = figures([part] * 3, same_people=True, samples=400)["arms"]["default"]["vs_ads_only"]
    assert thrice["value"] == pytest.approx(once["value"])
    assert thrice["high"] - thrice["low"] == pytest.approx(once["high"] - once["low"], rel=0.15)
    apart = figures([part] * 3, samples=400)["arms"]["default"]["vs_ads_only"]
    assert apart["high"] - apart["low"] < 0.75 * (once["high"] - once["low"])


def test_loss_differences_are_those_of_scikit_learn(parts):
    c = parts[0].columns
    found = loss_difference(c["label"], c["p_default"], c["p_ads_only"], c["user"], samples=50)
    expected = log_loss(c["label"], c["p_default"]) - log_loss(c["label"], c["p_ads_only"])
    assert found["value"] == pytest.approx(expected, abs=1e-6)
    assert found["low"] < found["value"] < found["high"] < 0


def test_a_run_that_is_kept_is_not_run_again(parts, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr("ecdctr.studies.evidence_runs.play_run", lambda run: runs.append(run) or parts[0])
    for _ in range(2):
        (got,) = run_all([parts[0].run], jobs=1, on_done=lambda scored: None, keep=tmp_path)
    assert len(runs) == 1 and got.rows == parts[0].rows
    np.testing.assert_array_equal(got.columns["p_default"], parts[0].columns["p_default"])


def test_folders_that_cannot_be_are_named_before_anything_runs(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("ecdctr.studies.evidence_runs.play_run", lambda run: pytest.fail("a run began"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--keep .*file"):
        run_all([parts[0].run], jobs=1, on_done=lambda scored: None, keep=tmp_path / "file")
    with pytest.raises(ConfigError, match=r"--data .*ebnerd"):
        run_evidence(Console(file=io.StringIO()), tmp_path / "page.md", data=tmp_path)
