"""``ItemCtr`` against a table of counts."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ecdctr.events.batch import Batch
from ecdctr.models.arms.interface import ArmInput, ArmState
from ecdctr.models.arms.item_ctr import ItemCtr
from ecdctr.state.checkpoints import merge_rows


def rows(item: np.ndarray, label: np.ndarray) -> ArmInput:
    n = len(item)
    return ArmInput(
        Batch(
            ts=np.zeros(n, np.int64),
            domain=np.ones(n, np.uint8),
            user=np.zeros(n, np.uint64),
            item=item.astype(np.uint64),
            features=np.zeros((n, 0), np.int32),
            dense=np.zeros((n, 0), np.float32),
            label=label.astype(np.float32),
        )
    )


def predict(ctr: ItemCtr, *items: int) -> np.ndarray:
    return ctr.predict(rows(np.array(items), np.zeros(len(items))))


def digest(ctr: ItemCtr) -> str:
    out = hashlib.blake2b()
    ctr.digest(out)
    return out.hexdigest()


def test_an_unknown_item_has_the_rate_of_all_and_others_are_smoothed_towards_it() -> None:
    ctr = ItemCtr(strength=10.0)
    ctr.learn(rows(np.array([7, 7, 8, 8]), np.array([1, 1, 0, 0])))
    np.testing.assert_array_equal(predict(ctr, 7, 8, 9).round(2), np.array([0.58, 0.42, 0.5], np.float32))


def test_item_ctr_counts_as_a_table_would() -> None:
    rng = np.random.default_rng(0)
    ctr, item, y = ItemCtr(strength=5.0), rng.integers(1, 3000, 9000), rng.random(9000) < 0.3
    captured = []
    for i in range(0, 9000, 500):
        ctr.learn(rows(item[i : i + 500], y[i : i + 500]))
        captured.append(ctr.capture().rows)
    rate = (y.sum() + 1) / 9002
    for one in (1, 2, 77, 5000):
        here = item == one
        want = (y[here].sum() + 5 * rate) / (here.sum() + 5)
        assert predict(ctr, one)[0] == pytest.approx(want, rel=1e-6)
    other = ItemCtr(strength=5.0)
    other.load(ArmState(rows=merge_rows(captured)))
    assert digest(other) == digest(ctr)
