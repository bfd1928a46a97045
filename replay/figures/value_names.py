"""``ValueNames``: what the values of a categorical feature are called; the models know their buckets alone."""

from __future__ import annotations

import polars as pl

from ecdctr.events.encode import Columns, hash_ids
from ecdctr.events.schema import DERIVED_FIELDS, ColumnGroup

__all__ = ["ValueNames"]

KEPT = 65_536
"""Names kept of a feature: those met first. What is frequent is met early."""

_TOGETHER, _LONGEST = 3, 60
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class ValueNames:
    """Names of a feature's buckets, noted where events are decoded.

    Several values may have met in a bucket: to the models they are one, and they are named together. A bucket whose
    values came after ``KEPT`` others goes by its number.

    Parameters
    ----------
    group
        The feature; no bag.

    Attributes
    ----------
    derived
        Whether the values are made from ``ts``: there are few, and all are known.

    Examples
    --------
    >>> from ecdctr.events.schema import FeatureSchema
    >>> from ecdctr.events.settings import FeatureSpec
    >>> names = ValueNames(FeatureSchema([FeatureSpec(name="day", field="@weekday", buckets=7)], 4).group("day"))
    >>> names.of(1), names.of(7)
    ('Monday', 'Sunday')
    """

    def __init__(self, group: ColumnGroup) -> None:
        self._group = group
        self._known: set[str] = set()
        self._of_bucket: dict[int, list[str]] = {}
        field = group.spec.field
        self.derived = field in DERIVED_FIELDS
        if self.derived:
            numbers = pl.Series(range(DERIVED_FIELDS[field]), dtype=pl.UInt64)
            words = _WEEKDAYS if field == "@weekday" else [str(n) for n in numbers]
            self._note(list(words), group.encode(numbers.to_numpy()).tolist())

    def observe(self, columns: Columns) -> None:
        """Note the names in some events."""
        if self.derived or len(self._known) >= KEPT:
            return
        met = columns.text[self._group.spec.field].drop_nulls().unique(maintain_order=True)
        new = [name for name in met.to_list() if name not in self._known][: KEPT - len(self._known)]
        if new:
            hashed = hash_ids({"name": pl.Series(new, dtype=pl.String)})["name"]
            self._known.update(new)
            self._note(new, self._group.encode(hashed).tolist())

    def of(self, bucket: int) -> str:
        """Name of a bucket, 1 .. ``buckets``."""
        found = self._of_bucket.get(bucket)
        if found is None:
            return f"bucket {bucket}"
        more = len(found) - _TOGETHER
        return " / ".join(map(_short, found[:_TOGETHER])) + (f" and {more} more" if more > 0 else "")

    def _note(self, names: list[str], buckets: list[int]) -> None:
        for name, bucket in zip(names, buckets, strict=True):
            self._of_bucket.setdefault(bucket, []).append(name)


def _short(name: str) -> str:
    if not name.strip():
        return repr(name)
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
