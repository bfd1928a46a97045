"""Delays of clicks, the suggested window, and the weights that undo early negatives."""

from __future__ import annotations

import numpy as np
import pytest

from ecdctr.events.join import DelayHistogram, sample_weights, suggest_windows
from ecdctr.settings import load_settings
from ecdctr.state.errors import ConfigError


def test_share_within_a_window_is_close_to_the_exact_one():
    delay = np.random.default_rng(1).exponential(120_000, 20_000).astype(np.int64)
    delays = DelayHistogram()
    delays.add(delay[:7_000])
    delays.add(delay[7_000:])
    for window in (10_000, 100_000, 600_000, 3_600_000):
        assert delays.share_within(window) == pytest.approx((delay <= window).mean(), abs=0.01)
    assert delays.quantile(0.5) == pytest.approx(np.quantile(delay, 0.5), rel=0.1)


def test_suggested_window_is_the_shortest_that_catches_enough_clicks():
    delays = DelayHistogram()
    delays.add(np.repeat([5_000, 200_000, 5_000_000], [900, 95, 5]))
    choices, best = suggest_windows(delays)
    assert best is not None and best.text == "5m"
    assert {c.text: round(c.share, 3) for c in choices}["10s"] == 0.9
    assert suggest_windows(delays, reach=0.9)[1].text == "10s"
    assert suggest_windows(DelayHistogram())[1] is None


@pytest.mark.parametrize(("late_share", "early"), [(1.0, True), (0.3, False), (0.0, False)])
def test_weighted_rows_have_the_mean_loss_of_the_true_labels(late_share, early):
    """The gradient of the expected weighted loss is 0 at the true probability, and only there."""
    rng = np.random.default_rng(2)
    n, p = 400_000, 0.2
    click = rng.random(n) < p
    late = rng.random(n) < late_share
    negatives = np.ones(n, bool) if early else ~click | late
    label = np.concatenate([np.zeros(negatives.sum(), np.uint8), np.ones(click.sum(), np.uint8)])
    fitted = 0.5
    for _ in range(60):  # the weights use the current prediction, as in training
        weight = sample_weights(label, np.full(len(label), fitted), late_share)
        fitted = float((weight * label).sum() / weight.sum())
    assert fitted == pytest.approx(click.mean(), abs=0.002)


def test_weights_of_the_early_policy_are_fake_negative_weights_but_for_a_factor():
    """Ktena et al. (2019): 1 + p for positives and (1 - p) (1 + p) for negatives."""
    p = np.linspace(0.0, 1.0, 11)
    for label, weight in ((1, 1 + p), (0, (1 - p) * (1 + p))):
        np.testing.assert_allclose(sample_weights(np.full(11, label, np.uint8), p, 1.0) * (1 + p), weight)
    with pytest.raises(ValueError, match="late_share is"):
        sample_weights(np.array([1], np.uint8), p[:1], 1.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [("ad_window", "0s"), ("skew", "3"), ("late_clicks", "keep"), ("max_pending", 0), ("window", "1m")],
)
def test_wrong_settings_of_the_join_are_named(key, value):
    with pytest.raises(ConfigError, match=rf"join\.{key}"):
        load_settings(None, [f"join.{key}={value!r}"], environ={})
