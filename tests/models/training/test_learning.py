"""Accuracy on simulated rows whose best possible AUC is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.step import Step
from ecdctr.events.time import DAY_MS
from ecdctr.models.settings import ModelSettings, ScheduleSettings, TpmSettings
from ecdctr.models.training.trainer import Trainer
from ecdctr.state.row_logs import AdWindow


def clicks(n: int, seed: int, interaction: float) -> tuple[Batch, np.ndarray]:
    """Rows with a main effect of each of two features, their interaction, and a number; and the true logit."""
    rng, world = np.random.default_rng(seed), np.random.default_rng(42)
    a, b, x = rng.integers(0, 30, n), rng.integers(0, 20, n), rng.normal(size=n)
    main_a, main_b = world.normal(0, 0.8, 30), world.normal(0, 0.8, 20)
    cross = world.normal(size=(30, 2)) @ world.normal(size=(2, 20))
    z = -1.0 + main_a[a] + main_b[b] + interaction * cross[a, b] + 0.7 * x
    batch = Batch(
        ts=np.sort(rng.integers(0, DAY_MS, n)),
        domain=np.full(n, NATURAL, np.uint8),
        user=a.astype(np.uint64),
        item=b.astype(np.uint64),
        features=np.stack([a + 1, b + 1], axis=1).astype(np.int32),
        dense=x.astype(np.float32)[:, None],
        label=(rng.random(n) < 1 / (1 + np.exp(-z))).astype(np.float32),
    )
    return batch, z


@pytest.mark.slow
@pytest.mark.parametrize(("interaction", "slack"), [(0.0, 0.01), (0.8, 0.02)])
def test_one_pass_is_close_to_the_best_possible_auc(interaction: float, slack: float) -> None:
    specs = [
        FeatureSpec(name="a", buckets=30),
        FeatureSpec(name="b", buckets=20),
        FeatureSpec(name="x", kind="numeric"),
    ]
    model = ModelSettings(hidden=(32, 16), dim=8, natural_batch=128, natural_score_share=0.0)
    schema = FeatureSchema(specs, model.dim)
    window = AdWindow(None, schema.n_features, schema.n_dense, 3)
    trainer = Trainer(schema, model, ScheduleSettings(), TpmSettings(), None, window, device="cpu")
    train, _ = clicks(80_000, 1, interaction)
    for i in range(0, len(train), 128):
        trainer.step(Step.from_batch(train.take(slice(i, i + 128))))
    fresh, z = clicks(20_000, 2, interaction)
    p = trainer.predict(fresh, "cpm")
    assert roc_auc_score(fresh.label, p) > roc_auc_score(fresh.label, z) - slack
    if interaction:  # more than any sum of effects can represent
        _, additive = clicks(20_000, 2, 0.0)
        assert roc_auc_score(fresh.label, p) > roc_auc_score(fresh.label, additive) + 0.03
    assert p.sum() / fresh.label.sum() == pytest.approx(1.0, abs=0.06)


@pytest.mark.slow
def test_ads_in_partial_batches_train_as_ads_in_full_batches(world: Any) -> None:
    """A live stream delivers partial batches; a row must not have more weight because it arrived alone."""
    full, partial = world.trainer(), world.trainer()
    for i in range(150):
        batch = world.batch(32, AD, seed=i)
        full.step(Step.from_batch(batch))
        for part in range(0, 32, 4):
            partial.step(Step.from_batch(batch.take(slice(part, part + 4))))
    fresh = world.batch(4000, AD, seed=999)
    auc = [roc_auc_score(fresh.label, t.predict(fresh, "ads_only")) for t in (full, partial)]
    assert min(auc) > 0.7
    assert abs(auc[0] - auc[1]) < 0.03
