"""Probability and calibration metrics against scikit-learn and against their formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ecdctr.models.probability import LOSS_CLIP
from ecdctr.replay import metrics
from ecdctr.replay.metrics import probability, ranking

ROWS = st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=1, max_size=50)


@given(ROWS)
@settings(max_examples=200)
def test_log_loss_equals_scikit_learn(rows):
    y, p = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    clipped = np.clip(p, LOSS_CLIP, 1 - LOSS_CLIP)
    assert metrics.log_loss(y, p) == pytest.approx(sk.log_loss(y, clipped, labels=[0, 1]), rel=1e-9)


@given(ROWS)
@settings(max_examples=200)
def test_ne_and_pcoc_follow_their_formulas(rows):
    y, p = [int(r[0]) for r in rows], [r[1] for r in rows]
    ctr = sum(y) / len(y)
    if ctr:
        assert metrics.pcoc(y, p) == pytest.approx(sum(p) / sum(y))
    else:
        assert math.isnan(metrics.pcoc(y, p))
    if 0 < ctr < 1:
        entropy = sk.log_loss(y, [ctr] * len(y), labels=[0, 1])
        assert metrics.normalized_entropy(y, p) == pytest.approx(metrics.log_loss(y, p) / entropy, rel=1e-9)
    else:
        assert math.isnan(metrics.normalized_entropy(y, p))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.sampled_from("abc")), min_size=1, max_size=50))
@settings(max_examples=200)
def test_field_ece_follows_its_formula(rows):
    y, p, z = ([r[i] for r in rows] for i in range(3))
    expected = sum(abs(sum(y[i] - p[i] for i in range(len(z)) if z[i] == v)) for v in set(z)) / len(z)
    assert probability.field_ece(y, p, z) == pytest.approx(expected, abs=1e-12)


def test_overprediction_is_pcoc_above_one():
    assert metrics.pcoc([1, 0, 0, 0], [0.5] * 4) == 2.0


def test_a_certain_and_wrong_prediction_costs_a_finite_loss():
    assert metrics.log_loss([1], [0.0]) == pytest.approx(-math.log(LOSS_CLIP))


def test_rela_impr():
    assert metrics.rela_impr(0.74, 0.62) == pytest.approx(1.0)
    assert math.isnan(metrics.rela_impr(0.6, 0.5))


def test_list_auc_never_compares_rows_of_two_lists():
    # Within each list the click scores highest; over all, the long list's rows score lower.
    y, p, lists = [1, 0, 1, 0, 0, 0], [0.9, 0.8, 0.4, 0.3, 0.2, 0.1], [1, 1, 2, 2, 2, 2]
    assert ranking.list_auc(y, p, lists).value == 1.0
    assert metrics.auc(y, p) < 1.0


def test_calibration_curve_groups_rows_by_prediction():
    rng = np.random.default_rng(0)
    p = rng.random(10_000)
    y = rng.random(10_000) < p
    predicted, observed, rows = probability.calibration_curve(y, p, bins=10)
    assert rows.tolist() == [1_000] * 10
    assert (np.diff(predicted) > 0).all()
    np.testing.assert_allclose(predicted @ rows, p.sum())
    np.testing.assert_allclose(observed @ rows, y.sum())
    np.testing.assert_allclose(predicted, observed, atol=0.05)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_calibration_curve_of_few_rows(rows):
    predicted, observed, counts = probability.calibration_curve([1] * rows, [0.5] * rows, bins=5)
    assert len(predicted) == len(observed) == len(counts) == rows


def test_summary_agrees_with_the_single_functions():
    rng = np.random.default_rng(1)
    n = 4_000
    user, lists, p = rng.integers(0, 100, n), rng.integers(0, 500, n), rng.random(n)
    y = rng.random(n) < p / 4
    got = metrics.summary(y, p, user, list_id=lists, field=user % 7)
    assert got["n"] == n
    assert got["clicks"] == y.sum()
    assert got["ctr"] == pytest.approx(y.mean())
    assert got["auc"] == pytest.approx(sk.roc_auc_score(y, p))
    assert got["gauc"] == metrics.gauc(y, p, user).value
    assert got["list_auc"] == metrics.gauc(y, p, lists).value
    assert got["normalized_entropy"] == metrics.normalized_entropy(y, p)
    assert got["pcoc"] == metrics.pcoc(y, p)
    assert got["field_ece"] == probability.field_ece(y, p, user % 7)
    assert got["user_coverage"] == got["users"] / 100


def test_summary_of_no_rows_is_nan_and_zero():
    none = np.empty(0)
    got = metrics.summary(none, none, none.astype(np.int64), list_id=none.astype(np.int64), field=none)
    assert got["n"] == got["clicks"] == got["users_total"] == 0
    for name in (
        "ctr",
        "gauc",
        "auc",
        "log_loss",
        "normalized_entropy",
        "pcoc",
        "list_auc",
        "field_ece",
        "user_coverage",
    ):
        assert math.isnan(got[name]), name


@pytest.mark.parametrize("metric", [metrics.log_loss, metrics.normalized_entropy, metrics.pcoc])
def test_what_is_no_probability_is_refused(metric):
    with pytest.raises(ValueError, match=r"prediction 1\.5 in row 1 is no probability"):
        metric([1, 0], [0.5, 1.5])
    with pytest.raises(ValueError, match="NaN"):
        metric([1, 0], [0.5, math.nan])
