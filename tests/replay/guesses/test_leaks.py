"""What is known only after the impression is found by its values and by its name."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from ecdctr.replay.guesses.leaks import leak, separation
from ecdctr.replay.guesses.profiles import Profile

RNG = random.Random(4)
CLICKED = np.array([float(RNG.random() < 0.2) for _ in range(500)])
NOISE = [RNG.random() for _ in range(500)]


def profile(name, values):
    return Profile(pl.Series(name, values, strict=False))


@pytest.mark.parametrize(
    ("name", "values", "sure"),
    [
        ("x", [n if c else None for n, c in zip(NOISE, CLICKED, strict=True)], True),
        ("x", [n if c else 0.0 for n, c in zip(NOISE, CLICKED, strict=True)], True),
        (
            "x",
            [c and n < 0.4 for n, c in zip(NOISE, CLICKED, strict=True)],
            True,
        ),  # a purchase: one click of many has it
        ("x", [f"t{i}" if c else None for i, c in enumerate(CLICKED)], True),
        ("x", [5 + n if c else 5 - n for n, c in zip(NOISE, CLICKED, strict=True)], True),
        ("dwell_time", NOISE, False),
        ("Verweildauer", NOISE, False),
        ("next_read_time", NOISE, False),
        ("compra", NOISE, False),
        ("click_ts", NOISE, False),
    ],
)
def test_leaks(name, values, sure):
    found = leak(profile(name, values), CLICKED, None)
    assert found is not None
    assert (found[0] == "sure") is sure


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("price", NOISE),
        ("position", [i % 10 for i in range(500)]),
        ("coupon", [n if n < 0.3 else None for n in NOISE]),
        (
            "score",
            [n + 0.5 * c for n, c in zip(NOISE, CLICKED, strict=True)],
        ),  # a good feature, AUC about .87
    ],
)
def test_features_are_no_leaks(name, values):
    assert leak(profile(name, values), CLICKED, None) is None


def test_a_count_of_clicks_that_never_changes_for_an_item():
    items = [i * 7 % 20 for i in range(500)]
    item = profile("item", items)
    fixed = leak(profile("total_clicks", [i * 13 for i in items]), CLICKED, item)
    growing = leak(profile("total_clicks", list(range(500))), CLICKED, item)
    assert fixed is not None
    assert growing is not None
    assert (fixed[0], growing[0]) == ("sure", "likely")


def test_separation_is_the_auc():
    values = [n + 0.3 * c for n, c in zip(NOISE, CLICKED, strict=True)]
    assert separation(profile("x", values), CLICKED) == pytest.approx(roc_auc_score(CLICKED, values))
    falling = [-v for v in values]
    assert separation(profile("x", falling), CLICKED) == pytest.approx(roc_auc_score(CLICKED, values))
