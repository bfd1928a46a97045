"""Which users have TPM vectors: asked of the snapshots once, remembered by hash."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.schema import mix64

__all__ = ["KnownUsers"]

Users = NDArray[np.uint64]


class KnownUsers:
    """A direct-mapped memory in front of the snapshot store: the store is read, and held, for users not met lately.

    Parameters
    ----------
    ask
        ``ask(users)``: which of some distinct users have vectors, shape ``(n,)``.
    slots
        Users remembered, a power of two; one takes over another's slot.

    Examples
    --------
    >>> known = KnownUsers(lambda users: users > 5)
    >>> known(np.array([9, 3, 9], np.uint64)).tolist()
    [True, False, True]
    """

    def __init__(self, ask: Callable[[Users], NDArray[np.bool_]], slots: int = 1 << 16) -> None:
        self._ask = ask
        self._mask = np.uint64(slots - 1)
        self._user = np.zeros(slots, np.uint64)
        self._state = np.zeros(slots, np.int8)  # 0 nobody, 1 without vectors, 2 with

    def __call__(self, users: Users) -> NDArray[np.bool_]:
        """Which of the users have vectors, in any order and repeated as they are, shape ``(n,)``."""
        slot = (mix64(users) & self._mask).astype(np.intp)
        state = self._state[slot]
        missing = (state == 0) | (self._user[slot] != users)
        if missing.any():
            distinct, row = np.unique(users[missing], return_inverse=True)
            found = self._ask(distinct)
            state[missing] = 1 + found[row]
            # Of users that share a slot one is written: two assignments need not agree on which is the last.
            place, first = np.unique((mix64(distinct) & self._mask).astype(np.intp), return_index=True)
            self._user[place], self._state[place] = distinct[first], 1 + found[first]
        return np.asarray(state == 2)
