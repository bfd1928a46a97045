"""Functions shared by the snapshot store on disk and its in-memory double: manifests, choice of months, sets of ids."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import crc32c as _crc32c
import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import SnapshotExistsError, StateError
from ecdctr.state.snapshots.protocol import KINDS, Kind, SnapshotManifest, Vectors

__all__ = ["MonthlyStore", "describe", "distinct", "is_month", "same_or_refuse", "union_chunks"]

_MONTH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class MonthlyStore:
    """Queries and checks that need the manifests only."""

    def months(self) -> list[str]:
        raise NotImplementedError

    def manifest(self, month: str) -> SnapshotManifest:
        raise NotImplementedError

    def check(self, month: str) -> None:
        """SnapshotDamagedError if the month is damaged."""
        raise NotImplementedError

    def _pass_over(self, month: str, error: StateError) -> None:
        """Name a month that cannot be used."""
        raise NotImplementedError

    def select(self, clock_ms: int, k: int) -> tuple[str, ...]:
        """The ``k`` latest whole months all of whose training rows are earlier than ``clock_ms``, in ascending order.

        Damaged months are passed over, and each is named once in the log.
        """
        found: list[str] = []
        for month in reversed(self.months()):
            if len(found) >= k:
                break
            if self.manifest(month).last_ts >= clock_ms:
                continue
            try:
                self.check(month)
            except StateError as error:
                self._pass_over(month, error)
            else:
                found.append(month)
        return tuple(reversed(found))

    def dim(self, months: Sequence[str]) -> int:
        """Length of the vectors; StateError when the months differ in it."""
        dims = {month: self.manifest(month).dim for month in months}
        if len(set(dims.values())) > 1:
            raise StateError(f"snapshots of different dimension cannot be used together: {dims}")
        return next(iter(dims.values()), 0)


def distinct(ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.intp] | None]:
    """Distinct ids, ascending, and the position of each id among them; None if they were distinct and ascending already."""
    ids = np.asarray(ids, np.uint64)
    if (ids[1:] > ids[:-1]).all():
        return ids, None
    unique, inverse = np.unique(ids, return_inverse=True)
    return unique, inverse


def union_chunks(tables: Sequence[NDArray[np.uint64]], rows: int) -> Iterator[NDArray[np.uint64]]:
    """Union of ascending arrays, ascending, in chunks of at most ``rows * len(tables)`` ids.

    >>> a, b = np.array([1, 3, 5, 7], np.uint64), np.array([3, 4], np.uint64)
    >>> [c.tolist() for c in union_chunks([a, b], 2)]
    [[1, 3], [4, 5, 7]]
    """
    at = [0] * len(tables)
    while True:
        blocks = [np.asarray(table[i : i + rows]) for table, i in zip(tables, at, strict=True)]
        if not any(map(len, blocks)):
            return
        # A block before its table's last one is complete only up to its own last id.
        ends = [b[-1] for b, t, i in zip(blocks, tables, at, strict=True) if i + len(b) < len(t)]
        if ends:
            bound = min(ends)
            blocks = [b[: np.searchsorted(b, bound, side="right")] for b in blocks]
        at = [i + len(b) for i, b in zip(at, blocks, strict=True)]
        yield np.unique(np.concatenate(blocks))


def is_month(name: str) -> bool:
    """Whether a string can be the name of a month, which is also the name of a folder."""
    return _MONTH.fullmatch(name) is not None


def describe(
    month: str,
    dim: int,
    last_ts: int,
    users: Vectors,
    items: Vectors,
    *,
    first_ts: int = 0,
    features: Sequence[str] = (),
    created_from: str = "",
    **extra: Any,
) -> tuple[SnapshotManifest, dict[Kind, Vectors]]:
    """Manifest and sorted tables of a snapshot that is to be written.

    Raises
    ------
    ValueError
        The month cannot name a folder; an id occurs twice; vectors have the wrong shape or are not finite.
    """
    if not is_month(month):
        raise ValueError(f"month {month!r} cannot name a folder")
    tables: dict[Kind, Vectors] = {
        "user": _sorted("user", users, dim, month),
        "item": _sorted("item", items, dim, month),
    }
    manifest = SnapshotManifest(
        month=month,
        dim=dim,
        last_ts=int(last_ts),
        first_ts=int(first_ts),
        rows={kind: len(tables[kind][0]) for kind in KINDS},
        checksum=_content_checksum(tables),
        features=tuple(features),
        created_from=created_from,
        extra=json.loads(json.dumps(extra)),
    )
    return manifest, tables


def same_or_refuse(found: SnapshotManifest, wanted: SnapshotManifest) -> SnapshotManifest:
    """The existing manifest, if the new content is the same; SnapshotExistsError otherwise."""
    if (found.checksum, found.dim, found.last_ts) == (wanted.checksum, wanted.dim, wanted.last_ts):
        return found
    raise SnapshotExistsError(
        f"snapshot {found.month} exists with checksum {found.checksum} and rows up to {found.last_ts} ms, the new one "
        f"has {wanted.checksum} and {wanted.last_ts} ms; snapshots are immutable: use another folder, or remove the "
        "old one and every release that was made with it"
    )


def _sorted(kind: Kind, vectors: Vectors, dim: int, month: str) -> Vectors:
    ids, rows = np.asarray(vectors[0], np.uint64), np.asarray(vectors[1], np.float32)
    if rows.shape != (len(ids), dim):
        raise ValueError(f"snapshot {month}: {len(ids)} {kind} ids with vectors {rows.shape}, dim {dim}")
    if not np.isfinite(rows).all():
        raise ValueError(f"snapshot {month}: a {kind} vector is not finite: TPM diverged")
    if not (ids[1:] > ids[:-1]).all():
        order = np.argsort(ids)
        ids, rows = ids[order], rows[order]
        if (twice := ids[1:] == ids[:-1]).any():
            raise ValueError(f"snapshot {month}: {kind} id {ids[1:][twice][0]} occurs twice")
    return ids, np.ascontiguousarray(rows)


def _content_checksum(tables: Mapping[Kind, Vectors]) -> str:
    value = 0
    for kind in KINDS:
        for array in tables[kind]:
            plain = array if sys.byteorder == "little" else array.byteswap()
            value = _crc32c.crc32c(np.ascontiguousarray(plain).reshape(-1).view(np.uint8).data, value)
    return f"crc32c:{value:08x}"
