"""Has this id been met before? A Bloom filter over 64-bit ids, a block at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.hashing import mix64

__all__ = ["Seen"]


class Seen:
    """Ids met so far, in fixed memory.

    An id that was met is never called new; a new one passes for met with the probability that :attr:`error` gives: below
    0.1 % up to a fiftieth as many ids as there are bits. All bits of an id stand in one word: one look-up a row.

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
    >>> seen = Seen()
    >>> seen.add(np.array([7, 8, 7], np.uint64)).tolist()
    [True, True, False]
    >>> seen.add(np.array([9, 7], np.uint64)).tolist()
    [True, False]
    """

    HASHES = 4

    def __init__(self, bits: int = 1 << 24) -> None:
        self._words = np.zeros(bits // 64, np.uint64)
        self._shift = np.uint64(64 - (bits // 64).bit_length() + 1)
        self.count = 0

    def add(self, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Take in ids; True for the first row of each that was not met before, shape ``(n,)``."""
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

    def kept(self) -> dict[str, NDArray[Any]]:
        """Everything, for :meth:`restore`."""
        return {"words": self._words, "count": np.asarray(self.count)}

    def restore(self, arrays: Mapping[str, NDArray[Any]], clock_ms: int) -> None:  # noqa: ARG002
        """Go on from :meth:`kept`."""
        self._words[:], self.count = arrays["words"], int(arrays["count"])

    @property
    def error(self) -> float:
        """Probability that a new id passes for met: a word holds a Poisson number of ids, four bits each."""
        load = self.count / len(self._words)
        k = np.arange(60)
        chance = np.exp(k * np.log(max(load, 1e-12)) - load - np.cumsum(np.log(np.maximum(k, 1))))
        return float(chance @ (1 - (1 - 1 / 64) ** (self.HASHES * k)) ** self.HASHES)
