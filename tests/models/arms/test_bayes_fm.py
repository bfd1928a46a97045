"""The Bayesian factorization machine: its accuracy, the transfer from natural clicks to ads, and numerical limits."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.models.arms.bayes_fm import BayesFm
from ecdctr.models.arms.interface import ArmInput, ArmState
from ecdctr.models.settings import BayesFmSettings, FactorPriorSettings
from ecdctr.state.checkpoints import merge_rows

HOUR = 3_600_000
SCHEMA = FeatureSchema(
    [
        FeatureSpec(name="user", field="user_id", buckets=1000, tpm=True),
        FeatureSpec(name="item", field="item_id", buckets=1000, tpm=True),
        FeatureSpec(name="slot", buckets=16),
        FeatureSpec(name="x", kind="numeric"),
    ],
    dim=8,
)
STABLE = FactorPriorSettings(bias=1.0, factor=0.5, ad_bias=0.5, ad_factor=0.05)


def settings(**changes: object) -> BayesFmSettings:
    return BayesFmSettings(**({"user": STABLE, "item": STABLE, "other": STABLE} | changes))  # type: ignore[arg-type]


def machine(*, natural: bool = True, seed: int = 0, **changes: object) -> BayesFm:
    return BayesFm(SCHEMA, settings(**changes), name="fm", seed=seed, natural=natural)


def rows(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    label: NDArray[np.bool_],
    *,
    domain: int = NATURAL,
    x: NDArray[np.float64] | None = None,
    slot: NDArray[np.int64] | None = None,
    hour: int = 0,
) -> Batch:
    n = len(user)
    return Batch(
        ts=np.full(n, hour * HOUR, np.int64),
        domain=np.full(n, domain, np.uint8),
        user=user.astype(np.uint64),
        item=item.astype(np.uint64),
        features=np.stack(
            [user + 1, item + 1, np.ones(n, np.int64) if slot is None else slot + 1], axis=1
        ).astype(np.int32),
        dense=(np.zeros(n) if x is None else x).astype(np.float32).reshape(n, 1),
        label=label.astype(np.float32),
    )


def learn(fm: BayesFm, batch: Batch) -> None:
    fm.learn(ArmInput(batch))


def predict(fm: BayesFm, batch: Batch) -> NDArray[np.float32]:
    return fm.predict(ArmInput(batch))


def digest(fm: BayesFm) -> str:
    out = hashlib.blake2b(digest_size=16)
    fm.digest(out)
    return out.hexdigest()


def logit(p: NDArray[np.float32]) -> NDArray[np.float64]:
    q = p.astype(np.float64)
    return np.log(q) - np.log1p(-q)


def test_effects_agree_with_a_regularised_logistic_regression() -> None:
    rng = np.random.default_rng(1)
    n = 20_000
    slot, x = rng.integers(0, 8, n), rng.normal(2.0, 3.0, n)
    z = -1.0 + rng.normal(0, 0.8, 8)[slot] + 0.3 * (x - 2.0)
    y = rng.random(n) < 1 / (1 + np.exp(-z))
    schema = FeatureSchema(
        [FeatureSpec(name="slot", buckets=16), FeatureSpec(name="x", kind="numeric")], dim=8
    )
    fm = BayesFm(schema, settings(), name="fm")
    zero = np.zeros(n, np.int64)
    batch = rows(zero, zero, y, x=x, slot=slot)
    batch = Batch(**{f: getattr(batch, f) for f in batch.__slots__} | {"features": batch.features[:, 2:]})
    learn(fm, batch)
    design = np.concatenate([np.eye(8)[slot], x[:, None]], axis=1)
    theirs = LogisticRegression(C=1.0, max_iter=1000).fit(design, y).decision_function(design)
    ours = logit(predict(fm, batch))
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.08  # one pass of 40 steps against the optimum


def test_one_pass_learns_products_that_no_sum_of_effects_can_represent() -> None:
    rng = np.random.default_rng(2)
    users, items, n = 60, 40, 60_000
    p, q = rng.normal(size=(users, 3)), rng.normal(size=(items, 3))
    user, item = rng.integers(0, users, n), rng.integers(0, items, n)
    z = -0.5 + (p[user] * q[item]).sum(1)
    y = rng.random(n) < 1 / (1 + np.exp(-z))
    fm = machine()
    half = n // 2
    learn(fm, rows(user[:half], item[:half], y[:half]))
    ours = predict(fm, rows(user[half:], item[half:], y[half:]))
    best = roc_auc_score(y[half:], z[half:])
    effects = np.array([y[:half][user[:half] == u].mean() for u in range(users)])[user[half:]]
    assert roc_auc_score(y[half:], ours) > best - 0.02
    assert roc_auc_score(y[half:], effects) < best - 0.1


def test_natural_clicks_are_the_prior_of_ads_until_ad_clicks_outweigh_them() -> None:
    rng = np.random.default_rng(3)
    n = 20_000
    item = rng.integers(0, 2, n)
    user = rng.integers(0, 200, n)
    fm = machine()
    learn(fm, rows(user, item, rng.random(n) < np.where(item == 0, 0.6, 0.2)))
    queries = rows(np.array([300, 300]), np.array([0, 1]), np.zeros(2, np.bool_), domain=AD)
    first = predict(fm, queries)
    assert first[0] > 2 * first[1]  # no ad row was learned
    # In ads the click rates are reversed.
    learn(fm, rows(user, item, rng.random(n) < np.where(item == 0, 0.05, 0.3), domain=AD))
    after = predict(fm, queries)
    assert after[0] < 0.12 and after[1] > 0.2
    natural = predict(fm, rows(np.array([300, 300]), np.array([0, 1]), np.zeros(2, np.bool_)))
    assert natural[0] > natural[1]  # predictions of natural rows keep their order


def test_few_ads_change_a_frequent_id_less_than_a_rare_one() -> None:
    rng = np.random.default_rng(4)
    n = 5000
    fm = machine()
    learn(fm, rows(rng.integers(0, 100, n), np.zeros(n, np.int64), rng.random(n) < 0.3))
    learn(fm, rows(rng.integers(0, 100, n), rng.integers(20, 60, n), rng.random(n) < 0.3, domain=AD))

    def logits() -> NDArray[np.float64]:
        return logit(
            predict(fm, rows(np.array([500, 500]), np.array([0, 7]), np.zeros(2, np.bool_), domain=AD))
        )

    before = logits()
    one = np.arange(5) + 200
    learn(fm, rows(one, np.zeros(5, np.int64), np.ones(5, np.bool_), domain=AD))
    learn(fm, rows(one, np.full(5, 7), np.ones(5, np.bool_), domain=AD))
    moved = logits() - before
    assert 0 < moved[0] < moved[1]


def test_the_control_ignores_natural_rows() -> None:
    rng = np.random.default_rng(5)
    n = 600
    batch = rows(rng.integers(0, 9, n), rng.integers(0, 9, n), rng.random(n) < 0.5)
    fm = machine(natural=False)
    before = digest(fm)
    learn(fm, batch)
    assert digest(fm) == before
    learn(fm, rows(rng.integers(0, 9, n), rng.integers(0, 9, n), rng.random(n) < 0.5, domain=AD))
    assert digest(fm) != before


def test_decayed_evidence_is_replaced_sooner() -> None:
    rng = np.random.default_rng(6)
    n = 4000
    user = rng.integers(0, 500, n)
    item = np.zeros(n, np.int64)
    out = []
    for memory in (1.0, 0.5):
        decaying = FactorPriorSettings(bias=1.0, factor=0.01, bias_memory=memory)
        # Only the biases of items can change much.
        constant = FactorPriorSettings(bias=1e-6, factor=1e-6)
        fm = machine(item=decaying, user=constant, other=constant)
        other = np.arange(n) % 7 + 10  # these rows determine the constant
        learn(fm, rows(user, other, rng.random(n) < 0.3))
        learn(fm, rows(user, item, np.random.default_rng(7).random(n) < 0.5))
        learn(fm, rows(user[:200], item[:200], np.zeros(200, np.bool_), hour=24 * 10))
        out.append(float(predict(fm, rows(user[:1], item[:1], np.zeros(1, np.bool_)))[0]))
    assert out[1] < out[0] - 0.05


def test_restored_from_several_captures_it_continues_to_the_same_bits() -> None:
    rng = np.random.default_rng(8)
    fm, captures = machine(), []
    for step in range(6):
        n = 300
        batch = rows(
            rng.integers(0, 50, n), rng.integers(0, 50, n), rng.random(n) < 0.4, domain=step % 2, x=rng.normal(size=n),
            hour=step * 7,
        )  # fmt: skip
        learn(fm, batch)
        if step in (1, 3):
            state = fm.capture()
            captures.append(state.rows)
            other = machine()
            other.load(ArmState(state.dense, merge_rows(captures)))
            assert digest(other) == digest(fm)
        elif step > 3:
            learn(other, batch)
            assert digest(other) == digest(fm)


def test_initial_factors_depend_on_seed_and_id_alone() -> None:
    a, b, c = machine(), machine(), machine(seed=1)
    one, two = np.array([1, 2]), np.array([3, 4])
    no = np.zeros(2, np.bool_)
    for fm, order in ((a, (one, two)), (b, (two, one)), (c, (one, two))):
        for ids in order:
            fm._factors[1].find_or_add((ids + 1).astype(np.int32), 0)
    queries = rows(np.array([1, 3]), np.array([0, 0]), no)

    def factors(fm: BayesFm) -> NDArray[np.float64]:
        return fm._factors[1].look_up(queries.features[:, 0], np.zeros(2))

    np.testing.assert_array_equal(factors(a), factors(b))
    assert (factors(a) != factors(c)).any()


@pytest.mark.parametrize("x", [1e30, -1e30, 0.0])
def test_extreme_inputs_give_finite_predictions(x: float) -> None:
    rng = np.random.default_rng(9)
    fm = machine()
    n = 2000
    for label in (0.0, 1.0, 0.5):  # none clicked, then all, then half
        batch = rows(np.zeros(n, np.int64), np.zeros(n, np.int64), rng.random(n) < label, x=np.full(n, x))
        learn(fm, batch)
        p = predict(fm, batch)
        assert np.isfinite(p).all() and (p > 0).all() and (p < 1).all()
    one = rows(np.array([7]), np.array([7]), np.array([True]), x=np.array([x]), domain=AD)
    learn(fm, one)
    assert np.isfinite(predict(fm, one)).all()
    learn(fm, one.take(slice(0, 0)))


def test_a_checkpoint_older_than_the_arm_restores_the_initial_state() -> None:
    fm = machine()
    before = digest(fm)
    learn(fm, rows(np.array([1]), np.array([1]), np.array([True])))
    fm.reset()
    fm.load(ArmState())
    assert digest(fm) == before
