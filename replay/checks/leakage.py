"""``FeatureProbe``: finds features that reveal the label, by the AUC of each feature alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import DOMAIN_NAMES, Batch
from ecdctr.events.schema import FeatureSchema

__all__ = ["SUSPICIOUS", "FeatureProbe", "Finding"]

SUSPICIOUS = 0.97
"""A feature with a higher AUC alone is suspicious: no legitimate feature of a click log reaches it."""

ROWS_A_BATCH, ROWS_DENSELY = 2048, 16_384
"""Most rows sampled from each batch, evenly spaced; and the number of rows after which the sample becomes sparser."""

MIN_OF_EACH = 50
"""With fewer clicks or non-clicks the AUC is reported as 0.5."""

_BITS = 14
_SLOTS = 1 << _BITS
BLOCK = 256
"""Rows that are scored together, before any of them is counted."""

_STRENGTH = 2.0


@dataclass(frozen=True)
class Finding:
    """A feature's AUC alone, in one domain."""

    feature: str
    domain: str
    auc: float
    rows: int

    @property
    def suspicious(self) -> bool:
        return self.auc > SUSPICIOUS


class _Histogram:
    """Clicks and non-clicks by a score's range, for an AUC in bounded memory; ties within a range count one half."""

    def __init__(self) -> None:
        self.counts = np.zeros((2, _SLOTS), np.int64)

    def add(self, score: NDArray[np.float32], y: NDArray[np.bool_]) -> None:
        bits = (score.astype(np.float32) + np.float32(0)).view(np.uint32)
        flip = np.where(bits >> np.uint32(31), np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
        slot = ((bits ^ flip) >> np.uint32(32 - _BITS)).astype(np.intp)
        np.add.at(
            self.counts, (y.astype(np.intp), slot), 1
        )  # for a few rows this is faster than a pass over all slots

    def auc(self) -> float:
        """The AUC of the score or its negation, whichever is larger; 0.5 if a class has too few rows."""
        others, clicks = self.counts
        if min(others.sum(), clicks.sum()) < MIN_OF_EACH:
            return 0.5
        below = np.cumsum(others) - others
        won = float((clicks * (below + 0.5 * others)).sum()) / float(clicks.sum() * others.sum())
        return max(won, 1.0 - won)


class _Rates:
    """The click rate of each value so far, as a score."""

    def __init__(self) -> None:
        self._clicks, self._shown = np.zeros(_SLOTS), np.zeros(_SLOTS)
        self._total = np.zeros(2)
        self.found = _Histogram()

    def observe(self, values: NDArray[np.int64], y: NDArray[np.bool_]) -> None:
        """Score the rows, ``values`` of shape ``(n, width)``, then count them."""
        slot, (clicks, shown) = values % _SLOTS, self._total
        if shown:
            rate = clicks / shown
            score = (self._clicks[slot] + _STRENGTH * rate) / (self._shown[slot] + _STRENGTH)
            self.found.add(score.mean(axis=1).astype(np.float32), y)
        np.add.at(self._clicks, slot[y].ravel(), 1.0)
        np.add.at(self._shown, slot.ravel(), 1.0)
        self._total += (int(y.sum()) * slot.shape[1], slot.size)


class FeatureProbe:
    """Scores a sample of the rows by each feature alone; each row is scored before it is counted.

    The score of a categorical feature or bag is the click rate of its values so far; a bag is also scored by its number of
    values, a number by its value and as a category. Memory: about 0.7 MB a feature and domain.

    Parameters
    ----------
    schema
        The features.

    Examples
    --------
    >>> from ecdctr.events.settings import FeatureSpec
    >>> schema = FeatureSchema([FeatureSpec(name="dwell", kind="numeric")], 4)
    >>> label = np.arange(1000) % 5 == 0
    >>> z = np.zeros(1000, np.uint64)
    >>> rows = Batch(z.astype(int), z.astype(np.uint8), z, z, np.zeros((1000, 0), np.int32),
    ...              (label * 3.0)[:, None].astype(np.float32), label.astype(np.float32))
    >>> probe = FeatureProbe(schema)
    >>> probe.observe(rows)
    >>> [(f.feature, f.auc, f.suspicious) for f in probe.findings()]
    [('dwell', 1.0, True)]
    """

    def __init__(self, schema: FeatureSchema) -> None:
        self._schema = schema
        self._rates: dict[tuple[int, str], _Rates] = {}
        self._values: dict[tuple[int, str], _Histogram] = {}
        self._rows, self._rows_read = [0, 0], 0

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the same batches after a call of :meth:`observe` with each."""
        for batch in batches:
            self.observe(batch)
            yield batch

    def observe(self, batch: Batch) -> None:
        """Score and count a sample of a batch."""
        step = max(1 + self._rows_read // ROWS_DENSELY, len(batch) // ROWS_A_BATCH)
        self._rows_read += len(batch)
        sample = batch.take(slice(None, None, step))
        for domain in (0, 1):
            rows = sample.take(sample.domain == domain)
            self._rows[domain] += len(rows)
            for first in range(0, len(rows), BLOCK):
                self._observe(domain, rows.take(slice(first, first + BLOCK)))

    def _observe(self, domain: int, rows: Batch) -> None:
        y = rows.label > 0
        for group in self._schema.categorical:
            key = (domain, group.name)
            values = rows.features[:, group.columns].astype(np.int64)
            self._rates.setdefault(key, _Rates()).observe(values, y)
            if group.is_bag:
                self._value(key, (values > 0).sum(axis=1).astype(np.float32), y)
        for column in self._schema.numeric:
            key = (domain, column.name)
            number = rows.dense[:, column.col].astype(np.float32)
            self._value(key, number, y)
            as_category = number.view(np.uint32).astype(np.int64)[:, None] * 2_654_435_761 >> 16
            self._rates.setdefault(key, _Rates()).observe(as_category, y)

    def _value(self, key: tuple[int, str], value: NDArray[np.float32], y: NDArray[np.bool_]) -> None:
        self._values.setdefault(key, _Histogram()).add(value, y)

    def findings(self) -> list[Finding]:
        """Every feature in every domain that occurred, by descending AUC."""
        found = []
        for key, rates in self._rates.items():
            by_value = self._values[key].auc() if key in self._values else 0.5
            auc = max(rates.found.auc(), by_value)
            found.append(Finding(key[1], DOMAIN_NAMES[key[0]], auc, self._rows[key[0]]))
        return sorted(found, key=lambda f: -f.auc)
