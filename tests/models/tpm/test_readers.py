"""Readers of TPM snapshots: one look-up per id, an exact merge, no snapshot younger than a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ecdctr.events.time import DAY_MS
from ecdctr.models.nets import HistoricalAttention
from ecdctr.models.tpm.readers import MergedHistory, SnapshotHistory
from ecdctr.state.errors import ConfigError, PointInTimeError

CPU = torch.device("cpu")
MONTHS = ("m0", "m1", "m2")


def attentions(seed: int = 0) -> tuple[HistoricalAttention, HistoricalAttention]:
    generator = torch.Generator().manual_seed(seed)
    made = (HistoricalAttention(4), HistoricalAttention(4))
    with torch.no_grad():
        for p in [*made[0].parameters(), *made[1].parameters()]:
            p.copy_(torch.randn(p.shape, generator=generator))
    return made


def through(attention: HistoricalAttention, given: Any) -> np.ndarray:
    with torch.no_grad():
        return attention(given.rows, given.mask)[given.inverse].numpy()  # type: ignore[no-any-return]


def test_each_id_is_looked_up_once(world: Any) -> None:
    store = world.store()
    batch = world.batch(300)
    asked: list[int] = []
    look_up = store.lookup
    store.lookup = lambda kind, ids, months: asked.append(len(ids)) or look_up(kind, ids, months)
    user, item = SnapshotHistory(store, MONTHS, 4, batch.ts[0], CPU).read(batch)
    assert asked == [len(np.unique(batch.user)), len(np.unique(batch.item))]
    expected, mask = store.lookup("user", batch.user, MONTHS)
    assert user.rows is not None and user.mask is not None
    np.testing.assert_array_equal(user.rows[user.inverse].numpy(), expected)
    np.testing.assert_array_equal(user.mask[user.inverse].numpy(), mask)
    assert item.rows is not None


def test_merged_rows_equal_the_attention_looked_up_and_as_a_table(world: Any) -> None:
    store, batch = world.store(), world.batch(300)
    user, item = attentions()
    merged = MergedHistory(store, MONTHS, user, item, int(batch.ts[0]), CPU)
    plain = SnapshotHistory(store, MONTHS, 4, int(batch.ts[0]), CPU).read(batch)
    for given, whole, attention in zip(merged.read(batch), plain, (user, item), strict=True):
        assert given.vectors is not None
        np.testing.assert_allclose(
            given.vectors[given.inverse].numpy(), through(attention, whole), rtol=1e-5, atol=1e-6
        )
    for kind in ("user", "item"):
        for ids, table in merged.merge(kind, rows=7):
            vectors, present = merged.lookup(kind, ids)
            np.testing.assert_array_equal(vectors, table)
            assert present.all()
    known = np.concatenate([ids for ids, _ in merged.merge("user")])
    np.testing.assert_array_equal(known, np.concatenate(list(store.iter_ids("user", MONTHS))))


def test_earlier_look_ups_do_not_change_a_result(world: Any) -> None:
    store, batch = world.store(), world.batch(500)
    clock = int(batch.ts[0])
    small = MergedHistory(
        store, MONTHS, *attentions(), clock, CPU, slots=4
    )  # nearly every look-up evicts another id
    for part in range(0, 500, 50):
        rows = batch.take(slice(part, part + 50))
        fresh = MergedHistory(store, MONTHS, *attentions(), clock, CPU)
        for a, b in zip(small.read(rows), fresh.read(rows), strict=True):
            assert a.vectors is not None and b.vectors is not None
            assert a.present is not None and b.present is not None
            assert torch.equal(a.vectors, b.vectors)
            assert torch.equal(a.present, b.present)


def test_no_row_reads_a_younger_snapshot(world: Any) -> None:
    store, batch = world.store(), world.batch(300)
    # m1 ends 10 days before START, m2 one millisecond before: rows from around both ends.
    last = np.array([store.manifest(month).last_ts for month in MONTHS])
    batch.ts[:] = np.random.default_rng(0).choice(
        np.concatenate([last - 1, last, last + 1, last + DAY_MS]), len(batch)
    )
    clock = int(last.max()) + 1
    allowed = batch.ts[:, None] > last[None, :]
    user_attention, item_attention = attentions()
    plain = SnapshotHistory(store, MONTHS, 4, clock, CPU).read(batch)
    merged = MergedHistory(store, MONTHS, user_attention, item_attention, clock, CPU).read(batch)
    for ids, given, one, attention, kind in zip(
        (batch.user, batch.item),
        plain,
        merged,
        (user_attention, item_attention),
        ("user", "item"),
        strict=True,
    ):
        _, mask = store.lookup(kind, ids, MONTHS)
        assert given.mask is not None
        np.testing.assert_array_equal(given.mask[given.inverse].numpy() > 0, mask & allowed)
        assert one.vectors is not None and one.present is not None
        np.testing.assert_allclose(
            one.vectors[one.inverse].numpy(), through(attention, given), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(one.present[one.inverse].numpy() > 0, (mask & allowed).any(1))
    assert 0 < allowed.mean() < 1


@pytest.mark.parametrize("behind", [0, 1, DAY_MS])
def test_a_snapshot_that_is_not_older_than_the_clock_is_refused(world: Any, behind: int) -> None:
    store = world.store()
    last = store.manifest("m2").last_ts
    with pytest.raises(PointInTimeError, match="m2"):
        SnapshotHistory(store, MONTHS, 4, last - behind, CPU)
    with pytest.raises(PointInTimeError, match="m2"):
        MergedHistory(store, MONTHS, *attentions(), last - behind, CPU)
    SnapshotHistory(store, MONTHS, 4, last + 1, CPU)


def test_errors_of_wrong_dimension_and_missing_store_name_the_remedy(world: Any) -> None:
    with pytest.raises(ConfigError, match=r"tpm\.dim = 4"):
        SnapshotHistory(world.store(), MONTHS, 5, 2**60, CPU)
    with pytest.raises(ConfigError, match="no snapshot store"):
        SnapshotHistory(None, MONTHS, 4, 2**60, CPU)


def test_without_months_every_id_is_absent(world: Any) -> None:
    batch = world.batch(20)
    user, item = attentions()
    for given in SnapshotHistory(None, (), 4, 0, CPU).read(batch):
        assert given.rows is not None and given.rows.shape[1] == 0
    merged = MergedHistory(None, (), user, item, 0, CPU)
    for given, attention in zip(merged.read(batch), (user, item), strict=True):
        assert given.vectors is not None and given.present is not None
        assert not given.present.any()
        assert torch.equal(given.vectors, attention.default.detach().expand_as(given.vectors))
    assert list(merged.merge("user")) == []
