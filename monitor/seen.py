"""Has this id been met before? A Bloom filter over 64-bit ids, a block at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.features import mix64

__all__ = ["Seen"]


class Seen:
    """Ids met so far, in fixed memory.

    An id that was met is never called new; a new one passes for met with the probability that :attr:`error` gives: below
    0.1 % up to an eighteenth as many ids as there are bits.

    Parameters
    ----------
    bits
        Size of the filter, a power of two; the default takes 2 MB.

    References
    ----------
    Bloom, "Space/time trade-offs in hash coding with allowable errors" (CACM, 1970); the hashes are two, combined, as Kirsch and
    Mitzenmacher do ("Less hashing, same performance", ESA 2006).

    Examples
    --------
    >>> seen = Seen()
    >>> seen.add(np.array([7, 8, 7], np.uint64)).tolist()
    [True, True, False]
    >>> seen.add(np.array([9, 7], np.uint64)).tolist()
    [True, False]
    """

    HASHES = 4

    def __init__(self, bits: int = 1 << 24) -> None:
        self._mask = np.uint64(bits - 1)
        self._words = np.zeros(bits // 64, np.uint64)
        self.count = 0

    def add(self, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Take in ids; True for the first row of each that was not met before, shape ``(n,)``."""
        unique, first = np.unique(ids, return_index=True)
        h = mix64(unique)
        step = (h >> np.uint64(32)) | np.uint64(1)
        met = np.ones(len(unique), np.bool_)
        places = []
        for _ in range(self.HASHES):
            at = h & self._mask
            word, bit = (at >> np.uint64(6)).astype(np.intp), np.uint64(1) << (at & np.uint64(63))
            met &= (self._words[word] & bit) != 0
            places.append((word, bit))
            h = h + step
        out = np.zeros(len(ids), np.bool_)
        if not met.all():
            new = ~met
            for word, bit in places:
                np.bitwise_or.at(self._words, word[new], bit[new])
            self.count += int(new.sum())
            out[first[new]] = True
        return out

    @property
    def error(self) -> float:
        """Probability that a new id passes for met."""
        return float((1 - np.exp(-self.HASHES * self.count / (64 * len(self._words)))) ** self.HASHES)
