"""One extreme number takes no other row with it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ecdctr import factory
from ecdctr.events.batch import Batch
from ecdctr.models.serving.extreme_values import LimitedValues, limit_extremes
from ecdctr.replay.sources import SourceLog, open_source, steps_of
from ecdctr.settings import load_settings
from tests.support.logged_events import event_rows, write_json


def batch_of(values):
    n = len(values)
    ids = np.arange(n, dtype=np.uint64)
    dense = np.asarray(values, np.float32).reshape(n, -1)
    return Batch(
        np.arange(n),
        np.zeros(n, np.uint8),
        ids,
        ids,
        np.zeros((n, 1), np.int32),
        dense,
        np.zeros(n, np.float32),
    )


@pytest.mark.parametrize("kind", ["normal", "prices", "heavy", "times", "counts", "few"])
def test_values_as_they_occur_are_left_bit_for_bit(kind):
    rng = np.random.default_rng(3)
    for n in (1, 7, 64, 512):
        values = {
            "normal": rng.normal(size=n),
            "prices": rng.lognormal(3, 1, n),
            "heavy": rng.pareto(2.0, n) * 10,
            "times": 1.7e12 + rng.integers(0, 10**9, n),
            "counts": rng.poisson(500, n),
            "few": np.where(rng.random(n) < 0.02, 3000.0, 0.0),
        }[kind]
        batch = batch_of(values)
        assert limit_extremes(batch) is batch


@pytest.mark.parametrize("extreme", [1e30, -1e30, 3e38, 1e18, -999999999999.0])
@pytest.mark.parametrize("often", [1, 5])
def test_extreme_values_become_large_ones_and_the_others_stay(extreme, often):
    rng = np.random.default_rng(4)
    values = rng.lognormal(3, 1, 64).astype(np.float32)
    values[:often] = extreme
    counted = LimitedValues(1)
    found = limit_extremes(batch_of(values), counted).dense[:, 0]
    np.testing.assert_array_equal(found[often:], values[often:])
    assert np.abs(found[:often]).max() < 1e5
    assert np.sign(found[0]) == np.sign(extreme)
    assert (counted.counts[0], counted.largest[0]) == (often, abs(np.float32(extreme)))


@pytest.mark.slow
@pytest.mark.parametrize("bad", [1, 10])
def test_case_f7_sentinels_take_no_neighbour_with_them(tmp_path, bad):
    rows = [
        row | {"price": 1e30} if i % (1200 // bad) == 100 else row for i, row in enumerate(event_rows(1200))
    ]
    path = write_json(tmp_path / "e.jsonl", rows)
    overrides = (
        f"state.folder={json.dumps(str(tmp_path / 'state'))}",
        "schedule.first_release_after=6h",
        "schedule.release_every=12h",
        "model.dim=4",
        "model.hidden=[8]",
        "model.natural_batch=64",
        "model.ad_batch=32",
        "model.threads=1",
        'features=[{name="user",field="user_id",buckets=100},{name="item",field="item_id",buckets=100},{name="price",kind="numeric"}]',
    )
    settings = load_settings(None, overrides, environ={}).settings
    engine = factory.memory_engine(settings)
    engine.bind_thread()
    log = SourceLog(open_source(str(path), features=settings.features), factory.decoder(settings))
    for step in steps_of(log.batches(), natural_batch=64, ad_batch=32):
        engine.run(step)
    assert engine.progress.skipped_rows == 0
    assert sum(engine.progress.rows.values()) == 1200
    assert engine.trainer.scorer.limited.counts.tolist() == [sum(row["price"] > 1e29 for row in rows)]
    scores = engine.scores.read()
    assert np.isfinite(scores["p_actr"][scores["domain"] == 1]).all()
    engine.close(checkpoint=False)
