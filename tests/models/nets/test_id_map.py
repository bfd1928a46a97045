"""``IdMap`` against a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.models.nets.id_map import IdMap

SMALL = st.integers(0, 40)  # many repeats
LARGE = st.integers(0, 2**64 - 1)


@given(st.lists(st.lists(st.one_of(SMALL, LARGE), unique=True, max_size=50), max_size=12))
@settings(max_examples=60, derandomize=True)
def test_numbers_equal_those_of_a_dict(batches: list[list[int]]) -> None:
    ids, reference = IdMap(), dict[int, int]()
    for batch in batches:
        found = ids.find(np.array(batch, np.uint64))
        assert found.tolist() == [reference.get(i, -1) for i in batch]
        for i in batch:
            reference.setdefault(i, len(reference))
        assert ids.add(np.array(batch, np.uint64)).tolist() == [reference[i] for i in batch]
    assert ids.ids().tolist() == list(reference)
    assert len(ids) == len(reference)


def test_it_grows_far_beyond_its_initial_size() -> None:
    ids = IdMap()
    many = np.random.default_rng(0).permutation(200_000).astype(np.uint64) << np.uint64(40)
    for part in np.array_split(many, 37):
        ids.add(part)
    np.testing.assert_array_equal(ids.find(many), np.arange(len(many)))
    assert (ids.find(many + np.uint64(1)) == -1).all()


def test_ids_that_share_a_slot_are_distinguished() -> None:
    # 3,000 ids in at most 8,192 slots: probes of several steps are certain, wrapping around the end included.
    ids = IdMap()
    many = np.arange(3_000, dtype=np.uint64)
    np.testing.assert_array_equal(ids.add(many), np.arange(3_000))
    np.testing.assert_array_equal(ids.find(many[::-1]), np.arange(3_000)[::-1])
