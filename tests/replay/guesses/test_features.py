"""The kind of a feature, its buckets and its transformation follow from its values."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ecdctr.replay.guesses.features import (
    FeatureGuess,
    LeftOut,
    buckets_for,
    expected_distinct,
    guess_feature,
)
from ecdctr.replay.guesses.profiles import Profile

RNG = np.random.default_rng(5)
N = 400


def guess(values, name="x", rows=N):
    return guess_feature(Profile(pl.Series(name, values, strict=False)), name, rows)


@pytest.mark.parametrize(
    ("name", "values", "kind", "transform"),
    [
        ("x", [f"c{i % 7}" for i in range(N)], "categorical", "none"),
        ("x", RNG.normal(5, 1, N), "numeric", "none"),
        ("x", RNG.lognormal(3, 2, N), "numeric", "log1p"),
        (
            "x",
            np.floor(RNG.lognormal(2, 1.5, N)).astype(int),
            "numeric",
            "log1p",
        ),  # whole numbers in the form of a count
        ("category_code", RNG.integers(1, 60, N), "categorical", "none"),
        ("x", 40_000 + RNG.permutation(np.repeat(np.arange(40), 10)) * 37, "categorical", "none"),  # codes
        ("edad", RNG.integers(18, 80, N), "numeric", "none"),
        ("x", [f"{i % 30},{i % 100:02d}" for i in range(N)], "numeric", "none"),
        ("x", [f"00{i % 9}" for i in range(N)], "categorical", "none"),
        ("x", [[f"t{i % 5}", f"t{i % 3}"] for i in range(N)], "bag", "none"),
        ("x", [f"t{i % 5}|t{i % 3}" for i in range(N)], "bag", "none"),
        ("x", [f"t{i % 5}^t{i % 3}" for i in range(N)], "bag", "none"),
        ("x", [bool(i % 3) for i in range(N)], "categorical", "none"),
    ],
)
def test_kinds(name, values, kind, transform):
    found = guess(values, name)
    assert isinstance(found, FeatureGuess)
    assert (found.spec.kind, found.spec.transform) == (kind, transform)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([None] * N, "no sampled row has a value"),
        (["a"] * N, "one value in all"),
        ([f"id{i}" for i in range(N)], "an identifier"),
        ([f"the quick brown fox number {i % 50} jumps over it" for i in range(N)], "free text"),
        ([[0.5 + i, 1.5] for i in range(N)], "fractions"),
        ([1.5, float("nan")] * (N // 2), "NaN"),
    ],
)
def test_what_is_no_feature(values, why):
    found = guess(values)
    assert isinstance(found, LeftOut)
    assert why in found.why


def test_numbers_of_values_are_extrapolated_and_buckets_are_ample():
    # Zipf-distributed ids: the estimate from a fiftieth of the rows is within a factor of two.
    ids = np.random.default_rng(1).zipf(1.5, 500_000)
    true = len(np.unique(ids))
    assert true / 2 < expected_distinct(ids[:10_000], 500_000) < true * 2
    assert expected_distinct(ids[:10_000] % 30, 500_000) == 30
    values = np.array([3, 80, 1_000, 50_000, 2_000_000])
    buckets = np.array([buckets_for(int(v)) for v in values])
    assert (buckets >= 3 * values).all()
    # The share of ids that share a bucket with another one, of ids that are hashed at random.
    assert (1 - np.exp(-values[:4] / buckets[:4]) <= 0.1).all()
