"""A Bloom filter over 64-bit ids, which finds ids that occur for the first time, one block at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.hashing import mix64

__all__ = ["BloomFilter"]


class BloomFilter:
    """The set of ids that have occurred, in fixed memory.

    An id that has occurred is never reported as new. A new id is not recognised as new with probability :attr:`error`, which
    is below 0.1 % while there are at least 50 bits per id. All bits of an id are in one word, so a row costs one look-up.

    Parameters
    ----------
    bits
        Size of the filter, a power of two; the default takes 2 MB.

    References
    ----------
    Bloom, "Space/time trade-offs in hash coding with allowable errors" (CACM, 1970); Putze, Sanders and Singler, "Cache-, hash- and
    space-efficient Bloom filters" (WEA, 2007).

    Examples
    --------
    >>> users = BloomFilter()
    >>> users.add(np.array([7, 8, 7], np.uint64)).tolist()
    [True, True, False]
    >>> users.add(np.array([9, 7], np.uint64)).tolist()
    [True, False]
    """

    HASHES = 4

    def __init__(self, bits: int = 1 << 24) -> None:
        self._words = np.zeros(bits // 64, np.uint64)
        self._shift = np.uint64(64 - (bits // 64).bit_length() + 1)
        self.count = 0

    def add(self, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Add ids ``(n,)``; returns a mask ``(n,)`` that is True at the first occurrence of each new id."""
        h = mix64(ids)
        word = (h >> self._shift).astype(np.intp)
        bits = np.zeros(len(ids), np.uint64)
        for i in range(self.HASHES):
            bits |= np.uint64(1) << ((h >> np.uint64(6 * i)) & np.uint64(63))
        new = np.flatnonzero((self._words[word] & bits) != bits)
        out = np.zeros(len(ids), np.bool_)
        if len(new):
            _, first = np.unique(ids[new], return_index=True)
            new = new[first]
            np.bitwise_or.at(self._words, word[new], bits[new])
            self.count += len(new)
            out[new] = True
        return out

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state for :meth:`restore`."""
        return {"words": self._words, "count": np.asarray(self.count)}

    def restore(self, arrays: Mapping[str, NDArray[Any]], clock_ms: int) -> None:  # noqa: ARG002
        """Replace the state by that of :meth:`to_arrays`."""
        self._words[:], self.count = arrays["words"], int(arrays["count"])

    @property
    def error(self) -> float:
        """Probability that a new id is not recognised as new: a word holds a Poisson number of ids, four bits each."""
        load = self.count / len(self._words)
        k = np.arange(60)
        chance = np.exp(k * np.log(max(load, 1e-12)) - load - np.cumsum(np.log(np.maximum(k, 1))))
        return float(chance @ (1 - (1 - 1 / 64) ** (self.HASHES * k)) ** self.HASHES)
