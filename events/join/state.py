"""``JoinState``: what the join remembers by key; ``MemoryState`` holds it in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.join.columns import Columns
from ecdctr.state.hashing import mix64

__all__ = [
    "ABSENT",
    "ANONYMOUS",
    "CLOSED",
    "EARLY",
    "LATE",
    "NEGATIVE",
    "PENDING",
    "POSITIVE",
    "JoinState",
    "MemoryState",
    "Records",
]

ABSENT, PENDING, EARLY, POSITIVE, NEGATIVE, LATE, ANONYMOUS = range(7)
"""Kinds of a record: none, an impression that waits, a click that waits for its impression, an impression with a click, without one, with
a click after it became a negative, and one without user."""

CLOSED = (POSITIVE, NEGATIVE, LATE, ANONYMOUS)
_KINDS = 7
_REMOVED = 255
_NEVER = 2**62
_MOST_LOAD = 0.6


@dataclass(slots=True, eq=False)
class Records(Columns):
    """What is known of keys.

    Attributes
    ----------
    kind
        One of the kinds of this module.
    ts
        Event time of the impression, or of the click if ``EARLY``.
    due
        Event time after which the record changes: the window ends, a click has waited long enough, an id is forgotten.
    row, domain
        Of the impression.
    """

    key: NDArray[np.uint64]
    kind: NDArray[np.uint8]
    ts: NDArray[np.int64]
    due: NDArray[np.int64]
    row: NDArray[np.int64]
    domain: NDArray[np.uint8]

    def put(self, at: NDArray[np.int64], other: Records) -> None:
        """Replace the records at these places."""
        for name, column in other.columns().items():
            getattr(self, name)[at] = column


class JoinState(Protocol):
    """Records by key. Every answer depends on the records alone, not on how they came to be there."""

    def find(self, keys: NDArray[np.uint64]) -> Records:
        """The record of each key, of kind ``ABSENT`` where there is none."""
        ...

    def write(self, records: Records) -> None:
        """Insert or replace records of distinct keys; those of kind ``ABSENT`` are removed."""
        ...

    def due(self, before: int) -> Records:
        """The records with ``due < before``, by ``due``, then key. The caller writes them with a later ``due``, or removes them."""
        ...

    def oldest(self, kinds: tuple[int, ...], number: int) -> Records:
        """So many records of these kinds with the least ``due``, by ``due``, then key."""
        ...

    def count(self, *kinds: int) -> int:
        """Number of records of these kinds."""
        ...

    def export(self) -> Records:
        """All records, by key."""
        ...


class MemoryState:
    """Records in a hash table of numpy columns: open addressing with linear probing, 34 bytes a place, at most 60 % of them taken.

    Parameters
    ----------
    records
        For so many records there is room from the start; to grow at ten million takes seconds.

    Examples
    --------
    >>> state = MemoryState()
    >>> one = Records(*(np.array([v], t) for v, t in zip((7, PENDING, 10, 20, 0, 1), _TYPES.values())))
    >>> state.write(one)
    >>> state.find(np.array([7, 8], np.uint64)).kind.tolist(), state.count(PENDING), state.due(21).key.tolist()
    ([1, 0], 1, [7])
    """

    def __init__(self, records: int = 0) -> None:
        self._counts = np.zeros(_KINDS, np.int64)
        self._least = _NEVER
        self._allocate(_room(records))

    @classmethod
    def restore(cls, records: Records) -> MemoryState:
        """A state with these records."""
        state = cls(len(records))
        state.write(records)
        return state

    def find(self, keys: NDArray[np.uint64]) -> Records:
        at = self._places(keys)
        known = at >= 0
        found = self._at(np.where(known, at, 0))
        for name, column in found.columns().items():
            column[~known] = 0 if name != "row" else -1
        found.key[:] = keys
        return found

    def write(self, records: Records) -> None:
        if not len(records):
            return
        at = self._places(records.key)
        gone = records.kind == ABSENT
        removed = at[gone & (at >= 0)]
        self._counts -= np.bincount(self._columns["kind"][removed], minlength=_KINDS)
        self._columns["kind"][removed] = _REMOVED
        self._columns["due"][removed] = _NEVER
        self._removed += len(removed)
        replaced = ~gone & (at >= 0)
        if replaced.any():
            self._counts -= np.bincount(self._columns["kind"][at[replaced]], minlength=_KINDS)
            self._put(at[replaced], records.take(replaced))
        added = ~gone & (at < 0)
        if added.any():
            self._insert(records.take(added))

    def due(self, before: int) -> Records:
        if before <= self._least:
            return self._at(np.empty(0, np.int64))
        found = self._at(np.flatnonzero(self._columns["due"] < before))
        self._least = before
        return found.take(np.lexsort((found.key, found.due)))

    def oldest(self, kinds: tuple[int, ...], number: int) -> Records:
        at = np.flatnonzero(np.isin(self._columns["kind"], kinds))
        due = self._columns["due"][at]
        if 0 < number < len(at):
            at = at[due <= np.partition(due, number - 1)[number - 1]]
        found = self._at(at)
        return found.take(np.lexsort((found.key, found.due))[:number])

    def count(self, *kinds: int) -> int:
        return int(self._counts[list(kinds)].sum())

    def export(self) -> Records:
        found = self._at(self._live())
        return found.take(np.argsort(found.key))

    def _live(self) -> NDArray[np.int64]:
        kind = self._columns["kind"]
        return np.flatnonzero((kind != ABSENT) & (kind != _REMOVED))

    def _at(self, places: NDArray[np.int64]) -> Records:
        return Records(*(column[places] for column in self._columns.values()))

    def _put(self, places: NDArray[np.int64], records: Records) -> None:
        for name, column in records.columns().items():
            self._columns[name][places] = column
        self._counts += np.bincount(records.kind, minlength=_KINDS)
        self._least = min(self._least, int(records.due.min()))

    def _places(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Place of each key; -1 for a key that has none."""
        found = np.full(len(keys), -1, np.int64)
        at = self._home(keys)
        left = np.arange(len(keys))
        while len(left):
            here = at[left]
            kind = self._columns["kind"][here]
            hit = (self._columns["key"][here] == keys[left]) & (kind != ABSENT) & (kind != _REMOVED)
            found[left[hit]] = here[hit]
            left = left[~hit & (kind != ABSENT)]
            at[left] = (at[left] + 1) & self._mask
        return found

    def _insert(self, records: Records) -> None:
        """Add records whose keys have no place."""
        live = int(self._counts.sum())
        if live + self._removed + len(records) > _MOST_LOAD * (self._mask + 1):
            self._rebuild(live + len(records))
        at = self._home(records.key)
        left = np.arange(len(records))
        keys, kinds = self._columns["key"], self._columns["kind"]
        while len(left):
            here = at[left]
            free = (kinds[here] == ABSENT) | (kinds[here] == _REMOVED)
            keys[here[free]] = records.key[left[free]]  # of several records for one place, one wins
            won = free & (keys[here] == records.key[left])
            self._removed -= int((kinds[here[won]] == _REMOVED).sum())
            self._put(here[won], records.take(left[won])) if won.any() else None
            left = left[~won]
            at[left] = (at[left] + 1) & self._mask

    def _rebuild(self, records: int) -> None:
        """A table without removed places, of which at most a half is taken by ``records`` records."""
        old = self._at(self._live())
        self._counts[:] = 0
        self._allocate(_room(records))
        if len(old):
            self._insert(old)

    def _allocate(self, places: int) -> None:
        self._mask = places - 1
        self._removed = 0
        self._columns: dict[str, NDArray[Any]] = {
            name: np.zeros(places, dtype) for name, dtype in _TYPES.items()
        }
        self._columns["due"][:] = _NEVER

    def _home(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (mix64(keys) & np.uint64(self._mask)).astype(np.int64)


def _room(records: int) -> int:
    """Places of a table of which at most a half is taken by so many records: a power of 2."""
    return 1 << max(10, (2 * records - 1).bit_length())


_TYPES: dict[str, Any] = {
    "key": np.uint64,
    "kind": np.uint8,
    "ts": np.int64,
    "due": np.int64,
    "row": np.int64,
    "domain": np.uint8,
}
