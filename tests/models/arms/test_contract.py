"""The contract of :class:`Arm`, checked on every arm of the table: a new entry is tested without a change here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.models.arms import Arm, ArmContext, ArmInput, ArmState, StagedArm
from ecdctr.models.nets import InputEncoder
from ecdctr.models.registry import ARMS, extra_arms, serving_arms, stack_members
from ecdctr.models.settings import ModelSettings
from ecdctr.models.training.months import MonthReaders
from ecdctr.state.checkpoints import merge_rows
from tests.support.worlds import START_MS, World

CPU = torch.device("cpu")
Make = Callable[[], "Harness"]


class Harness:
    """An arm in its initial state, with TPM snapshots, and with fixed predictions in place of other arms."""

    def __init__(self, world: World, name: str) -> None:
        model = world.model(stack_every="1h")
        self.world, self.encoder = world, InputEncoder(world.schema, CPU)
        context = ArmContext(world.schema, model, world.tpm.dim, self.encoder, CPU)
        self.arm: Arm = context.arm(name)
        months = MonthReaders(world.store(), context.built, 3, world.tpm.dim, CPU)
        months.set_cpm(("m0", "m1", "m2"), START_MS)
        months.set_actr(("m0", "m1", "m2"), START_MS)

    def rows(self, batch: Batch, *, will_learn: bool = False) -> ArmInput:
        clock = int(batch.ts.max()) if len(batch) else START_MS
        return ArmInput(batch, self.encoder, _scores, clock_ms=clock, will_learn=will_learn)

    def batches(self, n: int, *, first: int = 0, size: int = 40) -> list[Batch]:
        """Rows of all domains that the arm learns, two hours apart."""
        domains = self.arm.domains
        return [
            self.world.batch(size, domains[i % len(domains)], at=START_MS + i * 7_200_000, seed=i)
            for i in range(first, first + n)
        ]

    def learn(self, batches: list[Batch]) -> None:
        for batch in batches:
            rows = self.rows(batch, will_learn=True)
            for name in self.arm.reads:
                rows.scores(name)
            self.arm.learn(rows)

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        return self.arm.predict(self.rows(batch))

    def digest(self) -> str:
        out = hashlib.blake2b(digest_size=16)
        self.arm.digest(out)
        return out.hexdigest()


def _scores(rows: ArmInput, name: str) -> NDArray[np.float32]:
    """Predictions of another arm: a function of each row alone."""
    z = np.sin(rows.batch.user.astype(np.float64) * len(name)) + rows.batch.dense[:, 0] - 1.0
    return (1.0 / (1.0 + np.exp(-z))).astype(np.float32)


@pytest.fixture(params=[entry.name for entry in ARMS])
def make(request: pytest.FixtureRequest, world: World) -> Make:
    return lambda: Harness(world, request.param)


def saved(states: list[ArmState]) -> ArmState:
    """Captures as a checkpoint returns them."""
    meta = json.loads(json.dumps(states[-1].meta))
    return ArmState(states[-1].dense, merge_rows([state.rows for state in states]), meta)


def test_name_domains_and_inputs_of_an_arm_are_valid(make: Make) -> None:
    arm = make().arm
    assert isinstance(arm, Arm)
    assert arm.name in {entry.arm_name for entry in ARMS}
    assert arm.domains and set(arm.domains) <= {NATURAL, AD}
    assert set(arm.reads) <= {entry.name for entry in ARMS}


def test_predictions_are_probabilities_and_change_nothing(make: Make) -> None:
    harness = make()
    ads = harness.world.batch(70, AD, seed=500)
    for _ in range(2):  # in the initial state, and after learning
        before = harness.digest()
        p = harness.predict(ads)
        assert p.dtype == np.float32 and p.shape == (70,)
        assert np.isfinite(p).all() and (p > 0).all() and (p < 1).all()
        np.testing.assert_array_equal(harness.predict(ads), p)
        assert harness.digest() == before
        harness.learn(harness.batches(6))


def test_no_rows_have_no_predictions(make: Make) -> None:
    harness = make()
    p = harness.predict(harness.world.batch(0, AD))
    assert p.dtype == np.float32 and p.shape == (0,)


def test_a_prediction_does_not_depend_on_the_other_rows(make: Make) -> None:
    harness = make()
    harness.learn(harness.batches(8))
    ads = harness.world.batch(60, AD, seed=501)
    parts = [harness.predict(ads.take(slice(i, j))) for i, j in ((0, 1), (1, 33), (33, 60))]
    if isinstance(harness.arm, StagedArm):  # matrix products round differently for different numbers of rows
        np.testing.assert_allclose(np.concatenate(parts), harness.predict(ads), rtol=1e-4)
    else:
        np.testing.assert_array_equal(np.concatenate(parts), harness.predict(ads))


def test_rows_that_are_going_to_be_learned_are_predicted_the_same(make: Make) -> None:
    harness = make()
    harness.learn(harness.batches(8))
    ads = harness.world.batch(90, AD, seed=502)
    learned = harness.arm.predict(harness.rows(ads, will_learn=True))
    np.testing.assert_allclose(learned, harness.predict(ads), rtol=1e-4)


def test_learning_changes_the_state_and_depends_on_the_rows_alone(make: Make) -> None:
    one, two, other = make(), make(), make()
    initial = one.digest()
    assert two.digest() == initial
    one.learn(one.batches(3))
    two.learn(two.batches(3))
    other.learn(other.batches(3, first=10))
    assert one.digest() == two.digest() != initial
    assert other.digest() != one.digest()


def test_a_captured_arm_continues_to_the_same_bits(make: Make) -> None:
    straight, states = make(), []
    for first in (0, 4, 8):
        straight.learn(straight.batches(4, first=first))
        states.append(straight.arm.capture())
        copy = make()
        copy.arm.load(saved(states))
        assert copy.digest() == straight.digest()
    more = straight.batches(6, first=12)
    straight.learn(more)
    copy.learn(more)
    ads = straight.world.batch(50, AD, seed=503)
    np.testing.assert_array_equal(copy.predict(ads), straight.predict(ads))
    assert copy.digest() == straight.digest()


def test_a_capture_after_loading_holds_the_rows_learned_since(make: Make) -> None:
    straight = make()
    straight.learn(straight.batches(4))
    states = [straight.arm.capture()]
    copy = make()
    copy.arm.load(saved(states))
    copy.learn(copy.batches(3, first=4))
    states.append(copy.arm.capture())
    again = make()
    again.arm.load(saved(states))
    assert again.digest() == copy.digest()


def test_names_of_other_arms_are_ignored(make: Make) -> None:
    straight = make()
    straight.learn(straight.batches(3))
    state = saved([straight.arm.capture()])
    state.dense["another/b"] = np.ones(3)
    state.rows["another/rows4"] = (np.arange(2), np.ones((2, 5), np.float32))
    state.meta["another"] = [1.0]
    copy = make()
    copy.arm.load(state)
    assert copy.digest() == straight.digest()


def test_every_name_begins_with_the_arm_and_is_unique(world: World) -> None:
    names: list[str] = []
    for entry in ARMS:
        harness = Harness(world, entry.name)
        harness.learn(harness.batches(2))
        state = harness.arm.capture()
        names += [*state.dense, *state.rows, *state.meta]
        assert all(name.startswith(f"{harness.arm.name}/") for name in (*state.dense, *state.rows))
    assert len(set(names)) == len(names)


def test_the_digest_covers_everything_that_is_captured(make: Make) -> None:
    straight = make()
    straight.learn(straight.batches(4))
    state = saved([straight.arm.capture()])
    changed: list[ArmState] = []
    for name, value in state.dense.items():
        changed.append(ArmState(state.dense | {name: _perturbed(value)}, state.rows, state.meta))
    for name, (index, values) in state.rows.items():
        if len(index):
            rows = state.rows | {name: (index, _perturbed(values))}
            changed.append(ArmState(state.dense, rows, state.meta))
    for other in changed:
        copy = make()
        copy.arm.load(other)
        assert copy.digest() != straight.digest()
    assert changed or state.meta


def _perturbed(value: NDArray[Any]) -> NDArray[Any]:
    out = np.array(value)
    out.reshape(-1)[-1] += out.dtype.type(1)
    return out


def test_a_reset_arm_is_a_new_one(make: Make) -> None:
    harness, fresh = make(), make()
    harness.learn(harness.batches(5))
    harness.arm.reset()
    assert harness.digest() == fresh.digest()
    for each in (harness, fresh):
        each.learn(each.batches(4, first=3))
    assert harness.digest() == fresh.digest()
    states = [each.arm.capture() for each in (harness, fresh)]
    for a, b in zip(*(sorted(s.rows.items()) for s in states), strict=True):
        assert a[0] == b[0]
        np.testing.assert_array_equal(a[1][0], b[1][0])


# -- staged steps and rollback


def test_a_staged_step_commits_like_learn_or_is_rolled_back_completely(make: Make) -> None:
    arms = [make() for _ in range(3)]
    if not isinstance(arms[0].arm, StagedArm):
        pytest.skip("the arm learns in one stage")
    for size in (20, 150):  # one chunk, and several
        for each in arms:
            each.learn(each.batches(3, first=size))
        batch = arms[0].batches(1, first=30, size=size)[0]
        before = arms[0].digest()
        learned, committed, rolled_back = arms
        learned.learn([batch])
        assert isinstance(committed.arm, StagedArm) and isinstance(rolled_back.arm, StagedArm)
        assert math.isfinite(committed.arm.stage(committed.rows(batch, will_learn=True)))
        committed.arm.commit()
        rolled_back.arm.stage(rolled_back.rows(batch, will_learn=True))
        rolled_back.arm.rollback()
        assert committed.digest() == learned.digest() != before
        assert rolled_back.digest() == before
        rolled_back.learn([batch])
        assert rolled_back.digest() == learned.digest()


def test_a_staged_step_that_is_not_finite_fails_and_other_arms_stay_finite(make: Make) -> None:
    harness = make()
    harness.learn(harness.batches(3))
    batch = harness.batches(1, first=5, size=50)[0]
    if isinstance(harness.arm, StagedArm):
        before = harness.digest()
        batch.dense[49, 0] = np.nan
        assert math.isnan(harness.arm.stage(harness.rows(batch, will_learn=True)))
        harness.arm.rollback()
        assert harness.digest() == before
    else:
        batch.dense[49, 1] = 1e30
        harness.learn([batch])
        assert np.isfinite(harness.predict(batch)).all()


# -- the table


def test_settings_accept_exactly_the_arms_of_the_table(world: World) -> None:
    for name in extra_arms():
        assert ModelSettings(arms=(name,)).arms == (name,)
    for name in serving_arms():
        assert ModelSettings(transfer=name).transfer == name
    for name in stack_members():
        assert ModelSettings(stack_of=(name,)).stack_of == (name,)
    for field, value in (("arms", ("cpm",)), ("transfer", "item_ctr"), ("stack_of", ("stack",))):
        with pytest.raises(ValueError, match="Input should be"):
            ModelSettings(**{field: value})


def test_first_names_and_their_order_are_those_in_checkpoints_and_caches() -> None:
    assert extra_arms()[:10] == (
        "reload", "linked", "stack", "bayes_fm", "ads_bayes_fm", "ads_tpm", "mixed", "mixed_tpm", "cpm_only", "item_ctr",
    )  # fmt: skip
    assert stack_members()[:9] == (
        "reload", "linked", "bayes_fm", "ads_bayes_fm", "ads_tpm", "mixed", "mixed_tpm", "cpm", "ads_only",
    )  # fmt: skip
    assert set(serving_arms()) >= {"reload", "linked", "bayes_fm", "stack"}
