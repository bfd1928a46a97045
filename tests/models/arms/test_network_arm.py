"""A step of a network arm: chunks and rollback."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ecdctr.models.arms.network_arm import ArmSpec, NetworkArm, Prepared
from ecdctr.models.nets import InputEncoder


def arm_of(world: Any, batch: int = 32, **changes: Any) -> tuple[NetworkArm, InputEncoder]:
    encoder = InputEncoder(world.schema, torch.device("cpu"))
    spec = ArmSpec("test", (0,), "none", lr=1e-2, embedding_lr=0.1, batch=batch)
    return NetworkArm(
        spec, encoder, world.schema.n_dense, world.model(**changes), 4, torch.device("cpu")
    ), encoder


def prepare(arm: NetworkArm, encoder: InputEncoder, batch: Any) -> Prepared:
    return arm.prepare(encoder.encode(batch), batch)


def state_of(arm: NetworkArm) -> dict[str, np.ndarray]:
    state = dict(arm.dense_state())
    for name, table in zip(arm.table_names(), arm.tables, strict=True):
        state[name], state[name + "/a"] = table.weight.numpy().copy(), table.accumulator.numpy().copy()
    return state


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert set(a) == set(b)
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


def test_several_chunks_are_the_same_as_one_after_the_other(world: Any) -> None:
    (a, encoder), (b, _) = arm_of(world), arm_of(world)
    batches = [world.batch(32, seed=i) for i in range(4)]
    together = a.learn_chunks([prepare(a, encoder, x) for x in batches])
    losses = [b.learn_chunks([prepare(b, encoder, x)]) for x in batches]
    assert together == pytest.approx(np.mean(losses))
    assert_same(state_of(a), state_of(b))


def test_loss_is_the_mean_cross_entropy_of_the_networks_output(world: Any) -> None:
    arm, encoder = arm_of(world, batch=8)
    batch = world.batch(7)  # below the limit of batch norm: training and predicting then agree
    p = arm.predict_chunk(prepare(arm, encoder, batch)).astype(np.float64)
    loss = arm.learn_chunks([prepare(arm, encoder, batch)])
    assert loss == pytest.approx(float(-np.mean(np.log(np.where(batch.label > 0, p, 1 - p)))), rel=1e-5)


def test_a_row_has_the_same_weight_in_a_small_step(world: Any) -> None:
    """The gradient of a chunk is the sum over its rows divided by the configured batch size, not by its own."""
    arm, encoder = arm_of(world, batch=64)
    rows = world.batch(7)
    gradients = []
    for n in (4, 7):
        arm.begin(1)
        arm.compute(prepare(arm, encoder, rows.take(slice(0, n))))
        gradient = arm.net.out.bias.grad
        assert gradient is not None
        gradients.append(float(gradient))
        arm.rollback()
    p = arm.predict_chunk(prepare(arm, encoder, rows))
    expected = (p - rows.label) / 64
    assert gradients[0] == pytest.approx(float(expected[:4].sum()), rel=1e-4)
    assert gradients[1] == pytest.approx(float(expected.sum()), rel=1e-4)


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("poison", ["nan", "inf", "explosion"])
def test_a_bad_step_is_rolled_back_completely(world: Any, chunks: int, poison: str) -> None:
    arm, encoder = arm_of(world)
    for i in range(5):
        arm.learn_chunks([prepare(arm, encoder, world.batch(32, seed=i))])
    good = [world.batch(20, seed=10 + i) for i in range(chunks)]
    bias = arm.net.out.bias.detach().clone()
    if poison == "explosion":
        arm.net.out.bias.data.fill_(1000.0)  # every row that is not clicked costs about 1000
    else:
        good[-1].dense[3, 0] = float(poison)
    before = state_of(arm)
    assert math.isnan(arm.learn_chunks([prepare(arm, encoder, x) for x in good]))
    assert_same(state_of(arm), before)
    arm.net.out.bias.data.copy_(bias)
    # Later steps are the same as without the bad step.
    other, _ = arm_of(world)
    for i in range(5):
        other.learn_chunks([prepare(other, encoder, world.batch(32, seed=i))])
    for each in (arm, other):
        each.learn_chunks([prepare(each, encoder, world.batch(32, seed=77))])
    assert_same(state_of(arm), state_of(other))


def test_an_infinite_gradient_behind_a_finite_loss_is_caught(world: Any) -> None:
    arm, encoder = arm_of(world)
    arm.learn_chunks([prepare(arm, encoder, world.batch(32))])
    before = state_of(arm)
    prepared = prepare(arm, encoder, world.batch(32, seed=1))
    handle = arm.net.out.register_full_backward_hook(lambda *_: (torch.full((32, 6), torch.inf),))
    assert math.isnan(arm.learn_chunks([prepared]))
    handle.remove()
    assert_same(state_of(arm), before)


def test_predictions_do_not_depend_on_the_other_rows(world: Any) -> None:
    arm, encoder = arm_of(world)
    for i in range(5):
        arm.learn_chunks([prepare(arm, encoder, world.batch(32, seed=i))])
    batch = world.batch(50, seed=9)
    together = arm.predict_chunk(prepare(arm, encoder, batch))
    alone = np.concatenate(
        [arm.predict_chunk(prepare(arm, encoder, batch.take(slice(i, i + 1)))) for i in range(50)]
    )
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert together.dtype == np.float32
    assert len(arm.predict_chunk(prepare(arm, encoder, batch.take(slice(0, 0))))) == 0
