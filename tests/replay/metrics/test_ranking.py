"""GAUC and AUC against a count of all pairs and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import ecdctr.replay.metrics.ranking
from ecdctr.replay.metrics.ranking import auc, gauc, group_auc

# Few distinct scores and users: ties, single-class users and one-row users come often.
ROWS = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from([0.0, -0.0, 1.0, 0.1, 0.1 + 2**-56, 0.3, -2.5, 1e-310, math.inf, -math.inf]),
        st.integers(-2, 6),
    ),
    max_size=40,
)


def by_pairs(y, p, user):
    """GAUC straight from its definition, one pair at a time."""
    top = bottom = covered = 0
    for u in set(user):
        rows = [i for i in range(len(user)) if user[i] == u]
        pairs = [(p[i], p[j]) for i in rows for j in rows if y[i] and not y[j]]
        if pairs:
            top += len(rows) * sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)
            bottom += len(rows)
            covered += 1
    return (top / bottom if bottom else math.nan), covered, bottom


def by_sklearn(y, p, user):
    """GAUC by a loop over users."""
    top = bottom = 0
    for u in np.unique(user):
        rows = user == u
        if 0 < y[rows].sum() < rows.sum():
            top += rows.sum() * roc_auc_score(y[rows], p[rows])
            bottom += rows.sum()
    return top / bottom


@given(ROWS)
@example([])
@example([(True, 0.1, 0)])
@example([(True, 0.0, 0), (False, -0.0, 0)])
@settings(max_examples=300)
def test_gauc_counts_every_pair(rows):
    y, p, user = ([r[i] for r in rows] for i in range(3))
    value, covered, impressions = by_pairs(y, p, user)
    got = gauc(y, p, np.array(user, dtype=np.int64))
    assert got.value == pytest.approx(value, abs=1e-12, nan_ok=True)
    assert (got.users, got.impressions) == (covered, impressions)
    assert (got.users_total, got.impressions_total) == (len(set(user)), len(rows))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), max_size=60))
@settings(max_examples=200)
def test_auc_counts_every_pair_in_both_precisions(rows):
    y, p = [r[0] for r in rows], [r[1] for r in rows]
    value, _, _ = by_pairs(y, p, [0] * len(rows))
    assert auc(y, np.array(p, np.float32)) == pytest.approx(value, abs=1e-12, nan_ok=True)
    assert auc(y, np.array(p, np.float64)) == pytest.approx(value, abs=1e-12, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("digits", [1, 3, 15])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gauc_equals_a_scikit_learn_loop(digits, dtype):
    rng = np.random.default_rng(digits)
    n = 30_000
    ids = rng.integers(0, 2**64, 400, dtype=np.uint64)
    user = ids[np.minimum(rng.geometric(0.01, n), 400) - 1]
    p = rng.random(n).round(digits).astype(dtype)
    y = rng.random(n) < p**4
    assert abs(gauc(y, p, user).value - by_sklearn(y, p, user)) < 1e-12
    assert abs(auc(y, p) - roc_auc_score(y, p)) < 1e-12


def test_parts_give_the_same_as_one_sort(monkeypatch):
    rng = np.random.default_rng(5)
    n = 20_000
    user, p, y = rng.integers(0, 3_000, n), rng.random(n).round(2), rng.random(n) < 0.1
    whole = group_auc(y, p, user)
    monkeypatch.setattr(ecdctr.replay.metrics.ranking, "PART_ROWS", 700)
    parts = group_auc(y, p, user)
    a, b = np.argsort(whole.group), np.argsort(parts.group)
    for column in ("group", "impressions", "clicks", "auc"):
        np.testing.assert_array_equal(getattr(whole, column)[a], getattr(parts, column)[b])


def test_row_order_does_not_matter():
    rng = np.random.default_rng(6)
    user, p, y = rng.integers(0, 50, 5_000), rng.random(5_000).round(1), rng.random(5_000) < 0.2
    shuffled = rng.permutation(5_000)
    assert gauc(y, p, user) == gauc(y[shuffled], p[shuffled], user[shuffled])


def test_users_may_be_named_by_text():
    text = gauc([1, 0, 0, 1], [0.2, 0.1, 0.3, 0.4], ["ann", "ann", "bob", "bob"])
    number = gauc([1, 0, 0, 1], [0.2, 0.1, 0.3, 0.4], [0, 0, 1, 1])
    assert text == number
    assert text.value == 1.0


def test_single_class_users_leave_numerator_and_denominator():
    alone = gauc([1, 0], [0.3, 0.6], [1, 1])
    with_others = gauc([1, 0] + [0] * 10 + [1] * 10, [0.3, 0.6] + [0.5] * 20, [1, 1] + [2] * 10 + [3] * 10)
    assert alone.value == with_others.value == 0.0
    assert with_others.user_coverage == pytest.approx(1 / 3)
    assert with_others.impression_coverage == pytest.approx(2 / 22)


@pytest.mark.parametrize(("y", "p", "user"), [([], [], []), ([0, 0], [0.1, 0.2], [1, 1]), ([1], [0.1], [1])])
def test_nan_when_nobody_qualifies(y, p, user):
    result = gauc(y, p, np.array(user, np.int64))
    assert math.isnan(result.value)
    assert result.users == result.impressions == 0
    assert math.isnan(auc(y, p))


@pytest.mark.parametrize(
    ("y", "p", "user", "message"),
    [
        ([1, 0, 1], [0.1, math.nan, math.nan], [1, 1, 1], "2 of 3 scores are NaN, the first in row 1"),
        ([1, 0], [0.1], [1, 1], r"labels have shape \(2,\), scores \(1,\)"),
        ([1, 0], [0.1, 0.2], [1], r"2 labels, but group ids of shape \(1,\)"),
        ([1, 2], [0.1, 0.2], [1, 1], "label 2 in row 1 is neither 0 nor 1"),
        ([1, math.nan], [0.1, 0.2], [1, 1], "label nan in row 1"),
    ],
)
def test_bad_input_is_one_clear_error(y, p, user, message):
    with pytest.raises(ValueError, match=message):
        gauc(y, p, user)
