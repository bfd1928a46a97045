"""TPM: months, warm start, snapshots, and accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ecdctr.events.batch import Batch
from ecdctr.events.time import DAY_MS
from ecdctr.models.tpm.trainer import TpmTrainer
from ecdctr.state.checkpoints import Capture, Loaded, merge_rows
from ecdctr.state.snapshots import MemoryEmbeddingStore, RocksEmbeddingStore

START_MS = 1_767_225_600_000  # 2026-01-01, the origin of the ten-day months


def tpm_of(world: Any, store: Any = None, **changes: Any) -> TpmTrainer:
    return TpmTrainer(world.schema, world.model(), world.tpm.model_copy(update=changes), store, device="cpu")


def days(world: Any, first: int, last: int, rows: int = 80) -> list[Batch]:
    return [world.batch(rows, at=START_MS + d * DAY_MS, seed=d) for d in range(first, last)]


def test_a_month_closes_when_a_row_passes_its_end(world: Any) -> None:
    store = MemoryEmbeddingStore()
    trainer = tpm_of(world, store)
    for batch in days(world, 0, 10):
        assert trainer.learn(batch) == []
    assert store.months() == []
    (manifest,) = trainer.learn(world.batch(10, at=START_MS + 10 * DAY_MS))
    assert manifest.month == "2026-01-01"
    learned = Batch.concat(days(world, 0, 10))
    assert (manifest.first_ts, manifest.last_ts) == (int(learned.ts.min()), int(learned.ts.max()))
    assert manifest.rows == {"user": len(np.unique(learned.user)), "item": len(np.unique(learned.item))}
    assert manifest.features == ("user_id", "item_id", "site", "tags")
    assert trainer.finish() == ["2026-01-01", "2026-01-11"]


def test_a_batch_across_months_is_split_and_an_empty_month_leaves_no_snapshot(world: Any) -> None:
    one, many = MemoryEmbeddingStore(), MemoryEmbeddingStore()
    parts = [*days(world, 8, 12), *days(world, 31, 33)]
    a, b = tpm_of(world, one, batch=80), tpm_of(world, many, batch=80)
    closed = a.learn(Batch.concat(parts))
    for part in parts:
        b.learn(part)
    a.finish()
    b.finish()
    assert [m.month for m in closed] == ["2026-01-01", "2026-01-11"]
    assert one.months() == many.months() == ["2026-01-01", "2026-01-11", "2026-01-31"]
    for month in one.months():
        assert one.manifest(month).checksum == many.manifest(month).checksum


def test_snapshots_do_not_depend_on_the_batches_of_rows(world: Any) -> None:
    """A stream is divided into other batches than a file; the snapshots have the same bits."""
    rows = Batch.concat(days(world, 0, 22, rows=130))
    whole, pieces = MemoryEmbeddingStore(), MemoryEmbeddingStore()
    one, other = tpm_of(world, whole), tpm_of(world, pieces)
    one.learn(rows)
    rng = np.random.default_rng(4)
    at = 0
    while at < len(rows):
        n = int(rng.integers(1, 100))
        other.learn(rows.take(slice(at, at + n)))
        at += n
    assert one.finish() == other.finish() == whole.months() and len(whole.months()) == 3
    for month in whole.months():
        assert whole.manifest(month) == pieces.manifest(month)
    assert one.rows_learned == other.rows_learned == len(rows)


def test_training_continues_from_the_previous_month_and_tables_hold_every_id(world: Any) -> None:
    store = MemoryEmbeddingStore()
    trainer = tpm_of(world, store)
    early = world.batch(500, at=START_MS, seed=1)
    world.users = 5  # later months have fewer users
    later = [world.batch(200, at=START_MS + (10 + d) * DAY_MS, seed=d) for d in range(10)]
    for batch in [early, *later]:
        trainer.learn(batch)
    trainer.finish()
    users = np.unique(early.user)
    away = np.setdiff1d(users, np.concatenate([b.user for b in later]))
    present = np.setdiff1d(users, away)
    vectors, mask = store.lookup("user", users, store.months())
    assert mask.all()
    unchanged = (vectors[:, 0] == vectors[:, 1]).all(1)
    np.testing.assert_array_equal(users[unchanged], away)
    assert len(away) > 20
    # Warm start: a present user's new vector is closer to the user's own vector of the previous month than to another's.
    both = vectors[np.isin(users, present)]
    own = np.linalg.norm(both[:, 0] - both[:, 1], axis=1)
    other = np.linalg.norm(both[:, 0] - np.roll(both[:, 1], 1, axis=0), axis=1)
    assert own.mean() < other.mean()


def test_late_rows_are_learned_in_the_open_month_and_counted(world: Any) -> None:
    store = MemoryEmbeddingStore()
    trainer = tpm_of(world, store)
    trainer.learn(world.batch(50, at=START_MS + 10 * DAY_MS))
    trainer.learn(world.batch(30, at=START_MS + 2 * DAY_MS, seed=1))
    assert trainer.finish() == ["2026-01-11"]
    assert (trainer.rows_learned, trainer.rows_late) == (80, 30)
    manifest = store.manifest("2026-01-11")
    assert manifest.first_ts < START_MS + 3 * DAY_MS
    assert manifest.last_ts >= START_MS + 10 * DAY_MS


def test_it_learns_who_clicks_what(world: Any) -> None:
    trainer = tpm_of(world, dim=8, batch=32)
    for batch in days(world, 0, 9, rows=2000):
        trainer.learn(batch)
    fresh = world.batch(4000, at=START_MS + 9 * DAY_MS, seed=99)
    user = (fresh.user - np.uint64(3)) // np.uint64(7919)
    item = (fresh.item - np.uint64(5)) // np.uint64(104729)
    best = roc_auc_score(fresh.label, np.sin(user * 1.7) + np.cos(item * 2.3))  # the best AUC from ids alone
    assert best > 0.7
    assert roc_auc_score(fresh.label, trainer.predict(fresh)) > best - 0.015


@pytest.mark.slow
def test_the_product_of_frozen_vectors_alone_represents_preferences(world: Any) -> None:
    """A snapshot contains the vectors, not the MLP: a preference that no sum of effects can represent is in their product."""
    rng = np.random.default_rng(5)
    trainer = tpm_of(world, dim=8, batch=64, embedding_lr=0.1)
    users, items = rng.normal(size=(20, 2)), rng.normal(size=(15, 2))
    for i in range(20):
        batch = world.batch(2000, at=START_MS + i * 3_600_000, seed=i)
        u, v = rng.integers(0, 20, 2000), rng.integers(0, 15, 2000)
        batch.user[:], batch.item[:] = u + 1, v + 1
        z = 1.5 * (users[u] * items[v]).sum(1)
        batch.label[:] = rng.random(2000) < 1 / (1 + np.exp(-z))
        trainer.learn(batch)
    trainer.finish()
    (user_ids, of_users), (item_ids, of_items) = trainer.users.vectors(), trainer.items.vectors()
    products = of_users[np.argsort(user_ids)] @ of_items[np.argsort(item_ids)].T
    preferences = users @ items.T
    interactions = [x - x.mean(0) - x.mean(1, keepdims=True) + x.mean() for x in (products, preferences)]
    assert np.corrcoef(interactions[0].ravel(), interactions[1].ravel())[0, 1] > 0.7


def test_unknown_ids_are_predicted_without_being_added(world: Any) -> None:
    trainer = tpm_of(world)
    trainer.learn(world.batch(50))
    known = len(trainer.users.map)
    batch = world.batch(20, seed=1)
    batch.user[:] += np.uint64(1)
    p = trainer.predict(batch)
    assert ((p > 0) & (p < 1)).all()
    assert len(trainer.users.map) == known


def test_a_chunk_that_cannot_be_learned_is_skipped(world: Any) -> None:
    trainer = tpm_of(world)
    trainer.learn(world.batch(64, seed=1))
    before = trainer.capture()
    bad = world.batch(64, seed=2)
    bad.label[5] = np.nan
    trainer.learn(bad)
    assert (trainer.rows_learned, trainer.rows_skipped) == (64, 64)
    after = trainer.capture().dense
    for name, value in before.dense.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


@pytest.mark.parametrize("cut", [1, 6, 12])
def test_continuing_from_a_capture_gives_the_same_snapshots(world: Any, cut: int) -> None:
    stream = days(world, 0, 24)
    whole = MemoryEmbeddingStore()
    straight = tpm_of(world, whole)
    for batch in stream:
        straight.learn(batch)
    straight.finish()

    parts = MemoryEmbeddingStore()
    first = tpm_of(world, parts)
    captures: list[Capture] = []
    for batch in stream[:cut]:
        first.learn(batch)
        captures.append(first.capture())
    second = tpm_of(world, parts)
    second.restore(Loaded("x", captures[-1].dense, merge_rows([c.rows for c in captures]), captures[-1].meta))
    for batch in stream[cut:]:
        second.learn(batch)
    assert second.finish() == whole.months() == parts.months()
    for month in whole.months():
        assert whole.manifest(month) == parts.manifest(month)


def test_snapshots_go_to_a_folder(world: Any, tmp_path: Path) -> None:
    trainer = tpm_of(world, tmp_path / "snapshots")
    batch = world.batch(100)
    trainer.learn(batch)
    trainer.finish()
    store = RocksEmbeddingStore(tmp_path / "snapshots")
    vectors, mask = store.lookup("item", batch.item, ["2026-01-01"])
    assert mask.all()
    ids, values = trainer.items.vectors()
    np.testing.assert_array_equal(vectors[0, 0], values[ids == batch.item[0]][0])
    store.close()
