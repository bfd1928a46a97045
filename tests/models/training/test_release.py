"""The steps of a CPM release, one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ecdctr.events.batch import AD, NATURAL
from ecdctr.events.step import Step
from ecdctr.models.nets import is_batch_norm
from ecdctr.models.training.release import solve_shift
from ecdctr.models.training.trainer import Trainer

DEFAULTS = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}


def trained(world: Any, *, ads: int = 6, **more: Any) -> Trainer:
    """A trainer that has learned some of both domains."""
    trainer = world.trainer(store=world.store(), **more)
    trainer.clock = world.batch(1).ts[0]
    trainer.use_months(("m0", "m1", "m2"))
    for i in range(12):
        assert trainer.step(Step.from_batch(world.batch(60, NATURAL, seed=i))).skipped is None
    for i in range(ads):
        assert trainer.step(Step.from_batch(world.batch(50, AD, seed=i))).skipped is None
    return trainer  # type: ignore[no-any-return]


def tables_equal(trainer: Trainer) -> bool:
    return all(
        torch.equal(a.weight, b.weight)
        for a, b in zip(trainer.arms["cpm"].tables, trainer.arms["actr"].tables, strict=True)
    )


def test_everything_except_batch_norm_is_copied_and_batch_norm_is_reset(world: Any) -> None:
    trainer = trained(world)
    trainer.release(trainer.clock)  # from now on A-CTR learns by itself
    for i in range(4):
        trainer.step(Step.from_batch(world.batch(50, AD, seed=50 + i)))
        trainer.step(Step.from_batch(world.batch(50, NATURAL, seed=50 + i)))
    assert not tables_equal(trainer)
    trainer.transfer.load()
    cpm, actr = trainer.arms["cpm"].net, trainer.arms["actr"].net
    checked = set()
    theirs = dict([*cpm.named_parameters(), *cpm.named_buffers()])
    for name, tensor in [*actr.named_parameters(), *actr.named_buffers()]:
        if is_batch_norm(name):
            default = DEFAULTS[name.rsplit(".", 1)[1]]
            assert bool((tensor == default).all()), name
            assert not torch.equal(tensor, theirs[name]) or name.startswith("dense_norm.num"), name
            checked.add(name.rsplit(".", 1)[1])
        else:
            assert torch.equal(tensor, theirs[name]), name
    assert checked == set(DEFAULTS)
    assert tables_equal(trainer)
    state = trainer.arms["actr"].dense_state()
    assert state["actr/steps"] == 0
    assert not any(v.any() for k, v in state.items() if k.startswith(("actr/mean", "actr/square")))
    for table in trainer.arms["actr"].tables:
        assert bool((table.accumulator == table.initial_accumulator).all())


def test_only_rows_that_either_side_changed_are_copied(world: Any) -> None:
    world.users, world.items = 5, 5
    trainer = trained(world)
    first = trainer.release(trainer.clock)
    assert 0 < first.rows_copied < sum(t.rows for t in trainer.arms["cpm"].tables)
    # Nothing is learned in between: only rows that fine-tuning changed differ.
    window = {
        (name, row)
        for batch in (world.batch(50, AD, seed=i) for i in range(6))
        for name, encoded in zip("ab", trainer.encoder.encode(batch).tables, strict=True)
        for row in encoded.index.tolist()
    }
    assert trainer.release(trainer.clock).rows_copied == len(window)
    assert not tables_equal(trainer)
    trainer.transfer.load()
    assert tables_equal(trainer)


def test_without_resetting_batch_norm_all_of_cpm_is_copied(world: Any) -> None:
    trainer = trained(world, schedule={"reset_batch_norm": False, "fine_tune": False})
    trainer.transfer.load()
    cpm, actr = trainer.arms["cpm"].net, trainer.arms["actr"].net
    theirs = dict([*cpm.named_parameters(), *cpm.named_buffers()])
    for name, tensor in [*actr.named_parameters(), *actr.named_buffers()]:
        assert torch.equal(tensor, theirs[name]), name


def test_batch_norm_is_estimated_on_the_window(world: Any) -> None:
    trainer = trained(world)
    trainer.transfer.load()
    trainer.months.set_actr(trainer.cpm_months, trainer.clock)
    trainer.transfer.estimate_batch_norm()
    actr = trainer.arms["actr"].net
    dense = np.concatenate([chunk["dense"] for chunk in trainer.ad_window.chunks(1000)])
    np.testing.assert_allclose(actr.dense_norm.running_mean, dense.mean(0), atol=1e-5)
    np.testing.assert_allclose(actr.dense_norm.running_var, dense.var(0, ddof=1), rtol=1e-4)
    for norm in actr.norm:
        assert not bool((norm.running_var == 1).any())  # type: ignore[union-attr]
        assert norm.momentum == trainer.model.batch_norm_momentum


def test_calibration_makes_the_mean_prediction_equal_the_click_rate(world: Any) -> None:
    trainer = trained(world)
    trainer.transfer.load()
    trainer.months.set_actr(trainer.cpm_months, trainer.clock)
    trainer.transfer.estimate_batch_norm()
    shift, loss = trainer.transfer.calibrate()
    trainer.releases = 1
    batches = [world.batch(50, AD, seed=i) for i in range(6)]
    p = np.concatenate([trainer.predict(b, "actr") for b in batches]).astype(np.float64)
    y = np.concatenate([b.label for b in batches])
    assert shift != 0.0
    assert p.sum() == pytest.approx(y.sum(), abs=0.6)
    assert loss == pytest.approx(float(-np.mean(np.log(np.where(y > 0, p, 1 - p)))), rel=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("at", [-30.0, 0.0, 40.0])
def test_the_shift_is_found_from_any_start(rate: float, at: float) -> None:
    z = np.random.default_rng(0).normal(at, 3.0, 1000)
    y = (np.arange(1000) < 1000 * rate).astype(np.float64)
    p = 1 / (1 + np.exp(-(z + solve_shift(z, y))))
    assert p.mean() == pytest.approx((y.sum() + 0.5) / 1001, rel=1e-6)


def test_the_window_is_learned_once_oldest_first_without_a_remainder(world: Any) -> None:
    trainer = trained(world)
    trainer.transfer.load()
    trainer.months.set_actr(trainer.cpm_months, trainer.clock)
    labels: list[np.ndarray] = []
    actr = trainer.arms["actr"]
    learn = actr.learn_chunks
    actr.learn_chunks = lambda chunks: labels.append(chunks[0].encoded.label.numpy()) or learn(chunks)  # type: ignore[method-assign, func-returns-value]
    loss, skipped = trainer.transfer.fine_tune()
    np.testing.assert_array_equal(
        np.concatenate(labels), np.concatenate([world.batch(50, AD, seed=i).label for i in range(6)])
    )
    assert max(map(len, labels)) <= trainer.model.ad_batch
    assert skipped == 0
    assert 0 < loss < 2


def test_a_window_chunk_that_cannot_be_learned_is_skipped_and_counted(world: Any) -> None:
    trainer = trained(world)
    columns = {
        name: getattr(world.batch(50, AD), name)
        for name in ("ts", "user", "item", "features", "dense", "label")
    }
    poisoned = columns | {"features": columns["features"].copy()}
    trainer.ad_window.append(poisoned)
    actr, count = trainer.arms["actr"], 0
    learn = actr.learn_chunks

    def sometimes(chunks: Any) -> float:
        nonlocal count
        count += 1
        return math.nan if count == 2 else learn(chunks)

    actr.learn_chunks = sometimes  # type: ignore[method-assign]
    assert trainer.release(trainer.clock).skipped_rows == trainer.model.ad_batch


def test_case_s14_a_window_whose_rows_are_all_damaged_counts_as_empty(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trained(world)
    monkeypatch.setattr(trainer.ad_window, "chunks", lambda *_: iter(()))
    report = trainer.release(trainer.clock)
    assert report.bias_shift == 0.0
    batch = world.batch(30, AD)
    np.testing.assert_allclose(trainer.predict(batch, "actr"), trainer.predict(batch, "cpm"), rtol=1e-5)


def test_with_an_empty_window_batch_norm_is_copied_from_cpm(world: Any) -> None:
    trainer = trained(world, ads=0)
    report = trainer.release(trainer.clock)
    assert (report.window_rows, report.bias_shift) == (0, 0.0)
    batch = world.batch(30, AD)
    np.testing.assert_allclose(trainer.predict(batch, "actr"), trainer.predict(batch, "cpm"), rtol=1e-5)


def test_a_release_helps_where_ads_are_few_and_natural_clicks_many(world: Any) -> None:
    trainer = world.trainer()
    for i in range(60):
        trainer.step(Step.from_batch(world.batch(64, NATURAL, seed=i)))
    for i in range(3):
        trainer.step(Step.from_batch(world.batch(50, AD, seed=1000 + i)))
    trainer.release(trainer.clock)
    fresh = [world.batch(200, AD, seed=2000 + i) for i in range(10)]
    y = np.concatenate([b.label for b in fresh])

    def loss(arm: str) -> float:
        p = np.concatenate([trainer.predict(b, arm) for b in fresh]).astype(np.float64)
        return float(-np.mean(np.log(np.where(y > 0, p, 1 - p))))

    assert loss("actr") < loss("ads_only") - 0.01
