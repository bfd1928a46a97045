"""A-CTR against the control: the online interval compared with the exact bootstrap."""

import numpy as np
import pytest

from ecdctr.monitor.quality.negative_transfer import TransferWatch, poisson_weights
from ecdctr.replay.metrics import gauc_difference, log_loss

DAY = 86_400_000


def rows(n=8_000, users=400, seed=0, noise=(0.3, 1.0)):
    rng = np.random.default_rng(seed)
    ts = np.sort(1000 * DAY + rng.integers(0, 3 * DAY, n))
    user = rng.integers(1, users, n).astype(np.uint64)
    z = rng.normal(-1.5, 1, n)
    y = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(np.float32)
    arms = [(1 / (1 + np.exp(-z - rng.normal(0, s, n)))).astype(np.float32) for s in noise]
    return ts, user, y, *arms


def fed(columns, blocks=9, **options):
    watch = TransferWatch(**options)
    for part in np.array_split(np.arange(len(columns[0])), blocks):
        watch.add(*(c[part] for c in columns))
    return watch


def test_it_agrees_with_the_exact_figures():
    ts, user, y, a, b = rows()
    now = fed((ts, user, y, a, b)).to_json()
    exact = gauc_difference(y, a, b, user)
    assert now["gauc"]["value"] == pytest.approx(exact.value, abs=1e-9)
    half = (exact.high - exact.low) / 2
    assert (now["gauc"]["high"] - now["gauc"]["low"]) / 2 == pytest.approx(half, rel=0.35)
    assert now["log_loss"]["value"] == pytest.approx(log_loss(y, a) - log_loss(y, b), abs=1e-5)
    assert now["rows"] == len(ts) and now["verdict"] == "better"


def test_equal_arms_are_undecided_at_the_nominal_rate():
    verdicts = [fed(rows(3000, seed=s, noise=(0.7, 0.7))).to_json()["verdict"] for s in range(20)]
    assert verdicts.count("undecided") >= 14


def test_days_before_the_window_are_dropped():
    ts, user, y, a, b = rows(2000)
    watch = fed((ts, user, y, b, a), days=4)
    assert watch.to_json()["verdict"] == "worse"
    watch.add(ts + 10 * DAY, user, y, a, b)
    assert watch.to_json()["verdict"] == "better" and watch.to_json()["rows"] == 2000


def test_weights_are_poisson_and_depend_on_the_user_only():
    users = np.arange(1, 20_001, dtype=np.uint64)
    w = poisson_weights(users)
    assert w.shape == (20_000, 64)
    assert (poisson_weights(users[::-1]) == w[::-1]).all()
    assert w.mean() == pytest.approx(0.995, abs=0.01) and w.var() == pytest.approx(0.98, abs=0.03)
    close = np.corrcoef(w.T) - np.eye(64)
    assert np.abs(close).max() < 0.04
