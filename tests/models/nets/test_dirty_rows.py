"""``DirtyRows``: a set, whose memory is bounded by the number of distinct rows, not by the rows of the log."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.events.batch import AD, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import default_features
from ecdctr.models.arms import Arm, ArmInput, BayesFm, ItemCtr
from ecdctr.models.nets.dirty_rows import DirtyRows
from ecdctr.models.settings import BayesFmSettings


@given(st.lists(st.lists(st.integers(0, 19), unique=True), max_size=8))
@settings(derandomize=True)
def test_dirty_rows_are_a_set(marks: list[list[int]]) -> None:
    dirty = DirtyRows(20)
    for mark in marks:
        dirty.mark(np.array(mark, np.int64))
    expected = sorted({row for mark in marks for row in mark})
    assert dirty.peek().tolist() == expected
    assert dirty.take().tolist() == expected
    assert dirty.take().tolist() == []


@pytest.mark.parametrize("kind", ["bayes_fm", "item_ctr"])
def test_memory_does_not_grow_with_repeated_ids_between_checkpoints(kind: str) -> None:
    schema = FeatureSchema(default_features(), 4)
    ids = np.arange(1, 513)
    batch = Batch(
        ts=np.zeros(512, np.int64),
        domain=np.full(512, AD, np.uint8),
        user=ids.astype(np.uint64),
        item=ids.astype(np.uint64),
        features=np.repeat(ids[:, None], schema.n_features, axis=1).astype(np.int32) % 20,
        dense=np.zeros((512, 0), np.float32),
        label=(ids % 5 == 0).astype(np.float32),
    )
    batch.features[:, :2] = ids[:, None]
    if kind == "bayes_fm":
        arm: Arm = BayesFm(schema, BayesFmSettings(), name="bayes_fm")
    else:
        arm = ItemCtr()

    def learn() -> None:
        arm.learn(ArmInput(batch))

    learn()
    tracemalloc.start()
    try:
        learn()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(40):
            learn()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000  # the ids of forty batches alone would be several times as much
