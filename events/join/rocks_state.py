"""``RocksState``: the records of the join on disk, in RocksDB."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rocksdict import Options, Rdict, WriteBatch

from ecdctr.events.join.state import ABSENT, CLOSED, EARLY, PENDING, Records

__all__ = ["RocksState"]

_KINDS = 7
_RECORD = np.dtype([("tag", "u1"), ("key", ">u8")])
_VALUE = np.dtype([("kind", "u1"), ("domain", "u1"), ("ts", "<i8"), ("due", "<i8"), ("row", "<i8")])
# Big-endian and without sign, so that the order of the bytes is the order by due, then key.
_BY_DUE = np.dtype([("tag", "u1"), ("group", "u1"), ("due", ">u8"), ("key", ">u8")])
_RECORD_TAG, _DUE_TAG = 1, 2
_COUNTS = b"\x00counts"
_SIGN = np.uint64(1 << 63)
_GROUPS = np.array([0, 0, 1, 2, 2, 2, 2], np.uint8)
_GROUP_OF = {(PENDING,): 0, (EARLY,): 1, CLOSED: 2}


class RocksState:
    """Records in a RocksDB folder: each by its key, and a second entry by group (waiting impressions, waiting clicks, labelled), due and key.

    A call of :meth:`write` is atomic. What a :class:`Joiner` holds beside its state (events before the watermark, marks) is not in the folder: a
    process that continues after a crash must keep both together, as ``Joiner.export`` does.

    Parameters
    ----------
    folder
        Created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        self._db = Rdict(str(folder), options)
        saved = self._db.get(_COUNTS)
        self._counts = np.zeros(_KINDS, np.int64) if saved is None else np.frombuffer(saved, "<i8").copy()
        self._least = -(2**62)

    @classmethod
    def restore(cls, folder: Path, records: Records) -> RocksState:
        """A state in a new folder, with these records."""
        state = cls(folder)
        state.write(records)
        return state

    def close(self) -> None:
        """Close the folder."""
        self._db.close()

    def find(self, keys: NDArray[np.uint64]) -> Records:
        known, values = self._values(keys)
        found = Records(
            keys.astype(np.uint64), *(values[name].copy() for name in ("kind", "ts", "due", "row", "domain"))
        )
        found.row[~known] = -1
        return found

    def write(self, records: Records) -> None:
        if not len(records):
            return
        known, old = self._values(records.key)
        batch = WriteBatch(raw_mode=True)
        for entry in _split(_by_due(records.key, old["kind"], old["due"])[known]):
            batch.delete(entry)
        stays = records.kind != ABSENT
        for key in _split(_record_keys(records.key[known & ~stays])):
            batch.delete(key)
        new = records.take(stays)
        values = np.zeros(len(new), _VALUE)
        for name in _VALUE.names or ():
            values[name] = getattr(new, name)
        for key, value in zip(_split(_record_keys(new.key)), _split(values), strict=True):
            batch.put(key, value)
        for entry in _split(_by_due(new.key, new.kind, new.due)):
            batch.put(entry, b"")
        counts = self._counts - np.bincount(old["kind"][known], minlength=_KINDS)
        counts += np.bincount(new.kind, minlength=_KINDS)
        batch.put(_COUNTS, counts.astype("<i8").tobytes())
        self._db.write(batch)
        self._counts = counts
        self._least = min(self._least, int(new.due.min(initial=2**62)))

    def due(self, before: int) -> Records:
        keys: list[int] = []
        for group in range(3):
            for due, key in self._oldest_first(group, self._least):
                if due >= before:
                    break
                keys.append(key)
        # What was due is written later or removed: without this, the next search would pass over all that was removed since the last compaction.
        self._least = max(self._least, before)
        found = self.find(np.array(keys, np.uint64))
        return found.take(np.lexsort((found.key, found.due)))

    def oldest(self, kinds: tuple[int, ...], number: int) -> Records:
        keys = [key for _, key in islice(self._oldest_first(_GROUP_OF[kinds]), number)]
        return self.find(np.array(keys, np.uint64))

    def count(self, *kinds: int) -> int:
        return int(self._counts[list(kinds)].sum())

    def export(self) -> Records:
        keys = [int.from_bytes(key[1:], "big") for key in self._from(bytes([_RECORD_TAG]))]
        return self.find(np.array(keys, np.uint64))

    def _values(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.void]]:
        """Which keys have a record, and its value; zeros for the others."""
        found = self._db.get(_split(_record_keys(keys))) if len(keys) else []
        known = np.array([value is not None for value in found], np.bool_)
        absent = bytes(_VALUE.itemsize)
        return known, np.frombuffer(b"".join(absent if v is None else v for v in found), _VALUE)

    def _oldest_first(self, group: int, first: int = -(2**62)) -> Iterator[tuple[int, int]]:
        """``(due, key)`` of the records of a group whose ``due`` is at least ``first``, in this order."""
        start = (first + (1 << 63)).to_bytes(8, "big")
        for entry in self._from(bytes([_DUE_TAG, group]), start):
            yield int.from_bytes(entry[2:10], "big") - (1 << 63), int.from_bytes(entry[10:], "big")

    def _from(self, prefix: bytes, start: bytes = b"") -> Iterator[bytes]:
        """The keys of the database that begin with ``prefix``, in order, from ``prefix + start`` on."""
        place = self._db.iter()
        place.seek(prefix + start)
        while place.valid():
            key = place.key()
            if not key.startswith(prefix):
                return
            yield key
            place.next()


def _record_keys(keys: NDArray[np.uint64]) -> NDArray[np.void]:
    out = np.zeros(len(keys), _RECORD)
    out["tag"], out["key"] = _RECORD_TAG, keys
    return out


def _by_due(keys: NDArray[np.uint64], kind: NDArray[np.uint8], due: NDArray[np.int64]) -> NDArray[np.void]:
    out = np.zeros(len(keys), _BY_DUE)
    out["tag"], out["group"], out["key"] = _DUE_TAG, _GROUPS[kind], keys
    out["due"] = np.ascontiguousarray(due, np.int64).view(np.uint64) ^ _SIGN
    return out


def _split(rows: NDArray[np.void]) -> list[bytes]:
    """The bytes of each row."""
    data, size = rows.tobytes(), rows.dtype.itemsize
    return [data[at : at + size] for at in range(0, len(data), size)]
