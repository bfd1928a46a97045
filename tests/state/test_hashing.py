"""The hash of ids."""

import numpy as np

from ecdctr.state.hashing import mix64


def test_mix64_is_a_bijection_on_a_sample_and_does_not_modify_its_input():
    ids = np.arange(100_000, dtype=np.uint64)
    before = ids.copy()
    assert len(np.unique(mix64(ids))) == len(ids)
    np.testing.assert_array_equal(ids, before)


def test_consecutive_ids_spread_over_the_slots() -> None:
    slot = mix64(np.arange(4096, dtype=np.uint64) << np.uint64(40)) & np.uint64(4095)
    assert len(np.unique(slot)) > 0.6 * 4096  # 1 - 1/e of random slots are hit
