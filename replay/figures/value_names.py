"""``ValueNames``: the text of a categorical feature's values; the models see hashed buckets only."""

from __future__ import annotations

from typing import Any

import polars as pl
from numpy.typing import NDArray

from ecdctr.events.encode import hash_ids
from ecdctr.events.schema import DERIVED_FIELDS, ColumnGroup

__all__ = ["ValueNames"]

MAX_NAMES = 65_536
"""Most names stored of a feature: the first ones that occur. Frequent values occur early."""

_TOGETHER, _LONGEST = 3, 60
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class ValueNames:
    """Names of a feature's buckets, collected from the text of the events.

    Several values may share a bucket: the models cannot distinguish them, and they are named together. A bucket whose
    values came after ``MAX_NAMES`` others is named by its number.

    Parameters
    ----------
    group
        The feature; not a bag.

    Attributes
    ----------
    derived
        Whether the values are derived from ``ts``: there are few, and their names are known in advance.

    Examples
    --------
    >>> from ecdctr.events.schema import FeatureSchema
    >>> from ecdctr.events.settings import FeatureSpec
    >>> names = ValueNames(FeatureSchema([FeatureSpec(name="day", field="@weekday", buckets=7)], 4).group("day"))
    >>> names.name(1), names.name(7)
    ('Monday', 'Sunday')
    """

    def __init__(self, group: ColumnGroup) -> None:
        self._group = group
        self._known: set[str] = set()
        self._by_bucket: dict[int, list[str]] = {}
        field = group.spec.field
        self.derived = field in DERIVED_FIELDS
        if self.derived:
            numbers = pl.Series(range(DERIVED_FIELDS[field]), dtype=pl.UInt64)
            words = _WEEKDAYS if field == "@weekday" else [str(n) for n in numbers]
            self._note(list(words), group.encode(numbers.to_numpy()).tolist())

    def observe(self, text: NDArray[Any]) -> None:
        """Collect the names of some rows: their text as Python strings, None where missing, ``(n,)``."""
        if self.derived or len(self._known) >= MAX_NAMES:
            return
        values = [name for name in dict.fromkeys(text.tolist()) if name is not None]
        new = [name for name in values if name not in self._known][: MAX_NAMES - len(self._known)]
        if new:
            hashed = hash_ids({"name": pl.Series(new, dtype=pl.String)})["name"]
            self._known.update(new)
            self._note(new, self._group.encode(hashed).tolist())

    def name(self, bucket: int) -> str:
        """Name of a bucket, 1 .. ``buckets``."""
        found = self._by_bucket.get(bucket)
        if found is None:
            return f"bucket {bucket}"
        more = len(found) - _TOGETHER
        return " / ".join(map(_short, found[:_TOGETHER])) + (f" and {more} more" if more > 0 else "")

    def _note(self, names: list[str], buckets: list[int]) -> None:
        for name, bucket in zip(names, buckets, strict=True):
            self._by_bucket.setdefault(bucket, []).append(name)


def _short(name: str) -> str:
    if not name.strip():
        return repr(name)
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
