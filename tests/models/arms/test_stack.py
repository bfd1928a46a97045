"""``Stack`` against a batch fit of the same weights."""

from __future__ import annotations

import json

import numpy as np
from scipy.optimize import minimize
from sklearn.metrics import log_loss

from ecdctr.models.arms.stack import Stack, logit

DAY = 86_400_000


def rows(n: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three members: two that each depend on one half of the true logit and are overconfident; one that is noise."""
    rng = np.random.default_rng(seed)
    a, b, noise = rng.normal(size=(3, n))
    y = rng.random(n) < 1 / (1 + np.exp(1.5 - a - b))
    scores = {"a": 1.4 * a - 1, "b": 1.4 * b - 1, "noise": noise - 1}
    return {k: (1 / (1 + np.exp(-z))).astype(np.float32) for k, z in scores.items()}, y.astype(np.float32)


def test_weights_are_close_to_those_of_a_batch_fit() -> None:
    scores, y = rows(30_000)
    stack = Stack(("a", "b", "noise"), ridge=20.0, every="1d", fade=1.0)
    for i in range(0, 30_000, 100):
        part = {k: v[i : i + 100] for k, v in scores.items()}
        stack.observe(part, y[i : i + 100], clock_ms=i * DAY // 1000)
    x = np.stack([*(logit(scores[k]) for k in stack.members), np.ones(len(y))], 1)

    def loss(theta: np.ndarray) -> float:
        z = x @ theta
        return float(np.sum(np.logaddexp(0, z) - y * z) + 10.0 * np.sum((theta[:3] - 1 / 3) ** 2))

    best = minimize(loss, np.zeros(4)).x
    np.testing.assert_allclose(stack.weights, best, atol=0.03)


def test_a_stack_is_better_than_its_members_on_new_rows() -> None:
    scores, y = rows(5_000)
    stack = Stack(("a", "b", "noise"), ridge=20.0, every="1d", fade=0.97)
    stack.observe(scores, y, clock_ms=0)
    fresh, labels = rows(5_000, seed=1)
    np.testing.assert_allclose(stack.weights, [1 / 3, 1 / 3, 1 / 3, 0])  # no fit before the first period ends
    stack.observe({k: v[:0] for k, v in scores.items()}, y[:0], clock_ms=DAY)
    loss = log_loss(labels, stack.predict(fresh))
    assert all(loss < log_loss(labels, p) - 0.01 for p in fresh.values())


def test_with_few_rows_the_weights_stay_nearly_equal() -> None:
    scores, y = rows(30)
    stack = Stack(("a", "b", "noise"), ridge=20.0, every="6h", fade=0.97)
    stack.observe(scores, y, clock_ms=0)
    stack.observe(scores, y, clock_ms=DAY)
    assert np.abs(stack.weights[:3] - 1 / 3).max() < 0.25


def test_saved_state_loads_to_the_same_bits() -> None:
    one, two = (Stack(("a", "b", "noise"), ridge=20.0, every="6h", fade=0.97) for _ in range(2))
    for i in range(9):
        one.observe(*rows(40, i), clock_ms=i * DAY // 3)
    two.load(json.loads(json.dumps(one.to_json())))
    for each in (one, two):
        each.observe(*rows(40, 9), clock_ms=9 * DAY)
    assert one.to_json() == two.to_json()


def test_a_prediction_does_not_depend_on_the_other_rows() -> None:
    scores, y = rows(200)
    stack = Stack(("a", "b", "noise"), ridge=20.0, every="6h", fade=0.97)
    stack.observe(scores, y, clock_ms=0)
    stack.observe(scores, y, clock_ms=DAY)
    whole = stack.predict(scores)
    for i in (0, 7, 199):
        assert stack.predict({k: v[i : i + 1] for k, v in scores.items()})[0] == whole[i]
