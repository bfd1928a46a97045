"""The paired bootstrap on cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ecdctr.replay.metrics.bootstrap import (
    gauc_contrast,
    gauc_difference,
    gauc_interval,
    ne_difference,
    weighted_mean,
)
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


def test_draws_of_two_users_are_those_of_two_coins():
    # The mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4: quantiles 0.2 and 0.8 are 0 and 1, 0.3 and 0.7 are 1/2.
    value, weight = np.array([0.0, 1.0]), np.array([3, 3])
    wide = weighted_mean(value, weight, samples=2_000, level=0.6, seed=0)
    assert (wide.value, wide.low, wide.high) == (0.5, 0.0, 1.0)
    narrow = weighted_mean(value, weight, samples=2_000, level=0.4, seed=0)
    assert (narrow.value, narrow.low, narrow.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("samples", [1, 5, 6])
def test_every_draw_counts_in_any_division_into_parts(samples, monkeypatch):
    monkeypatch.setattr("ecdctr.replay.metrics.bootstrap._DRAWS_AT_ONCE", 7)
    got = weighted_mean(np.full(3, 0.71), np.array([4, 1, 2]), samples, level=0.999, seed=1)
    assert (got.value, got.low, got.high) == pytest.approx((0.71, 0.71, 0.71))


def test_people_are_drawn_where_several_seeds_scored_them():
    rng, _, taste, y, p = rows(6, users=60, each=8)
    person = np.repeat(rng.permutation(20) * 10, 24)  # three users each, one a seed
    user = 1_000 * np.tile(np.repeat([2, 0, 1], 8), 20) + person
    y = y & ~np.isin(person, [30, 70])  # two people without a click
    other = taste + rng.normal(0, 2, len(taste))

    def of_people(score):
        values, weights = [], []
        for one in np.unique(person):
            found = gauc(y[person == one], score[person == one], user[person == one])
            if found.users:
                values.append(found.value)
                weights.append(found.impressions)
        return np.array(values), np.array(weights)

    value, weight = of_people(p)
    assert len(value) <= 18
    got = gauc_interval(y, p, user, drawn_by=person, seed=5)
    want = weighted_mean(value, weight, samples=200, level=0.95, seed=5)
    assert (got.value, got.low, got.high) == pytest.approx((want.value, want.low, want.high))
    assert got.value == pytest.approx(gauc(y, p, user).value)

    want = weighted_mean(value - of_people(other)[0], weight, samples=300, level=0.9, seed=5)
    got = gauc_difference(y, p, other, user, drawn_by=person, samples=300, level=0.9, seed=5)
    assert (got.value, got.low, got.high) == pytest.approx((want.value, want.low, want.high))


def test_the_interval_of_ne_is_that_of_the_mean_losses_of_users():
    rng, user, taste, y, _ = rows(7, users=30)
    p, base = (1 / (1 + np.exp(1.5 - taste - rng.normal(0, noise, len(taste)))) for noise in (0.2, 1.5))
    mean = [
        np.mean(-np.log(np.where(y, p, 1 - p) / np.where(y, base, 1 - base))[user == u]) for u in range(30)
    ]
    ctr = y.mean()
    entropy = -(ctr * np.log(ctr) + (1 - ctr) * np.log(1 - ctr))
    want = weighted_mean(np.array(mean) / entropy, np.full(30, 20), samples=250, level=0.8, seed=9)
    got = ne_difference(y, p, base, user, samples=250, level=0.8, seed=9)
    assert (got.value, got.low, got.high) == pytest.approx((want.value, want.low, want.high))
    assert got.high < 0


def test_published_intervals_are_those_of_the_default_number_of_draws_and_seed():
    rng, user, taste, y, p = rows(8, users=40)
    other, q = taste + rng.normal(0, 1.1, len(taste)), 1 / (1 + np.exp(-p))
    assert gauc_difference(y, p, other, user) == gauc_difference(y, p, other, user, samples=1000, seed=0)
    terms = [(1.0, p), (-1.0, other)]
    assert gauc_contrast(y, terms, user) == gauc_contrast(y, terms, user, samples=1000, level=0.95, seed=0)
    assert ne_difference(y, q, q**2, user) == ne_difference(
        y, q, q**2, user, samples=1000, level=0.95, seed=0
    )
    assert gauc_interval(y, p, user) == gauc_interval(y, p, user, samples=200, level=0.95, seed=0)
