"""``evaluate``: each figure against the metric computed on the rows it should cover."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ecdctr.events.time import DAY_MS
from ecdctr.replay.figures.evaluation import evaluate
from ecdctr.replay.metrics import ROW_METRICS, gauc, gauc_difference, log_loss, pcoc


@pytest.fixture
def columns():
    """Three days of ads scored by two arms, natural rows by a third; some rows only by one."""
    rng = np.random.default_rng(0)
    n = 6_000
    z = rng.normal(-1, 1, n)
    domain = (rng.random(n) < 0.5).astype(np.uint8)
    nan = np.full(n, np.nan, np.float32)

    def arm(noise, where):
        return np.where(where, 1 / (1 + np.exp(-z - rng.normal(0, noise, n))), nan).astype(np.float32)

    late = np.arange(n) > 500
    return {
        "ts": np.sort(rng.integers(10 * DAY_MS, 13 * DAY_MS, n)),
        "domain": domain,
        "user": rng.integers(0, 2**63, 80).astype(np.uint64)[rng.integers(0, 80, n)],
        "label": (rng.random(n) < 1 / (1 + np.exp(-z))).astype(np.uint8),
        "list_id": np.zeros(n, np.uint64),
        "oracle": 1 / (1 + np.exp(-z)),
        "p_actr": arm(0.5, (domain == 1) & late),
        "p_ads_only": arm(2.0, domain == 1),
        "p_cpm": arm(1.0, domain == 0),
    }


ARMS = ("actr", "ads_only", "cpm")


def test_arms_are_judged_on_the_rows_that_all_of_them_scored(columns):
    result = evaluate(columns, ARMS, samples=50, day_samples=10)
    both = (columns["domain"] == 1) & ~np.isnan(columns["p_actr"])
    assert set(result["totals"]) == {"natural", "ad"}
    assert set(result["totals"]["ad"]) == {"actr", "ads_only", "oracle"}
    assert set(result["totals"]["natural"]) == {"cpm", "oracle"}
    assert result["left_out"] == {"natural": 0, "ad": int((columns["domain"] == 1).sum() - both.sum())}
    y, user = columns["label"][both], columns["user"][both]
    for arm, name in (("actr", "p_actr"), ("ads_only", "p_ads_only"), ("oracle", "oracle")):
        got, p = result["totals"]["ad"][arm], columns[name][both]
        assert got["gauc"] == gauc(y, p, user).value
        assert got["log_loss"] == pytest.approx(log_loss(y, p))
        assert got["n"] == both.sum()
        assert got["gauc_low"] < got["gauc"] < got["gauc_high"]
    assert "list_auc" not in result["totals"]["ad"]["actr"]


def test_differences_are_to_the_control_where_there_is_one(columns):
    result = evaluate(columns, ARMS, samples=200, seed=3)
    both = (columns["domain"] == 1) & ~np.isnan(columns["p_actr"])
    y, user, a, b = (columns[c][both] for c in ("label", "user", "p_actr", "p_ads_only"))
    gain = gauc_difference(y, a, b, user, samples=200, seed=3)
    got = result["differences"]["ad"]
    assert set(got) == {"actr"}
    assert (got["actr"]["value"], got["actr"]["low"], got["actr"]["high"]) == (
        gain.value,
        gain.low,
        gain.high,
    )
    assert got["actr"]["low"] > 0
    assert result["base"] == {"natural": "cpm", "ad": "ads_only"}
    assert result["differences"]["natural"] == {}


def test_days_cover_all_rows_in_order(columns):
    shuffled = np.random.default_rng(1).permutation(len(columns["ts"]))
    result = evaluate({k: v[shuffled] for k, v in columns.items()}, ARMS, samples=10, day_samples=10)
    days = result["days"]["ad"]
    assert [d["day"] for d in days] == ["1970-01-11", "1970-01-12", "1970-01-13"]
    assert sum(d["n"] for d in days) == result["totals"]["ad"]["actr"]["n"]
    second = (columns["ts"] // DAY_MS == 11) & (columns["domain"] == 1)
    assert days[1]["arms"]["actr"]["pcoc"] == pytest.approx(
        pcoc(columns["label"][second], columns["p_actr"][second])
    )


def test_lists_are_used_where_they_are_known(columns):
    columns["list_id"] = (columns["ts"] // 600_000).astype(np.uint64)
    got = evaluate(columns, ARMS, samples=10, day_samples=10)["totals"]["ad"]["actr"]
    assert 0 < got["lists"] <= got["lists_total"]
    assert 0.5 < got["list_auc"] < 1


def test_an_unknown_oracle_is_no_arm(columns):
    columns["oracle"] = np.full(len(columns["ts"]), np.nan)
    assert "oracle" not in evaluate(columns, ARMS, samples=10, day_samples=10)["totals"]["ad"]


def test_calibration_of_the_oracle_is_near_the_diagonal(columns):
    curve = evaluate(columns, ARMS, samples=10, day_samples=10)["calibration"]["natural"]["oracle"]
    assert sum(curve["rows"]) == (columns["domain"] == 0).sum()
    np.testing.assert_allclose(curve["predicted"], curve["observed"], atol=0.15)


def test_the_result_is_plain_data_and_repeatable(columns):
    first, second = (evaluate(columns, ARMS, samples=20, day_samples=10) for _ in range(2))
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(second)) == first


def test_rows_parted_on_disk_give_the_figures_of_rows_in_memory(columns, tmp_path):
    """In 64 parts and one; AUC, GAUC, intervals and counts to the last bit, sums of floats up to rounding."""
    rng = np.random.default_rng(3)
    columns["item"] = rng.integers(0, 2**63, 50).astype(np.uint64)[rng.integers(0, 50, 6_000)]
    columns["list_id"] = rng.integers(0, 2**63, 900).astype(np.uint64)[rng.integers(0, 900, 6_000)]
    for name in ("p_actr", "p_cpm"):  # ties, also across days
        columns[name] = np.round(columns[name], 2)
    how = {"samples": 40, "day_samples": 20}
    once = evaluate(columns, ARMS, **how)
    parted = evaluate(columns, ARMS, **how, folder=tmp_path, part_rows=64)
    assert list(tmp_path.iterdir()) == []
    assert_alike(parted, once)


def assert_alike(found, wanted, at=""):
    if isinstance(wanted, dict):
        assert list(found) == list(wanted), at
        for key, value in wanted.items():
            assert_alike(found[key], value, f"{at}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), at
        for i, value in enumerate(wanted):
            assert_alike(found[i], value, f"{at}/{i}")
    elif isinstance(wanted, float) and any(
        name in at for name in ("list_auc", "calibration", *(metric.name for metric in ROW_METRICS))
    ):
        assert found == pytest.approx(wanted, rel=1e-12, nan_ok=True), at
    else:
        assert found == wanted, at


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_scored(columns, rows):
    few = {k: v[:rows] for k, v in columns.items()}
    for name in ("p_actr", "p_ads_only", "p_cpm"):
        few[name] = np.full(rows, np.nan)
    result = evaluate(few, ARMS)
    assert result["totals"] == result["days"] == {}


def test_one_row_gives_nan_and_no_error(columns):
    one = {k: v[columns["domain"] == 1][:1] for k, v in columns.items()}
    got = evaluate(one, ARMS)["totals"]["ad"]["ads_only"]
    assert got["n"] == 1
    assert math.isnan(got["gauc"])
