"""Sigmoid, log-odds and log loss: limits, dtypes, and agreement of the fast forms with the exact ones."""

import numpy as np
import pytest

from ecdctr.models.probability import (
    LOGIT_CLIP,
    LOSS_CLIP,
    fast_log_losses,
    fast_logit,
    log_losses,
    logit,
    sigmoid,
)


def draws(n: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    p = rng.beta(0.2, 1.0, n).astype(np.float32)
    p[:4] = 0.0, 1.0, 1e-7, 1e-12
    return p, rng.random(n) < p


def test_logit_is_the_inverse_of_sigmoid_inside_the_clip() -> None:
    p, _ = draws()
    inside = np.clip(p.astype(np.float64), LOGIT_CLIP, 1 - LOGIT_CLIP)
    assert sigmoid(logit(p)) == pytest.approx(inside, rel=1e-9)


def test_every_probability_has_finite_log_odds_and_loss() -> None:
    ends = np.array([0.0, 1.0])
    for dtype in (np.float32, np.float64):
        p = ends.astype(dtype)
        for click in (np.array([True, True]), np.array([False, False])):
            assert np.isfinite(log_losses(click, p)).all()
            assert np.isfinite(fast_log_losses(click, p)).all()
        assert np.isfinite(logit(p)).all()
        assert np.isfinite(fast_logit(p)).all()
    assert log_losses(np.array([True]), ends[:1]) == pytest.approx(-np.log(LOSS_CLIP))


def test_fast_forms_agree_with_the_exact_ones_and_keep_the_dtype() -> None:
    p, click = draws()
    for dtype, close in ((np.float32, 1e-5), (np.float64, 1e-9)):
        q = p.astype(dtype)
        assert fast_logit(q).dtype == fast_log_losses(click, q).dtype == dtype
        low = q < 0.99  # float32 has few digits left of 1 - p close to 1
        assert fast_logit(q)[low] == pytest.approx(logit(q)[low], rel=close, abs=close)
        assert fast_log_losses(click, q)[low] == pytest.approx(log_losses(click, q)[low], rel=close, abs=1e-6)
    assert logit(p).dtype == log_losses(click, p).dtype == np.float64
