"""``Stack`` against a batch fit of the same weights."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import numpy as np
from scipy.optimize import minimize
from sklearn.metrics import log_loss

from ecdctr.events.batch import Batch
from ecdctr.models.arms.interface import ArmInput, ArmState
from ecdctr.models.arms.stack import Stack, StackArm, logit, stack
from ecdctr.models.settings import ModelSettings

HOUR = 3_600_000
DAY = 24 * HOUR


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


def test_weights_are_those_of_a_plain_loop_and_rows_count_less_with_event_time() -> None:
    combined = Stack(("a", "b"), ridge=5.0, every="6h", fade=0.5)
    a, r = np.zeros((3, 3)), np.zeros(3)
    theta, first = np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.5, 0.0])
    pull = np.array([5.0, 5.0, 0.0])  # the intercept is free

    # Hours, periods of 6 hours since the last fit: the clock never moves back, and one step may pass several periods.
    for i, (hour, passed) in enumerate([(1, 0), (5, 0), (20, 3), (21, 0), (24, 1), (31, 1)]):
        scores, y = rows(60, i)
        combined.observe(scores, y, clock_ms=hour * HOUR)
        for z_a, z_b, label in zip(logit(scores["a"]), logit(scores["b"]), y, strict=True):
            x = np.array([z_a, z_b, 1.0])
            p = 1 / (1 + np.exp(-theta @ x))
            a += p * (1 - p) * np.outer(x, x)
            r += p * (1 - p) * (theta @ x) * x + (label - p) * x
        if passed:
            theta = np.linalg.solve(a + np.diag(pull), r + pull * first)
            a, r = a * 0.5 ** (passed / 4), r * 0.5 ** (passed / 4)
        np.testing.assert_allclose(combined.weights, theta, atol=1e-3)
    assert combined.rows == 6 * 60


def test_a_clock_that_stays_behind_changes_no_weights() -> None:
    combined = Stack(("a",), ridge=5.0, every="6h", fade=0.5)
    for hour in (30, 2, 30):
        combined.observe(*rows(40), clock_ms=hour * HOUR)
        assert combined.weights.tolist() == [1.0, 0.0]
    combined.observe(*rows(40), clock_ms=36 * HOUR)
    assert combined.weights.tolist() != [1.0, 0.0]


def arm_input(n: int, seed: int, hour: int) -> ArmInput:
    scores, y = rows(n, seed)
    zero = np.zeros(n, np.uint64)
    batch = Batch(
        ts=zero.astype(np.int64), domain=np.ones(n, np.uint8), user=zero, item=zero,
        features=np.zeros((n, 0), np.int32), dense=np.zeros((n, 0), np.float32), label=y,
    )  # fmt: skip
    return ArmInput(batch, score=lambda _, name: scores[name], clock_ms=hour * HOUR)


def digest(arm: StackArm) -> str:
    out = hashlib.blake2b()
    arm.digest(out)
    return out.hexdigest()


def test_the_arm_combines_the_predictions_of_its_members_and_continues_from_its_saved_state() -> None:
    model = ModelSettings(stack_of=("reload", "ads_only"), stack_ridge=3.0, stack_every="2h", stack_fade=0.9)
    scores = {"reload": "a", "ads_only": "b"}
    alone = Stack(("a", "b"), ridge=3.0, every="2h", fade=0.9)
    arm, loaded = (stack(SimpleNamespace(model=model)) for _ in range(2))
    fresh = digest(arm)

    def named(n: int, seed: int, hour: int) -> ArmInput:
        made = arm_input(n, seed, hour)
        read = made._score
        made._score = lambda given, name: read(given, scores[name])
        return made

    for i in range(4):
        arm.learn(named(50, i, 3 * i))
        alone.observe(*rows(50, i), clock_ms=3 * i * HOUR)
    assert alone.weights.tolist() != [0.5, 0.5, 0.0]
    np.testing.assert_array_equal(arm.predict(named(50, 9, 12)), alone.predict(rows(50, 9)[0]))

    state = arm.capture()
    arm.learn(named(50, 5, 15))
    after = digest(arm)
    loaded.load(ArmState(meta=json.loads(json.dumps(state.meta))))
    assert digest(loaded) != after
    loaded.learn(named(50, 5, 15))
    assert digest(loaded) == after != fresh

    loaded.load(ArmState(meta={"another arm": 1}))  # a checkpoint from before this arm existed
    assert digest(loaded) == after
    loaded.reset()
    assert digest(loaded) == fresh
