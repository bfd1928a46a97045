"""Slices: earlier rows against a plain loop, and figures against the rows chosen by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.replay.figures.evaluation import evaluate
from ecdctr.replay.figures.slices import SLICES, earlier_rows
from ecdctr.replay.metrics import summary
from ecdctr.replay.report import day_table, slice_table


@settings(max_examples=60, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), max_size=40))
def test_earlier_rows_as_a_plain_loop_counts_them(rows):
    key = np.array([k for k, _ in rows], np.uint64)
    ts = np.array([t for _, t in rows], np.int64)
    counts, gaps = earlier_rows(key, ts)
    for i, (k, t) in enumerate(rows):
        older = [u for j, u in rows if j == k and u < t]
        assert counts[i] == len(older)
        assert gaps[i] == (t - max(older) if older else -1)


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    n = 400
    label = rng.integers(0, 2, n)
    return {
        "ts": np.sort(rng.integers(0, 40, n)) * 3_600_000,
        "user": rng.integers(0, 12, n),
        "item": rng.integers(0, 30, n),
        "domain": np.ones(n, int),
        "label": label,
        "p_a": np.clip(label * 0.4 + rng.random(n) * 0.6, 0, 1),
        "p_b": np.where(np.arange(n) % 9, rng.random(n), np.nan),
        "p_none": np.full(n, np.nan),
    }


def test_all_arms_stand_on_the_rows_that_all_scored(columns):
    figures = evaluate(columns, ["a", "b", "none"], base="b", day_samples=50)["slices"]
    assert {f["arm"] for f in figures} == {"a", "b"}
    common = ~np.isnan(columns["p_b"])
    for name in SLICES:
        for arm in ("a", "b"):
            assert sum(f["n"] for f in figures if f["slice"] == name and f["arm"] == arm) == common.sum()
    counts, _ = earlier_rows(columns["user"][common], columns["ts"][common])
    chosen = (counts >= 1) & (counts < 10)
    row = next(f for f in figures if (f["slice"], f["value"], f["arm"]) == ("user_rows", "1 to 9", "a"))
    wanted = summary(*(columns[c][common][chosen] for c in ("label", "p_a", "user")))
    assert {k: row[k] for k in wanted} == pytest.approx(wanted, rel=1e-13)
    assert [row[k] for k in ("n", "clicks", "gauc", "auc")] == [
        wanted[k] for k in ("n", "clicks", "gauc", "auc")
    ]
    assert row["low"] <= row["difference"] <= row["high"]


def test_tables_of_nothing_have_their_columns():
    assert slice_table({"slices": []}).columns == ["slice", "value", "domain", "arm"]
    assert day_table({"days": {}}).columns == ["day", "domain", "arm"]
