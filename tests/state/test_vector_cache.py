"""The direct-mapped cache."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.state.hashing import mix64
from ecdctr.state.vector_cache import VectorCache


@settings(derandomize=True)
@given(
    rounds=st.lists(st.lists(st.integers(0, 100), unique=True, max_size=30), max_size=12),
    slots=st.integers(1, 40),
)
def test_a_cache_returns_what_was_stored(rounds: list[list[int]], slots: int) -> None:
    cache = VectorCache(slots, 2)
    for asked in rounds:
        ids = np.array(asked, np.uint64)
        truth = np.stack([ids.astype(np.float32), -ids.astype(np.float32)], axis=1)
        there = ids % np.uint64(3) > 0
        truth[~there] = 0
        found, present, missing = cache.get(ids)
        known = np.ones(len(ids), np.bool_)
        known[missing] = False
        assert (found[known] == truth[known]).all()
        assert (present[known] == there[known]).all()
        cache.put(ids[missing], truth[missing], there[missing])
        if len(ids) == 1:
            assert len(cache.get(ids)[2]) == 0


def test_hashes_of_the_caller_name_the_same_slots() -> None:
    ids = np.arange(100, dtype=np.uint64)
    cache = VectorCache(256, 1)
    cache.put(ids, np.ones((100, 1), np.float32), np.ones(100, np.bool_), mix64(ids))
    for a, b in zip(cache.get(ids), cache.get(ids, mix64(ids)), strict=True):
        assert np.array_equal(a, b)


def test_presence_alone_needs_no_vectors() -> None:
    cache = VectorCache(3, 0)
    ids = np.array([5, 6], np.uint64)
    cache.put(ids, np.empty((2, 0), np.float32), np.array([True, False]))
    vectors, present, missing = cache.get(np.array([6, 5, 9, 5], np.uint64))
    assert vectors.shape == (4, 0)
    found = np.setdiff1d(np.arange(4), missing)
    assert np.array_equal(present[found], np.array([False, True, False, True])[found])
    assert 2 in missing
