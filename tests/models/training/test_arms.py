"""Arms in addition to the paper's three: which rows train them, and that their state is restored bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ecdctr.events.batch import AD, NATURAL
from ecdctr.events.step import Step
from ecdctr.models.arms import select_arms
from tests.support.worlds import copy_of, loaded, play

EVERY = (
    "reload",
    "linked",
    "stack",
    "bayes_fm",
    "ads_bayes_fm",
    "mixed",
    "mixed_tpm",
    "cpm_only",
    "item_ctr",
)
EXTRA = {"arms": EVERY, "linked_batch": 20, "stack_every": "6h"}


def test_every_arm_scores_every_ad_row(world: Any) -> None:
    trainer = world.trainer(store=world.store(), **EXTRA)
    for result in play(trainer, world.stream(40)):
        if result.kind == "ad" and result.n:
            assert set(result.scores) == set(trainer.selection.scored)
            for p in result.scores.values():
                assert p.dtype == np.float32 and ((p > 0) & (p < 1)).all()
    assert trainer.schedule.warm() and trainer.arms["stack"].stack.rows


@pytest.mark.parametrize("transfer", ["reload", "linked", "bayes_fm", "stack"])
def test_the_serving_arm_is_the_configured_one(world: Any, transfer: str) -> None:
    trainer = world.trainer(store=world.store(), transfer=transfer, **EXTRA)
    for result in play(trainer, world.stream(40)):
        if result.kind == "ad" and result.n:
            np.testing.assert_array_equal(result.scores["actr"], result.scores[transfer])


@pytest.mark.parametrize("transfer", ["reload", "linked", "bayes_fm", "stack"])
def test_predictions_of_actr_are_those_of_the_serving_arm(world: Any, transfer: str) -> None:
    trainer = world.trainer(store=world.store(), transfer=transfer, **EXTRA)
    compared = 0
    for batch in world.stream(40):
        before = trainer.predict(batch, "actr") if len(batch) and batch.domain[0] == AD else None
        (result,) = play(trainer, [batch])
        if before is not None:
            np.testing.assert_allclose(before, result.scores["actr"], atol=1e-6)
            compared += 1
    assert compared and trainer.releases


def test_further_arms_do_not_change_the_others(world: Any) -> None:
    alone, extended = world.trainer(store=world.store()), world.trainer(store=world.store(), **EXTRA)
    stream = world.stream(40)
    for a, b in zip(play(alone, stream), play(extended, stream), strict=True):
        for arm in a.scores:
            np.testing.assert_array_equal(a.scores[arm], b.scores[arm])


def test_until_the_warm_up_ends_the_control_serves(world: Any) -> None:
    for transfer in ("linked", "stack"):
        trainer = world.trainer(store=world.store(), transfer=transfer)
        found = [False, False]
        for batch in world.stream(30):
            warm = trainer.schedule.warm()
            result = trainer.step(Step.from_batch(batch))
            if result.kind == "ad" and result.n > 5:
                found[warm] = True
                assert (result.scores["actr"] == result.scores["ads_only"]).all() != warm
        assert found == [True, True]


def test_arms_that_are_not_required_do_not_run(world: Any) -> None:
    assert set(world.trainer().arms) == {"cpm", "actr", "ads_only"}
    linked = world.trainer(transfer="linked")
    assert set(linked.arms) == {"cpm", "ads_only", "mixed_tpm", "linked"}
    assert set(world.trainer(transfer="linked", backbone="cpm").arms) == {"cpm", "ads_only", "linked"}
    play(linked, world.stream(40))
    assert linked.releases == 0


@pytest.mark.parametrize("model", [{}, {"transfer": "stack"}, {"arms": EVERY}, {"transfer": "linked"}])
def test_the_selection_names_the_scored_arms(world: Any, model: dict[str, Any]) -> None:
    names = select_arms(world.model(**model)).scored
    assert len(set(names)) == len(names)
    result = world.trainer(**model).step(Step.from_batch(world.batch(20, AD)))
    assert set(result.scores) <= set(names)
    assert set(names) - set(result.scores) <= {"cpm"}  # scored on ads only if another arm reads it


# -- mixed


def test_a_mixed_arm_learns_both_domains_and_distinguishes_them(world: Any) -> None:
    trainer = world.trainer(arms=("mixed",), lr=0.01)
    for i in range(60):
        trainer.step(Step.from_batch(world.batch(64, NATURAL, seed=i)))
        trainer.step(Step.from_batch(world.batch(32, AD, seed=i)))
    rates = []
    for domain in (NATURAL, AD):
        batch = world.batch(2000, domain, seed=777)
        rates.append((float(trainer.predict(batch, "mixed").mean()), float(batch.label.mean())))
    (natural, natural_rate), (ad, ad_rate) = rates
    assert natural_rate > ad_rate + 0.1
    assert natural > ad + 0.05
    assert abs(ad - ad_rate) < abs(natural - ad_rate)


def test_batch_norm_has_separate_statistics_of_each_domain(world: Any) -> None:
    trainer = world.trainer(arms=("mixed",))
    norm = trainer.arms["mixed"].net.dense_norm
    before = norm.running_mean.clone(), norm.ad_mean.clone()
    trainer.step(Step.from_batch(world.batch(40, AD)))
    assert torch.equal(norm.running_mean, before[0]) and not torch.equal(norm.ad_mean, before[1])
    after = norm.ad_mean.clone()
    trainer.step(Step.from_batch(world.batch(40, NATURAL)))
    assert torch.equal(norm.ad_mean, after) and not torch.equal(norm.running_mean, before[0])


# -- linked


@pytest.mark.parametrize("backbone", ["cpm", "mixed_tpm"])
def test_linked_starts_as_its_backbone_and_follows_it(world: Any, backbone: str) -> None:
    trainer = world.trainer(store=world.store(), arms=("linked", "mixed_tpm"), backbone=backbone)
    play(trainer, [b for b in world.stream(30) if len(b) and b.domain[0] == NATURAL])
    ads = world.batch(50, AD, seed=3)
    linked = trainer.arms["linked"]
    linked.begin(1)  # copies the statistics
    linked.commit()
    np.testing.assert_allclose(trainer.predict(ads, "linked"), trainer.predict(ads, backbone), rtol=1e-5)
    trainer.step(Step.from_batch(world.batch(60, NATURAL, seed=4)))
    first = trainer.predict(ads, "linked")
    trainer.step(Step.from_batch(world.batch(60, NATURAL, seed=5)))
    assert not np.allclose(first, trainer.predict(ads, "linked"), rtol=1e-5)


def test_ads_train_the_difference_and_leave_the_backbone_unchanged(world: Any) -> None:
    with_, without = (world.trainer(store=world.store(), arms=a) for a in (("linked",), ("mixed_tpm",)))
    stream = world.stream(30)
    play(with_, stream)
    play(without, stream)
    ads = world.batch(50, AD, seed=3)
    np.testing.assert_array_equal(with_.predict(ads, "mixed_tpm"), without.predict(ads, "mixed_tpm"))
    assert not np.allclose(with_.predict(ads, "linked"), with_.predict(ads, "mixed_tpm"), rtol=1e-4)
    learned = np.unique(np.concatenate([b.features[:, 0] for b in stream if len(b) and b.domain[0] == AD]))
    rows = with_.arms["linked"].tables[1].weight.abs().sum(1).numpy()
    assert set(np.flatnonzero(rows[1:61]) + 1) <= set(learned.tolist())
    assert rows.any()


def test_linked_learns_a_row_before_its_backbone_does(world: Any) -> None:
    """In every chunk of a step the backbone has its parameters of before the step."""
    trainer = world.trainer(store=world.store(), arms=("linked",), linked_batch=8)
    play(trainer, world.stream(20))
    found: list[bytes] = []
    linked, backbone = trainer.arms["linked"], trainer.arms["mixed_tpm"]
    compute = linked.compute

    def watched(chunk: Any) -> float:
        found.append(backbone.flat.values.detach().numpy().tobytes())
        return compute(chunk)

    linked.compute = watched
    before = backbone.flat.values.detach().numpy().tobytes()
    trainer.step(Step.from_batch(world.batch(31, AD, seed=9)))
    assert found == [before] * 4
    assert backbone.flat.values.detach().numpy().tobytes() != before


# -- rollback and restore, bit for bit


@pytest.mark.slow
@pytest.mark.parametrize("domain", [NATURAL, AD])
@pytest.mark.parametrize("n", [15, 100])
def test_case_s5_a_bad_row_is_lost_alone_in_every_arm(world: Any, domain: int, n: int) -> None:
    trainer, reference = (world.trainer(store=world.store(), **EXTRA) for _ in range(2))
    stream = [b for b in world.stream(24) if len(b)]
    for each in (trainer, reference):
        play(each, stream)
    bad = world.batch(n, domain, at=int(stream[-1].ts[-1]) - 5000)
    without = bad.take(np.delete(np.arange(n), n - 2))
    bad.dense[n - 2, 1] = np.nan
    assert trainer.step(Step.from_batch(bad)).lost.tolist() == [n - 2]
    reference.step(Step.from_batch(without))
    found, expected = trainer.capture().dense, reference.capture().dense
    for (
        name,
        value,
    ) in (
        found.items()
    ):  # the stack reads predictions, whose last bits depend on the number of rows in a batch
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    before = trainer.state_hash()
    every = world.batch(n, domain, at=int(stream[-1].ts[-1]) - 5000, seed=5)
    every.dense[:, 1] = np.nan
    assert trainer.step(Step.from_batch(every)).n == 0
    assert trainer.state_hash() == before


@pytest.mark.slow
@pytest.mark.parametrize("cut", [0, 9, 23])
@pytest.mark.parametrize("transfer", ["reload", "linked", "bayes_fm", "stack"])
def test_continuing_from_a_capture_equals_an_uninterrupted_run(world: Any, transfer: str, cut: int) -> None:
    settings = EXTRA if cut == 23 else {}
    settings = settings | {"transfer": transfer}
    stream = world.stream(40)
    straight = world.trainer(store=world.store(), **settings)
    results = play(straight, stream)
    first = world.trainer(store=world.store(), **settings)
    captures = []
    for i in range(0, cut, 5):
        play(first, stream[i : min(i + 5, cut)])
        captures.append(first.capture())
    captures.append(first.capture())
    second = world.trainer(store=world.store(), window=copy_of(world, first.ad_window), **settings)
    second.restore(loaded(captures))
    assert second.state_hash() == first.state_hash()
    for a, b in zip(results[cut:], play(second, stream[cut:]), strict=True):
        for arm in a.scores:
            np.testing.assert_array_equal(a.scores[arm], b.scores[arm])
    assert second.state_hash() == straight.state_hash()
