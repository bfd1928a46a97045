"""``EmbeddingStore``, the protocol of snapshot stores, and the types that it shares with its implementations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "EmbeddingStore", "Kind", "SnapshotManifest", "Vectors"]

Kind: TypeAlias = Literal["user", "item"]
KINDS: tuple[Kind, Kind] = ("user", "item")
Vectors: TypeAlias = tuple[NDArray[np.uint64], NDArray[np.float32]]
"""Ids, shape ``(n,)``, each once, and their vectors, shape ``(n, d)``."""


@dataclass(frozen=True)
class SnapshotManifest:
    """Description of a snapshot.

    Attributes
    ----------
    month
        Label of the month; the name of the folder.
    dim
        Length of a vector.
    last_ts, first_ts
        Event times of the most recent and of the earliest training row, milliseconds since the epoch. Only rows with
        a later event time than ``last_ts`` may read the snapshot.
    rows
        Number of vectors of each kind.
    checksum
        CRC-32C over ids and vectors in id order; it depends on the content alone.
    features
        Names of the features that TPM reads.
    created_from
        Origin of the training rows.
    extra
        Further notes of the writer; plain JSON.
    """

    month: str
    dim: int
    last_ts: int
    first_ts: int
    rows: dict[str, int]
    checksum: str
    features: tuple[str, ...] = ()
    created_from: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


class EmbeddingStore(Protocol):
    """The frozen TPM vectors of all months."""

    def months(self) -> list[str]:
        """Months that have a snapshot, in ascending order of their most recent training row.

        Other folders, and months whose manifest is damaged, are left out, and each is named once in the log.
        """
        ...

    def manifest(self, month: str) -> SnapshotManifest:
        """Description of the month's snapshot.

        Raises
        ------
        StateError
            The month has no snapshot.
        """
        ...

    def write(
        self, month: str, dim: int, last_ts: int, users: Vectors, items: Vectors, **more: Any
    ) -> SnapshotManifest:
        """See :func:`ecdctr.state.snapshots.snapshot.write_snapshot`."""
        ...

    def select(self, clock_ms: int, k: int) -> tuple[str, ...]:
        """The ``k`` latest whole months all of whose training rows are earlier than ``clock_ms``, in ascending order.

        Damaged months are passed over, and each is named once in the log.
        """
        ...

    def lookup(
        self, kind: Kind, ids: NDArray[np.uint64], months: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors ``(n, K, d)``, zeros where absent, and presence ``(n, K)``; ids in any order, with duplicates."""
        ...

    def iter_ids(self, kind: Kind, months: Sequence[str], rows: int = 65_536) -> Iterator[NDArray[np.uint64]]:
        """Iterate over all distinct ids of the months in ascending order, in chunks of at most ``rows * len(months)``."""
        ...

    def scan(
        self, kind: Kind, months: Sequence[str], rows: int = 65_536
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.bool_]]]:
        """Iterate over all ids as :meth:`iter_ids` does, with vectors and presence as :meth:`lookup` returns them."""
        ...

    def check(self, month: str) -> None:
        """As :meth:`verify`, but the files are read again only if one of them has changed since the last call."""
        ...

    def verify(self, month: str) -> None:
        """Verify all checksums of a month.

        Raises
        ------
        SnapshotDamagedError
            A file differs from the manifest; the message contains its name.
        """
        ...

    def close(self) -> None:
        """Close what is open."""
        ...
