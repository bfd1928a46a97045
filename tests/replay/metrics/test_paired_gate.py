"""The gate's verdict: against a plain computation, and on cases whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from ecdctr.models.training import GateRows
from ecdctr.replay.metrics.bootstrap import gauc_difference, ne_difference
from ecdctr.replay.metrics.paired_gate import PairedGate


def rows(*, seed: int = 0, users: int = 80, each: int = 25, **noise: float) -> GateRows:
    """Clicks that depend on a taste; three models that see it through more or less noise, calibrated alike."""
    rng = np.random.default_rng(seed)
    user = rng.permutation(np.repeat(np.arange(users, dtype=np.uint64) * np.uint64(977), each))
    taste = rng.normal(size=users * each) - 1.5
    label = (rng.random(len(taste)) < 1 / (1 + np.exp(-taste))).astype(np.float32)

    def seen(name: str) -> Any:
        z = taste + rng.normal(0, noise.get(name, 0.5), len(taste))
        return (1 / (1 + np.exp(-z))).astype(np.float32)

    return GateRows(user, label, seen("candidate"), seen("serving"), seen("control"))


def plain_gauc(y: Any, p: Any, user: Any) -> float:
    total = weight = 0.0
    for u in np.unique(user):
        mine = user == u
        if 0 < y[mine].sum() < mine.sum():
            total += mine.sum() * roc_auc_score(y[mine], p[mine])
            weight += mine.sum()
    return total / weight


def plain_ne(y: Any, p: Any) -> float:
    ctr = y.mean(dtype=np.float64)
    return float(log_loss(y, np.asarray(p, np.float64)) / -(ctr * np.log(ctr) + (1 - ctr) * np.log(1 - ctr)))


def test_figures_are_those_of_a_plain_loop_over_users() -> None:
    r = rows(candidate=1.0)
    figures = PairedGate()(r).figures
    for compared in ("serving", "control"):
        other = getattr(r, compared)
        gauc = plain_gauc(r.label, r.candidate, r.user) - plain_gauc(r.label, other, r.user)
        assert figures[f"gauc_{compared}"] == pytest.approx(gauc, abs=1e-9)
        ne = plain_ne(r.label, r.candidate) - plain_ne(r.label, other)
        assert figures[f"ne_{compared}"] == pytest.approx(ne, abs=1e-6)
    assert (figures["rows"], figures["users"]) == (2000, 80)


@pytest.mark.slow
def test_the_interval_of_ne_is_that_of_users_drawn_again_one_by_one() -> None:
    r = rows(seed=4, users=60, candidate=0.8)
    rng, values = np.random.default_rng(1), []
    of = [np.flatnonzero(r.user == u) for u in np.unique(r.user)]
    scale = plain_ne(r.label, r.serving) / log_loss(r.label, r.serving.astype(float))
    for _ in range(600):
        at = np.concatenate([of[i] for i in rng.integers(0, len(of), len(of))])
        y = r.label[at]
        values.append(
            scale * (log_loss(y, r.candidate[at].astype(float)) - log_loss(y, r.serving[at].astype(float)))
        )
    found = ne_difference(r.label, r.candidate, r.serving, r.user, samples=2000)
    assert found.low == pytest.approx(np.quantile(values, 0.025), abs=0.1 * (found.high - found.low))
    assert found.high == pytest.approx(np.quantile(values, 0.975), abs=0.1 * (found.high - found.low))


@pytest.mark.parametrize(
    ("noise", "compared"),
    [
        ({"candidate": 4.0, "control": 4.0}, "serving"),
        ({"candidate": 4.0, "serving": 4.0}, "control"),
    ],
)
def test_worse_than_either_is_refused(noise: dict[str, float], compared: str) -> None:
    verdict = PairedGate()(rows(**noise))
    assert not verdict.accepted
    name = {"serving": "the current A-CTR", "control": "the control"}[compared]
    assert verdict.reason == f"worse than {name} on GAUC, worse than {name} on NE"
    assert verdict.figures[f"gauc_{compared}_high"] < 0 < verdict.figures[f"ne_{compared}_low"]


def test_better_is_accepted() -> None:
    verdict = PairedGate()(rows(candidate=0.0, serving=2.0, control=2.0))
    assert verdict.accepted
    assert verdict.figures["gauc_serving_low"] > 0 > verdict.figures["ne_control_high"]


def test_a_wrong_prior_is_refused_on_ne_alone() -> None:
    r = rows(candidate=0.0, serving=0.5, control=0.5)
    high = GateRows(r.user, r.label, 1 - (1 - r.candidate) ** 4, r.serving, r.control)
    verdict = PairedGate()(high)
    assert verdict.reason == "worse than the current A-CTR on NE, worse than the control on NE"
    assert verdict.figures["gauc_serving_low"] > 0


def test_an_equal_one_is_refused_as_rarely_as_the_docstring_says() -> None:
    refused = sum(not PairedGate()(rows(seed=seed, each=10)).accepted for seed in range(200))
    assert refused / 200 <= 0.10 + 2 * np.sqrt(0.1 * 0.9 / 200)


@pytest.mark.parametrize(("n", "users"), [(0, 0), (499, 80), (2000, 3)])
def test_what_cannot_be_judged_is_accepted_and_says_so(n: int, users: int) -> None:
    r = rows(candidate=4.0) if users != 3 else rows(candidate=4.0, users=3, each=700)
    cut = GateRows(*(getattr(r, f)[:n] for f in ("user", "label", "candidate", "serving", "control")))
    verdict = PairedGate()(cut)
    assert verdict.accepted
    assert verdict.reason.startswith("not tested")


def test_predictions_that_are_no_numbers_are_refused() -> None:
    r = rows()
    r.candidate[7] = np.nan
    verdict = PairedGate()(r)
    assert (verdict.accepted, verdict.reason) == (False, "1 of its predictions are not finite")


def test_one_label_leaves_nothing_to_be_worse_in() -> None:
    r = rows(candidate=4.0)
    assert PairedGate()(GateRows(r.user, np.zeros_like(r.label), r.candidate, r.serving, r.serving)).accepted


def test_the_same_rows_give_the_same_verdict_and_only_the_newest_are_looked_at() -> None:
    r = rows(candidate=0.7)
    assert PairedGate()(r) == PairedGate()(r)
    names = ("user", "label", "candidate", "serving", "control")
    newest = GateRows(*(getattr(r, f)[-1500:] for f in names))
    assert PairedGate(max_rows=1500)(r) == PairedGate()(newest)


def test_the_limits_themselves_are_enough_and_one_less_is_not() -> None:
    r = rows(users=40, each=25, candidate=4.0)
    users = [r.label[r.user == u] for u in np.unique(r.user)]
    ranked = sum(0 < y.sum() < len(y) for y in users)
    enough = PairedGate(min_rows=1000, min_users=ranked)(r)
    assert not enough.accepted
    assert (enough.figures["users"], enough.figures["users_ranked"]) == (40, ranked)
    few_rows = PairedGate(min_rows=1001, min_users=ranked)(r)
    assert few_rows.accepted
    assert few_rows.reason == "not tested, 1,000 rows that all predicted are too few (1,001)"
    assert few_rows.figures == {"rows": 1000.0}
    few_users = PairedGate(min_rows=1000, min_users=41)(r)
    assert few_users.accepted
    assert few_users.reason == "not tested, 40 users are too few (41)"
    assert few_users.figures == {"rows": 1000.0, "users": 40.0, "users_ranked": float(ranked)}
    assert not PairedGate(min_rows=1000, min_users=40)(r).accepted


def test_users_of_one_class_are_judged_by_ne_alone() -> None:
    r = rows(users=60, each=10, candidate=4.0)
    label = np.where(r.user < 40 * 977, r.user % np.uint64(2), r.label).astype(
        np.float32
    )  # 20 of 60 have both
    verdict = PairedGate()(GateRows(r.user, label, 1 - label * 0.9, r.serving, r.control))
    assert verdict.reason == "worse than the current A-CTR on NE, worse than the control on NE"
    assert (verdict.figures["users"], verdict.figures["users_ranked"] < 30) == (60, True)
    assert "gauc_serving" not in verdict.figures


def test_figures_of_the_intervals_are_those_of_the_bootstrap_with_the_gates_own_settings() -> None:
    r = rows(candidate=1.0)
    figures = PairedGate(samples=50, level=0.8, seed=3)(r).figures
    draws = {"samples": 50, "level": 0.8, "seed": 3}
    ne = ne_difference(r.label, r.candidate, r.control, r.user, **draws)
    gauc = gauc_difference(r.label, r.candidate, r.control, r.user, **draws)
    assert (figures["ne_control"], figures["ne_control_low"], figures["ne_control_high"]) == (
        ne.value,
        ne.low,
        ne.high,
    )
    assert (figures["gauc_control_low"], figures["gauc_control_high"]) == (gauc.low, gauc.high)
