"""``mix64``: the one hash that spreads 64-bit ids over slots, buckets and samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["mix64"]


def mix64(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread the bits of 64-bit ids: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014), a bijection.

    Feature buckets, Bloom filters and samples on disk depend on it: it must never change.

    Parameters
    ----------
    ids
        uint64, any shape; not modified.

    Returns
    -------
    numpy.ndarray
        uint64, same shape.

    Examples
    --------
    The first output of SplitMix64 seeded with 0:

    >>> hex(mix64(np.array([0x9E3779B97F4A7C15], dtype=np.uint64))[0])
    '0xe220a8397b1dcdaf'
    """
    x = ids.astype(np.uint64, copy=True)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
