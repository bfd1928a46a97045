"""Which users have TPM vectors: asked of the snapshots once, remembered by hash."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.vector_cache import VectorCache

__all__ = ["KnownUsers"]

Users = NDArray[np.uint64]


class KnownUsers:
    """A direct-mapped memory in front of the snapshot store: the store is read, and held, for users not met lately.

    Parameters
    ----------
    ask
        ``ask(users)``: which of some distinct users have vectors, shape ``(n,)``.
    slots
        Users remembered, rounded up to a power of two.

    Examples
    --------
    >>> known = KnownUsers(lambda users: users > 5)
    >>> known(np.array([9, 3, 9], np.uint64)).tolist()
    [True, False, True]
    """

    def __init__(self, ask: Callable[[Users], NDArray[np.bool_]], slots: int = 1 << 16) -> None:
        self._ask = ask
        self._cache = VectorCache(slots, dim=0)

    def __call__(self, users: Users) -> NDArray[np.bool_]:
        """Which of the users have vectors, in any order and repeated as they are, shape ``(n,)``."""
        _, present, missing = self._cache.get(users)
        if len(missing):
            distinct, row = np.unique(users[missing], return_inverse=True)
            found = self._ask(distinct)
            present[missing] = found[row]
            self._cache.put(distinct, np.empty((len(distinct), 0), np.float32), found)
        return present
