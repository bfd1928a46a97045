"""What a replay looks for by itself: each leak is built, and is named; honest logs are not accused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from ecdctr import factory
from ecdctr.commands.tpm_train import train_tpm
from ecdctr.events.batch import Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.checks.day_check import DayCheck, DayFinding
from ecdctr.replay.checks.leakage import FeatureProbe, Finding
from ecdctr.replay.checks.run import checks
from ecdctr.replay.sources import SourceLog, steps_of
from ecdctr.settings import load_settings
from ecdctr.sources import open_with_features
from ecdctr.state.errors import PointInTimeError

SOURCE = "sim:days=7,live_from=4,users=200,items=60,natural_per_day=1200,ads_per_day=300"
SETTINGS = (
    "model.threads=1",
    "model.natural_batch=128",
    "model.hidden=[8]",
    "model.history=none",
    "model.natural_score_share=0.5",
)


def probe_of(make, rows=6_000, domain=1):
    """A probe that has seen rows whose features ``make(rng, label)`` gives."""
    specs = [
        FeatureSpec(name="user", field="user_id", buckets=1000),
        FeatureSpec(name="tags", kind="bag", max_length=4, buckets=100),
        FeatureSpec(name="price", kind="numeric"),
    ]
    schema = FeatureSchema(specs, 4)
    rng = np.random.default_rng(0)
    label = rng.random(rows) < 0.1
    columns = {
        "user": rng.integers(1, 1001, rows),
        "tags": rng.integers(1, 101, (rows, 4)),
        "price": rng.normal(0, 1, rows),
    }
    columns |= make(rng, label)
    features = np.column_stack([columns["user"], columns["tags"]]).astype(np.int32)
    z = np.zeros(rows, np.uint64)
    batch = Batch(
        np.arange(rows), np.full(rows, domain, np.uint8), z, z, features,
        columns["price"].astype(np.float32)[:, None], label.astype(np.float32),
    )  # fmt: skip
    probe = FeatureProbe(schema)
    for first in range(0, rows, 1_000):
        probe.observe(batch.take(slice(first, first + 1_000)))
    return probe


LEAKS = {
    "user": lambda rng, y: {
        "user": np.where(y, rng.integers(1, 500, len(y)), rng.integers(500, 1000, len(y)))
    },
    "tags": lambda rng, y: {
        "tags": np.where((np.arange(4) < 2) | y[:, None], rng.integers(1, 101, (len(y), 4)), 0)
    },
    "price": lambda rng, y: {"price": np.where(y, 0.0, rng.choice([-1.0, 1.0], len(y)))},
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_feature_that_gives_the_answer_away_is_named(name):
    """Values that only clicks have; the length of a list; a number that is neither high nor low where it matters."""
    found = probe_of(LEAKS[name]).findings()
    assert [f.feature for f in found if f.suspicious] == [name]
    assert found[0].domain == "ad"
    result = checks([], found, 0, [])[2]
    assert result.ok is False
    assert f"{name} on ad rows" in result.text


def test_honest_features_are_not_accused():
    def strong(rng, y):
        return {"price": rng.normal(2.0 * y, 1.0), "user": rng.permutation(len(y)) % 1000 + 1}

    found = probe_of(strong).findings()
    assert not any(f.suspicious for f in found)
    price = next(f.auc for f in found if f.feature == "price")
    assert price == pytest.approx(0.921, abs=0.03)  # of two normals two deviations apart
    assert next(f.auc for f in found if f.feature == "user") == pytest.approx(0.5, abs=0.05)


def test_of_few_rows_nothing_is_said():
    assert not any(f.suspicious for f in probe_of(LEAKS["price"], rows=200).findings())


def watched(*more, spoil=None):
    settings = load_settings(None, (*SETTINGS, *more), environ={})
    source, settings = open_with_features(SOURCE, settings)
    engine = factory.memory_engine(settings)
    if spoil is not None:
        spoil(engine)
    day = DayCheck(engine)
    for step in steps_of(
        SourceLog(source, factory.decoder(settings)).batches(), natural_batch=128, ad_batch=64
    ):
        day.run(step)
    day.close_day()
    return day


@pytest.fixture(scope="module")
def honest():
    return watched()


def test_rows_are_scored_before_they_are_learned(honest):
    assert [(f.domain, f.arm) for f in honest.findings] == [("natural", "cpm"), ("ad", "ads_only")] * 3
    assert not any(f.suspicious for f in honest.findings)
    assert all(f.moved > 0.9 and f.after < f.before for f in honest.findings)
    assert checks(honest.findings, [], 0, [])[0].ok


def test_watching_changes_nothing(honest):
    alone = factory.memory_engine(
        honest_settings := open_with_features(SOURCE, load_settings(None, SETTINGS, environ={}))[1]
    )
    source = open_with_features(SOURCE, load_settings(None, SETTINGS, environ={}))[0]
    for step in steps_of(
        SourceLog(source, factory.decoder(honest_settings)).batches(), natural_batch=128, ad_batch=64
    ):
        alone.run(step)
    assert alone.trainer.state_hash() == honest.engine.trainer.state_hash()


def test_scores_made_after_learning_are_caught():
    def spoil(engine):
        run = engine.run

        def late(step):
            from dataclasses import replace

            result = run(step)
            return replace(result, scores=engine.trainer.score(step)[1])

        engine.run = late

    day = watched(spoil=spoil)
    assert all(f.suspicious for f in day.findings)
    result = checks(day.findings, [], 0, [])[0]
    assert result.ok is False
    assert "(ads_only)" in result.text


def test_a_model_that_learns_nothing_is_caught():
    def deafen(engine):
        for arm in engine.trainer.arms.values():
            arm.compute, arm.apply = lambda _: 0.5, lambda: None

    assert all(f.suspicious for f in watched(spoil=deafen).findings)


def test_each_check_says_what_it_found():
    day = DayFinding(19_000, "ad", "ads_only", 100, 0.3, 0.2, 1.0, 1.0)
    fine = checks([day], [Finding("user", "ad", 0.6, 10)], 0, ["2026-01"])
    assert [c.ok for c in fine] == [True] * 4
    assert "0.3000 before learning, 0.2000 after" in fine[0].text
    assert "user on ad rows, AUC 0.600" in fine[2].text
    assert "2026-01" in fine[3].text
    assert checks([day], [], 3, [])[1].text.startswith("3 rows came later")
    assert [c.ok for c in checks([], [], 0, [])] == [None, True, None, True]


def test_a_row_that_meets_a_younger_snapshot_is_an_error(tmp_path):
    loaded = load_settings(
        None, (f"state.folder='{tmp_path}'", *SETTINGS[:3], "tpm.month=2d", "tpm.dim=4"), environ={}
    )
    quiet = Console(file=io.StringIO())
    first, *_ = train_tpm(quiet, quiet, loaded, SOURCE, partial=True)
    trainer = factory.memory_engine(open_with_features(SOURCE, loaded)[1]).trainer
    assert trainer.store is not None
    trainer.clock = trainer.store.manifest(first).last_ts
    assert first not in (trainer.months_due(trainer.clock) or ())
    with pytest.raises(
        PointInTimeError, match="a row must not read a snapshot that was trained on later rows"
    ):
        trainer.use_months((first,))
    trainer.clock += 1
    trainer.use_months((first,))
