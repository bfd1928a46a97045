"""Origin of rows: contiguous offset ranges of Kafka partitions, and the next offset of each partition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = ["Part", "Positions"]


class Part(NamedTuple):
    """A contiguous range of offsets ``first <= offset < end`` of one partition.

    The range includes offsets without a row (dead letters, compaction gaps): it describes which offsets have been
    processed, not how many rows they contained.
    """

    topic: str
    partition: int
    first: int
    end: int


class Positions(dict[tuple[str, int], int]):
    """Next offset of every partition, keyed ``(topic, partition)``.

    >>> p = Positions()
    >>> p.advance([Part("ad-clicks", 0, 0, 5), Part("ad-clicks", 1, 3, 4)])
    >>> p[("ad-clicks", 0)], p.to_json()
    (5, {'ad-clicks': {'0': 5, '1': 4}})
    >>> Positions.from_json(p.to_json()) == p
    True
    """

    def advance(self, parts: Iterable[Part]) -> None:
        """Move each partition to the end of its part; a part never moves a partition back."""
        for part in parts:
            key = (part.topic, part.partition)
            self[key] = max(self.get(key, part.first), part.end)

    def to_json(self) -> dict[str, dict[str, int]]:
        """As nested plain dicts, sorted: ``{topic: {partition: next offset}}``."""
        out: dict[str, dict[str, int]] = {}
        for (topic, partition), offset in sorted(self.items()):
            out.setdefault(topic, {})[str(partition)] = offset
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, int]]) -> Positions:
        """Inverse of :meth:`to_json`."""
        return cls({(t, int(p)): int(o) for t, ps in data.items() for p, o in ps.items()})
