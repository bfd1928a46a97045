"""``DirtyRows``: a set, and what is kept for the next checkpoint is bounded by what there is, not by the log."""

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
def test_touched_rows_are_a_set(marks: list[list[int]]) -> None:
    touched = DirtyRows(20)
    for mark in marks:
        touched.mark(np.array(mark, np.int64))
    expected = sorted({row for mark in marks for row in mark})
    assert touched.peek().tolist() == expected
    assert touched.take().tolist() == expected
    assert touched.take().tolist() == []


@pytest.mark.parametrize("kind", ["bayes_fm", "item_ctr"])
def test_rows_of_known_ids_take_no_memory_however_long_no_checkpoint_comes(kind: str) -> None:
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
