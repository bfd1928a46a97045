"""``PriorShift`` against the click rate that it estimates."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest

from ecdctr.events.batch import Batch
from ecdctr.models.arms.interface import ArmInput, ArmState
from ecdctr.models.arms.prior_shift import PriorShift


def rows(p: np.ndarray, y: np.ndarray) -> ArmInput:
    """Rows with labels, and with predictions of the arm that is shifted."""
    n = len(p)
    columns = {
        "ts": np.zeros(n, np.int64),
        "domain": np.ones(n, np.uint8),
        "user": np.zeros(n, np.uint64),
        "item": np.zeros(n, np.uint64),
        "features": np.zeros((n, 0), np.int32),
        "dense": np.zeros((n, 0), np.float32),
        "label": y.astype(np.float32),
    }
    assert set(columns) <= {field.name for field in fields(Batch)}
    return ArmInput(Batch(**columns), score=lambda _, name: p)


def test_the_shift_follows_another_click_rate() -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(size=20_000)
    p = (1 / (1 + np.exp(-z))).astype(np.float32)
    y = rng.random(20_000) < 1 / (1 + np.exp(1.7 - z))
    shift = PriorShift()
    for i in range(0, 20_000, 25):
        shift.learn(rows(p[i : i + 25], y[i : i + 25]))
    assert shift.shift == pytest.approx(-1.7, abs=0.15)
    again = PriorShift()
    again.load(ArmState(meta=json.loads(json.dumps(shift.capture().meta))))
    np.testing.assert_array_equal(again.predict(rows(p, y)), shift.predict(rows(p, y)))
