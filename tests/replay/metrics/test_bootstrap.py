"""The paired bootstrap on cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ecdctr.replay.metrics.bootstrap import gauc_difference, gauc_interval
from ecdctr.replay.metrics.ranking import gauc


def rows(seed, users=200, each=20, noise=1.0):
    """Clicks that depend on a taste, and a score that sees it through noise."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), each)
    taste = rng.normal(size=users * each)
    y = rng.random(users * each) < 1 / (1 + np.exp(-taste + 1.5))
    return rng, user, taste, y, taste + rng.normal(0, noise, users * each)


def test_identical_arms_differ_by_nothing():
    _, user, _, y, p = rows(0)
    got = gauc_difference(y, p, p, user)
    assert (got.value, got.low, got.high) == (0.0, 0.0, 0.0)
    assert not got.excludes_zero


def test_a_better_arm_lies_above_zero_and_the_sign_turns_with_the_arms():
    rng, user, taste, y, p = rows(1)
    worse = taste + rng.normal(0, 4, len(taste))
    gain, loss = gauc_difference(y, p, worse, user), gauc_difference(y, worse, p, user)
    assert gain.value == pytest.approx(gauc(y, p, user).value - gauc(y, worse, user).value)
    assert 0 < gain.low < gain.value < gain.high
    assert gain.excludes_zero
    assert (loss.low, loss.high) == pytest.approx((-gain.high, -gain.low))


def test_a_seed_names_the_interval():
    rng, user, taste, y, p = rows(2)
    other = taste + rng.normal(0, 1.1, len(taste))
    assert gauc_difference(y, p, other, user, seed=3) == gauc_difference(y, p, other, user, seed=3)
    assert gauc_difference(y, p, other, user, seed=3) != gauc_difference(y, p, other, user, seed=4)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # Two arms with the same noise: the true difference is 0.
    covered = 0
    for seed in range(100):
        rng, user, taste, y, p = rows(seed, users=80, each=10)
        other = taste + rng.normal(0, 1, len(taste))
        covered += not gauc_difference(y, p, other, user, samples=300, level=0.9, seed=seed).excludes_zero
    assert 80 <= covered <= 98


def test_pairing_narrows_the_interval():
    rng, user, _, y, p = rows(4)
    near = p + rng.normal(0, 0.05, len(p))
    paired, alone = gauc_difference(y, p, near, user), gauc_interval(y, p, user)
    assert paired.high - paired.low < (alone.high - alone.low) / 5
    assert alone.low < alone.value < alone.high


def test_many_users_are_drawn_in_parts(monkeypatch):
    _, user, _, y, p = rows(5)
    whole = gauc_interval(y, p, user, samples=100)
    monkeypatch.setattr("ecdctr.replay.metrics.bootstrap._DRAWS_AT_ONCE", 1_000)
    parts = gauc_interval(y, p, user, samples=100)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.02)


def test_nobody_qualifies():
    got = gauc_difference([0, 0], [0.1, 0.2], [0.3, 0.1], [1, 2])
    assert math.isnan(got.value)
    assert math.isnan(got.low)
    assert not got.excludes_zero


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"level": 1.0}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match="at least one sample"):
        gauc_interval([1, 0], [0.2, 0.1], [1, 1], **wrong)
