"""``EmbeddingStore``, the protocol, and what its real form and its memory double share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import StateError
from ecdctr.state.snapshots.snapshot import Kind, SnapshotManifest, Vectors

__all__ = ["EmbeddingStore", "Monthly", "distinct", "union_chunks"]


class EmbeddingStore(Protocol):
    """The frozen TPM vectors of all months, and which months are in use."""

    def months(self) -> list[str]:
        """Months that have a snapshot, by youngest training row, oldest first."""
        ...

    def manifest(self, month: str) -> SnapshotManifest:
        """What the month's snapshot is; StateError when there is none."""
        ...

    def write(
        self, month: str, dim: int, last_ts: int, users: Vectors, items: Vectors, **more: Any
    ) -> SnapshotManifest:
        """See :func:`ecdctr.state.snapshots.snapshot.write_snapshot`."""
        ...

    def select(self, clock_ms: int, k: int) -> tuple[str, ...]:
        """The ``k`` latest months all of whose training rows are older than ``clock_ms``, newest last."""
        ...

    def use(self, months: Sequence[str]) -> None:
        """Put months into use, newest last; every reader sees the old set or the new one."""
        ...

    def in_use(self) -> tuple[str, ...]:
        """Months in use, newest last."""
        ...

    def lookup(
        self, kind: Kind, ids: NDArray[np.uint64], months: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors ``(n, K, d)``, zeros where absent, and presence ``(n, K)``, for ids in any order that may repeat."""
        ...

    def iter_ids(self, kind: Kind, months: Sequence[str], rows: int = 65_536) -> Iterator[NDArray[np.uint64]]:
        """All ids that any of the months holds, each once, ascending, in pieces of bounded size."""
        ...

    def scan(
        self, kind: Kind, months: Sequence[str], rows: int = 65_536
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.bool_]]]:
        """Ids as of :meth:`iter_ids` with their vectors and presence as of :meth:`lookup`, read in sequence."""
        ...

    def verify(self, month: str) -> None:
        """Check every byte of a month; SnapshotDamagedError names what is damaged."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class Monthly:
    """Choices that follow from the manifests alone."""

    def months(self) -> list[str]:
        raise NotImplementedError

    def manifest(self, month: str) -> SnapshotManifest:
        raise NotImplementedError

    def select(self, clock_ms: int, k: int) -> tuple[str, ...]:
        """The ``k`` latest months all of whose training rows are older than ``clock_ms``, newest last."""
        old_enough = [month for month in self.months() if self.manifest(month).last_ts < clock_ms]
        return tuple(old_enough[-k:]) if k > 0 else ()

    def dim(self, months: Sequence[str]) -> int:
        """Numbers of a vector; StateError when the months differ in it."""
        dims = {month: self.manifest(month).dim for month in months}
        if len(set(dims.values())) > 1:
            raise StateError(f"snapshots of different dimension cannot be used together: {dims}")
        return next(iter(dims.values()), 0)

    def check_use(self, months: Sequence[str]) -> None:
        """Refuse months that do not exist, differ in dimension, or stand in another order than their rows."""
        self.dim(months)
        last = [self.manifest(month).last_ts for month in months]
        if len(set(months)) < len(months) or last != sorted(last):
            raise ValueError(f"months in use stand oldest first, each once, not {list(months)}")


def distinct(ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.intp] | None]:
    """Distinct ids, ascending, and where each id stands among them; None when they were so already."""
    ids = np.asarray(ids, np.uint64)
    if (ids[1:] > ids[:-1]).all():
        return ids, None
    unique, inverse = np.unique(ids, return_inverse=True)
    return unique, inverse


def union_chunks(tables: Sequence[NDArray[np.uint64]], rows: int) -> Iterator[NDArray[np.uint64]]:
    """Union of ascending arrays, ascending, in pieces of at most ``rows * len(tables)`` ids.

    >>> a, b = np.array([1, 3, 5, 7], np.uint64), np.array([3, 4], np.uint64)
    >>> [c.tolist() for c in union_chunks([a, b], 2)]
    [[1, 3], [4, 5, 7]]
    """
    at = [0] * len(tables)
    while True:
        blocks = [np.asarray(table[i : i + rows]) for table, i in zip(tables, at, strict=True)]
        if not any(map(len, blocks)):
            return
        # A block that is not the table's last one says nothing of ids beyond its own last one.
        ends = [b[-1] for b, t, i in zip(blocks, tables, at, strict=True) if i + len(b) < len(t)]
        if ends:
            bound = min(ends)
            blocks = [b[: np.searchsorted(b, bound, side="right")] for b in blocks]
        at = [i + len(b) for i, b in zip(at, blocks, strict=True)]
        yield np.unique(np.concatenate(blocks))
