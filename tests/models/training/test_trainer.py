"""``Trainer``: predict, score, learn; captured and restored bit for bit."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.step import Step
from ecdctr.state.checkpoints import CheckpointStore
from ecdctr.state.errors import PointInTimeError
from tests.support.waiting import PATIENCE_S
from tests.support.worlds import copy_of, loaded, play

ROOT = Path(__file__).parents[3]
MONTHS = ("m0", "m1", "m2")


# -- a step


def test_rows_are_predicted_before_they_are_learned(world: Any) -> None:
    a, b = world.trainer(), world.trainer()
    history = world.stream(20)
    play(a, history)
    play(b, history)
    ads, natural = world.batch(25, AD, seed=5), world.batch(40, NATURAL, seed=6)
    before = {arm: b.predict(ads, arm) for arm in ("ads_only", "actr")}
    result = a.step(Step.from_batch(ads))
    assert result.kind == "ad"
    assert result.scored.tolist() == list(range(25))
    for arm, p in before.items():
        np.testing.assert_allclose(result.scores[arm], p, rtol=1e-5)
    b.step(Step.from_batch(ads))
    expected = b.predict(natural, "cpm")
    result = a.step(Step.from_batch(natural))
    np.testing.assert_allclose(result.scores["cpm"], expected[result.scored], rtol=1e-5)


def test_each_domain_trains_its_own_arms(world: Any) -> None:
    trainer = world.trainer(store=world.store())
    play(trainer, world.stream(16))
    trainer.release(trainer.clock)

    def states() -> dict[str, list[bytes]]:
        return {
            name: [v.tobytes() for _, v in sorted(arm.dense_state().items())]
            + [t.weight.numpy().tobytes() for t in arm.tables]
            for name, arm in trainer.arms.items()
        }

    start = states()
    trainer.step(Step.from_batch(world.batch(40, NATURAL, seed=1)))
    natural = states()
    assert {n for n in start if start[n] != natural[n]} == {"cpm"}
    trainer.step(Step.from_batch(world.batch(40, AD, seed=1)))
    ad = states()
    assert {n for n in natural if natural[n] != ad[n]} == {"actr", "ads_only"}


def test_the_control_uses_neither_natural_rows_nor_tpm(world: Any) -> None:
    alone, with_natural = world.trainer(store=None), world.trainer(store=world.store())
    stream = world.stream(30)
    play(with_natural, stream)
    play(alone, [b for b in stream if len(b) and b.domain[0] == AD])
    batch = world.batch(50, AD, seed=3)
    np.testing.assert_array_equal(alone.predict(batch, "ads_only"), with_natural.predict(batch, "ads_only"))


def test_until_the_first_release_the_ads_model_is_the_control(world: Any) -> None:
    trainer = world.trainer(schedule={"releases": "never"})
    for result in play(trainer, world.stream(30)):
        if result.kind == "ad" and result.n:
            np.testing.assert_array_equal(result.scores["actr"], result.scores["ads_only"])
            assert set(result.loss) == {"ads_only"}
    assert trainer.versions["actr"] == 0


def test_natural_rows_are_scored_for_a_fixed_share_of_users(world: Any) -> None:
    world.users = 400
    trainer = world.trainer(natural_score_share=0.25)
    batches = [world.batch(300, seed=i) for i in range(4)]
    results = [trainer.step(Step.from_batch(b)) for b in batches]
    scored = set(np.concatenate([b.user[r.scored] for b, r in zip(batches, results, strict=True)]).tolist())
    others = {u for b, r in zip(batches, results, strict=True) for u in np.delete(b.user, r.scored).tolist()}
    assert not scored & others
    assert 0.15 < len(scored) / len(scored | others) < 0.35
    assert len(world.trainer(natural_score_share=1.0).step(Step.from_batch(batches[0])).scored) == 300
    none = world.trainer(natural_score_share=0.0).step(Step.from_batch(batches[0]))
    assert len(none.scored) == len(none.scores["cpm"]) == 0


@pytest.mark.parametrize("domain", [NATURAL, AD])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 15, 16, 17, 33, 100])
def test_batches_of_any_size(world: Any, n: int, domain: int) -> None:
    trainer = world.trainer(natural_score_share=1.0, natural_batch=16, ad_batch=16)
    result = trainer.step(Step.from_batch(world.batch(n, domain)))
    assert result.n == n
    assert result.skipped is None
    for p in result.scores.values():
        assert p.shape == (n,)
        assert ((p > 0) & (p < 1)).all()
    assert len(trainer.ad_window) == (n if domain == AD else 0)
    if n:
        assert all(math.isfinite(loss) for loss in result.loss.values())


def test_a_large_batch_is_learned_in_chunks_without_a_remainder(world: Any) -> None:
    one, many = world.trainer(), world.trainer()
    batch = world.batch(150, AD)
    one.step(Step.from_batch(batch))
    for i in range(0, 150, 32):
        many.step(Step.from_batch(batch.take(slice(i, i + 32))))
    assert one.state_hash() == many.state_hash()


def test_rows_of_two_domains_are_refused(world: Any) -> None:
    mixed = Batch.concat([world.batch(3, AD), world.batch(3, NATURAL)])
    with pytest.raises(ValueError, match="one domain"):
        world.trainer().step(Step.from_batch(mixed))


@pytest.mark.parametrize("domain", [NATURAL, AD])
@pytest.mark.parametrize(("n", "bad"), [(5, [3]), (100, [0, 50, 99])])
def test_case_s5_only_the_rows_that_cannot_be_learned_are_lost_in_every_arm(
    world: Any, domain: int, n: int, bad: list[int]
) -> None:
    trainer, reference = world.trainer(), world.trainer()
    stream = [b for b in world.stream(24) if len(b)]
    for each in (trainer, reference):
        play(each, stream)
        if not each.releases:
            each.release(each.clock)
    window = len(trainer.ad_window)
    batch = world.batch(n, domain, at=int(stream[-1].ts[-1]) - 5000)
    without = batch.take(np.delete(np.arange(n), bad))
    batch.dense[bad, 1] = np.nan
    result = trainer.step(Step.from_batch(batch))
    assert result.skipped is not None and "not finite" in result.skipped
    assert (result.lost.tolist(), result.n) == (bad, n - len(bad))
    expected = reference.step(Step.from_batch(without))
    assert expected.skipped is None
    assert result.loss.keys() == expected.loss.keys()
    # The stack reads predictions, whose last bits depend on the number of rows in a batch.
    np.testing.assert_allclose(list(result.loss.values()), list(expected.loss.values()), rtol=1e-4)
    found, wanted = trainer.capture().dense, reference.capture().dense
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert len(trainer.ad_window) == window + (n - len(bad)) * (domain == AD)


@pytest.mark.parametrize("domain", [NATURAL, AD])
@pytest.mark.parametrize("n", [1, 2, 40])
def test_a_step_without_a_row_that_can_be_learned_changes_no_arm(world: Any, domain: int, n: int) -> None:
    trainer, reference = world.trainer(), world.trainer()
    stream = [b for b in world.stream(24) if len(b)]
    for each in (trainer, reference):
        play(each, stream)
    window = len(trainer.ad_window)
    batch = world.batch(n, domain, at=int(stream[-1].ts[-1]) - 5000)
    batch.dense[:, 1] = np.nan
    result = trainer.step(Step.from_batch(batch))
    assert (result.n, result.lost.tolist(), result.loss) == (0, list(range(n)), {})
    assert trainer.state_hash() == reference.state_hash()
    assert len(trainer.ad_window) == window


# -- months


def test_months_are_used_when_the_clock_has_passed_them(world: Any) -> None:
    store = world.store()
    trainer = world.trainer(store=store)
    last = [store.manifest(m).last_ts for m in MONTHS]
    for ts, expected in (
        (last[0], None),
        (last[0] + 3_600_000, ("m0",)),
        (last[1] + 3_600_000, ("m0", "m1")),
        (last[2], None),
        (last[2] + 3_600_000, MONTHS),
    ):
        trainer.step(Step.from_batch(world.batch(5, at=ts, span=1)))
        months = trainer.months_due(trainer.clock)
        assert months == expected
        if months is not None:
            trainer.use_months(months)
            assert trainer.cpm_months == expected
            assert trainer.actr_months == ()


def test_months_from_the_future_are_refused(world: Any) -> None:
    store = world.store()
    trainer = world.trainer(store=store)
    trainer.step(Step.from_batch(world.batch(5, at=store.manifest("m1").last_ts + 1, span=1)))
    trainer.use_months(("m0", "m1"))
    with pytest.raises(PointInTimeError, match="m2"):
        trainer.use_months(MONTHS)
    # With a clock ahead of the rows, the rows decide.
    assert trainer.months_due(2**60) is None


def test_a_release_transfers_the_months_together_with_their_attention(world: Any) -> None:
    store = world.store()
    trainer = world.trainer(store=store)
    begin = store.manifest("m1").last_ts
    for i in range(8):
        trainer.step(Step.from_batch(world.batch(60, i % 2, at=begin + 1 + i, span=1)))
    trainer.use_months(("m0", "m1"))
    trainer.release(trainer.clock)
    assert trainer.versions == {"tpm": ["m0", "m1"], "cpm": 1, "actr": 1}
    trainer.step(Step.from_batch(world.batch(60, at=begin + 20 * 86_400_000, span=1)))
    trainer.use_months(MONTHS)
    assert trainer.versions["tpm"] == ["m0", "m1"]
    trainer.release(trainer.clock)
    assert trainer.versions == {"tpm": list(MONTHS), "cpm": 2, "actr": 2}


def test_history_changes_what_is_predicted(world: Any) -> None:
    with_, without = world.trainer(store=world.store()), world.trainer(store=None)
    for each in (with_, without):
        each.clock = world.batch(1).ts[0]
    with_.use_months(MONTHS)
    batch = world.batch(50)
    assert not np.allclose(with_.predict(batch, "cpm"), without.predict(batch, "cpm"))
    np.testing.assert_array_equal(with_.predict(batch, "ads_only"), without.predict(batch, "ads_only"))


@pytest.mark.parametrize("history", ["attention", "mean", "latest", "none"])
@pytest.mark.parametrize("interaction", ["dcn", "dot", "none"])
def test_every_configuration_trains_and_releases(world: Any, history: str, interaction: str) -> None:
    trainer = world.trainer(store=world.store(), history=history, interaction=interaction)
    play(trainer, world.stream(24))
    if not trainer.releases:
        trainer.release(trainer.clock)
    result = trainer.step(Step.from_batch(world.batch(40, AD, seed=1)))
    assert result.skipped is None
    assert set(result.loss) == {"actr", "ads_only"}


# -- releases


def test_releases_wait_for_ads_and_for_their_scheduled_time(world: Any) -> None:
    trainer = world.trainer()
    day = 86_400_000
    begin = int(world.batch(1).ts[0])
    trainer.step(Step.from_batch(world.batch(10, at=begin, span=1)))
    trainer.step(Step.from_batch(world.batch(10, at=begin + 5 * day, span=1)))
    assert trainer.release_due(trainer.clock) is None  # no ads yet
    for i in range(5):
        trainer.step(Step.from_batch(world.batch(30, AD, at=begin + 5 * day, seed=i, span=1)))
    due = trainer.release_due(trainer.clock)
    assert due == begin + 5 * day
    report = trainer.release(trainer.clock)
    assert (report.number, report.boundary_ms, report.window_rows) == (1, due, 150)
    assert trainer.release_due(trainer.clock) is None


# -- capture and restore


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_bits(world: Any, tmp_path: Any) -> None:
    """Through files, in a new process."""
    trainer = world.trainer()
    stream = world.stream(30)
    play(trainer, stream[:15])
    capture = trainer.capture()
    capture.meta["step"] = 14
    CheckpointStore(tmp_path).save(capture)
    play(trainer, stream[15:])
    script = f"""
import pathlib
import torch
torch.set_num_threads(1)
from ecdctr.events.batch import AD
from ecdctr.events.step import Step
from ecdctr.state.checkpoints import CheckpointStore
from tests.support.worlds import World
world = World()
stream = world.stream(30)
window = world.window()
for batch in stream[:15]:
    if len(batch) and batch.domain[0] == AD:
        window.append({{n: getattr(batch, n) for n in ("ts", "user", "item", "features", "dense", "label")}})
trainer = world.trainer(window=window)
trainer.restore(CheckpointStore(pathlib.Path({str(tmp_path)!r})).newest())
for batch in stream[15:]:
    trainer.step(Step.from_batch(batch))
    if trainer.release_due(trainer.clock) is not None:
        trainer.release(trainer.clock)
print(trainer.state_hash())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
        cwd=ROOT,
    )
    assert trainer.releases
    assert done.stdout.strip() == trainer.state_hash()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cut", "products"), [(0, "float32"), (7, "float32"), (21, "float32"), (21, "bfloat16")]
)
def test_continuing_from_a_capture_equals_an_uninterrupted_run(world: Any, cut: int, products: str) -> None:
    stream = world.stream(40)
    straight = world.trainer(store=world.store(), products=products)
    play(straight, stream)

    first = world.trainer(store=world.store(), products=products)
    captures = []
    for i in range(0, cut, 5):  # several deltas, the last one at the cut
        play(first, stream[i : min(i + 5, cut)])
        captures.append(first.capture())
    captures.append(first.capture())
    second = world.trainer(store=world.store(), window=copy_of(world, first.ad_window), products=products)
    second.restore(loaded(captures))
    assert second.state_hash() == first.state_hash()
    play(second, stream[cut:])
    assert straight.releases > 1
    assert second.versions == straight.versions
    assert second.state_hash() == straight.state_hash()


def test_a_capture_holds_the_rows_that_a_release_changed(world: Any) -> None:
    trainer = world.trainer(store=world.store())
    play(trainer, world.stream(6))
    captures = [trainer.capture()]
    trainer.release(trainer.clock)
    captures.append(trainer.capture())
    assert len(captures[1].rows["actr/rows4"][0])
    assert not len(captures[1].rows["cpm/rows4"][0])
    other = world.trainer(store=world.store(), window=copy_of(world, trainer.ad_window))
    other.restore(loaded(captures))
    assert other.state_hash() == trainer.state_hash()
    # The next release copies from the right rows.
    for each in (trainer, other):
        each.step(Step.from_batch(world.batch(40, NATURAL, seed=8)))
        each.release(each.clock)
    assert other.state_hash() == trainer.state_hash()


def test_restoring_into_a_used_trainer_replaces_its_whole_state(world: Any) -> None:
    a, b = world.trainer(), world.trainer()
    play(a, world.stream(10, seed=1))
    play(b, world.stream(14, seed=2))
    b.restore(loaded([a.capture()]))
    assert a.state_hash() == b.state_hash()


def test_a_second_capture_holds_only_what_changed_since(world: Any) -> None:
    trainer = world.trainer()
    play(trainer, world.stream(10))
    trainer.capture()
    assert all(not len(index) for index, _ in trainer.capture().rows.values())
    batch = world.batch(10, NATURAL, seed=3)
    trainer.step(Step.from_batch(batch))
    rows = trainer.capture().rows
    learned = trainer.encoder.encode(batch).tables[1].index
    np.testing.assert_array_equal(rows["cpm/rows4"][0], learned)
    assert rows["cpm/rows4"][1].shape == (len(learned), 5)
    assert not len(rows["ads_only/rows4"][0])
