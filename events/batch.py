"""``Batch``: the columnar type of rows in all packages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.positions import Part

__all__ = ["AD", "COLUMNS", "DOMAIN_NAMES", "NATURAL", "REQUIRED_COLUMNS", "Batch"]

NATURAL = 0
AD = 1
DOMAIN_NAMES = ("natural", "ad")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """``n`` impressions as numpy columns.

    Rows that were read from Kafka are in canonical order (topic, partition, offset), so that ``parts`` identifies
    the batch completely.

    Attributes
    ----------
    ts
        Event time of the impression, milliseconds since the epoch, int64, shape ``(n,)``.
    domain
        0 natural, 1 ad; uint8, shape ``(n,)``.
    user, item
        Stable 64-bit hashes of the ids, uint64, shape ``(n,)``.
    features
        Hashed ids local to their feature, int32, shape ``(n, F)``. 0 means missing (or, in a bag, padding);
        a feature with ``buckets = b`` uses 1..b. A bag takes ``max_length`` columns.
    dense
        Numeric features after their transform, float32, shape ``(n, D)``; a missing value is 0.
    label
        1 click, 0 no click; float32, shape ``(n,)``.
    list_id
        Hash of the impression list (slate) the row was shown in, uint64, or None. Never a feature.
    oracle
        True click probability from a simulator, float64, or None. Never a feature.
    parts
        Offset ranges of the rows; empty for rows that were not read from Kafka.
    notes
        Further columns by name, shape ``(n,)`` each, or None. :meth:`take` and :meth:`concat` keep them with their rows. They are
        never features: a replay stores here the columns by which its report slices the rows. None in live training.
    """

    ts: NDArray[np.int64]
    domain: NDArray[np.uint8]
    user: NDArray[np.uint64]
    item: NDArray[np.uint64]
    features: NDArray[np.int32]
    dense: NDArray[np.float32]
    label: NDArray[np.float32]
    list_id: NDArray[np.uint64] | None = None
    oracle: NDArray[np.float64] | None = None
    parts: tuple[Part, ...] = ()
    notes: Mapping[str, NDArray[Any]] | None = None

    def __len__(self) -> int:
        return len(self.ts)

    def columns(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Columns by name, without copies; by default :data:`REQUIRED_COLUMNS`, which are never None.

        >>> empty = Batch(*(np.empty(0) for _ in REQUIRED_COLUMNS))
        >>> list(empty.columns())
        ['ts', 'domain', 'user', 'item', 'features', 'dense', 'label']
        >>> empty.columns(["ts", "oracle"])
        {'ts': array([], dtype=float64), 'oracle': None}
        """
        return {name: getattr(self, name) for name in (REQUIRED_COLUMNS if names is None else names)}

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Batch:
        """Rows by index, mask or slice; ``parts`` is dropped, because the ranges no longer identify the rows."""
        columns = (getattr(self, name) for name in COLUMNS)
        taken = Batch(*(None if column is None else column[rows] for column in columns))  # type: ignore[arg-type]
        return taken if self.notes is None else taken.with_notes({n: c[rows] for n, c in self.notes.items()})

    def with_parts(self, parts: Sequence[Part]) -> Batch:
        """The same rows with other offset ranges."""
        return replace(self, parts=tuple(parts))

    def with_notes(self, notes: Mapping[str, NDArray[Any]] | None) -> Batch:
        """The same rows with other notes."""
        return replace(self, notes=notes)

    @staticmethod
    def concat(batches: Sequence[Batch], parts: Sequence[Part] = ()) -> Batch:
        """Rows of all batches, in the order given; optional columns and notes must be present in all or none."""
        if not batches:
            raise ValueError("Batch.concat needs at least one batch")
        if len(batches) == 1:
            return batches[0].with_parts(parts)
        columns: dict[str, NDArray[np.generic] | None] = {}
        for name in COLUMNS:
            values = [getattr(b, name) for b in batches]
            columns[name] = None if values[0] is None else np.concatenate(values)
        first = batches[0].notes
        notes = (
            None
            if first is None
            else {n: np.concatenate([(b.notes or {})[n] for b in batches]) for n in first}
        )
        return Batch(**columns, parts=tuple(parts), notes=notes)  # type: ignore[arg-type]


COLUMNS = tuple(field.name for field in fields(Batch) if field.name not in ("parts", "notes"))
"""Names of all columns of a batch, including those that may be None."""

REQUIRED_COLUMNS = tuple(field.name for field in fields(Batch) if field.default is MISSING)
"""Names of the columns that every batch has: ``ts, domain, user, item, features, dense, label``."""
