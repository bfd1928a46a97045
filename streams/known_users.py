"""``KnownUsers``: whether users have TPM vectors, with a cache in front of the snapshot store."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.vector_cache import VectorCache

__all__ = ["KnownUsers"]

Users = NDArray[np.uint64]


class KnownUsers:
    """Looks up whether users have vectors; only users that are not in a direct-mapped cache are read from the snapshot store.

    Parameters
    ----------
    look_up
        ``look_up(users)`` returns whether each of some distinct users has vectors, shape ``(n,)``.
    slots
        Size of the cache in users, rounded up to a power of two.

    Examples
    --------
    >>> known = KnownUsers(lambda users: users > 5)
    >>> known(np.array([9, 3, 9], np.uint64)).tolist()
    [True, False, True]
    """

    def __init__(self, look_up: Callable[[Users], NDArray[np.bool_]], slots: int = 1 << 16) -> None:
        self._look_up = look_up
        self._cache = VectorCache(slots, dim=0)

    def __call__(self, users: Users) -> NDArray[np.bool_]:
        """Whether each user has vectors, shape ``(n,)``. Users may repeat, in any order."""
        _, present, missing = self._cache.get(users)
        if len(missing):
            distinct, row = np.unique(users[missing], return_inverse=True)
            found = self._look_up(distinct)
            present[missing] = found[row]
            self._cache.put(distinct, np.empty((len(distinct), 0), np.float32), found)
        return present
