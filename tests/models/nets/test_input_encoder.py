"""Rows of a batch -> distinct table rows and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.models.nets.input_encoder import InputEncoder

CPU = torch.device("cpu")


@given(n=st.integers(0, 60), seed=st.integers(0, 1000))
@settings(max_examples=40, derandomize=True)
def test_inverse_of_distinct_rows_gives_each_feature_its_own_rows(n: int, seed: int) -> None:
    schema = FeatureSchema(
        [
            FeatureSpec(name="a", buckets=5),
            FeatureSpec(name="tags", kind="bag", buckets=7, max_length=2),
            FeatureSpec(name="b", buckets=3),
            FeatureSpec(name="wide", buckets=4, dim=9),
        ],
        dim=2,
    )
    encoder = InputEncoder(schema, CPU)
    buckets = np.array([5, 7, 7, 3, 4])
    features = np.random.default_rng(seed).integers(0, buckets + 1, (n, 5)).astype(np.int32)
    batch = _batch(features)
    narrow, wide = encoder.encode(batch).tables
    # One table of width 2: a (6 rows), b (4 rows), tags (8 rows), singles first.
    expected = np.stack(
        [features[:, 0], features[:, 3] + 6, features[:, 1] + 10, features[:, 2] + 10], axis=1
    )
    np.testing.assert_array_equal(narrow.index[narrow.inverse.numpy()].reshape(n, 4), expected)
    assert narrow.index.tolist() == sorted(set(expected.ravel().tolist()))
    np.testing.assert_array_equal(wide.index[wide.inverse.numpy()], features[:, 4])
    groups = np.split(narrow.order.numpy(), narrow.starts.numpy()[1:])
    for row, places in zip(narrow.index, groups, strict=False):
        assert places.tolist() == np.flatnonzero(expected.ravel() == row).tolist()
    assert narrow.bag_mask is not None
    np.testing.assert_array_equal(narrow.bag_mask.numpy(), features[:, 1:3] != 0)
    assert wide.bag_mask is None
    assert [layout.rows for layout in encoder.layouts] == [18, 5]


def test_read_only_columns_are_accepted(world: Any) -> None:
    batch = world.batch(5)
    for column in (batch.features, batch.dense, batch.label):
        column.setflags(write=False)
    encoded = InputEncoder(world.schema, CPU).encode(batch)
    assert encoded.n == 5


@pytest.mark.parametrize("buckets", [10, 3_000_000])
def test_tables_of_any_size_give_the_same_rows(buckets: int) -> None:
    encoder = InputEncoder(FeatureSchema([FeatureSpec(name="a", buckets=buckets)], dim=1), CPU)
    encoded = encoder.encode(_batch(np.array([[3], [9], [3]], np.int32)))
    assert encoded.tables[0].index.tolist() == [3, 9]
    assert encoded.tables[0].inverse.tolist() == [0, 1, 0]


def _batch(features: np.ndarray) -> Any:
    from ecdctr.events.batch import Batch

    n = len(features)
    return Batch(
        ts=np.zeros(n, np.int64),
        domain=np.zeros(n, np.uint8),
        user=np.zeros(n, np.uint64),
        item=np.zeros(n, np.uint64),
        features=features,
        dense=np.zeros((n, 0), np.float32),
        label=np.zeros(n, np.float32),
    )
