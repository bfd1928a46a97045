"""Origin of rows: contiguous offset ranges of Kafka partitions, the next offset of each partition, and the log's identity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

__all__ = ["LogIdentity", "LogOrigin", "Part", "Positions"]


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


class LogOrigin(Protocol):
    """The log from which the rows of a worker come."""

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """``{topic: id}``, as the broker gave them when the worker started; without those that are unknown."""
        ...

    def epoch(self, part: Part) -> int | None:
        """Leader epoch of the last record of a part; None: unknown."""
        ...

    def decisions(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Which records of the parts were refused for their times, as plain JSON, for a redo; called once for each step."""
        ...


class LogIdentity:
    """Which log the positions belong to: the id of each topic, and the leader epoch of the record before each position.

    Offsets alone do not identify records: a topic that was deleted and created again has other records at the same
    offsets, and so has a partition that an unclean leader election has cut. The broker gives a new topic a new id
    (KIP-516), and a new leader a new epoch (KIP-101). What is absent is unknown: an older version wrote the state, or the
    broker reports neither.

    Attributes
    ----------
    topic_ids
        ``{topic: id}``.
    epochs
        ``{(topic, partition): leader epoch}`` of the last record before the position.
    """

    def __init__(
        self,
        topic_ids: Mapping[str, str] | None = None,
        epochs: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        self.topic_ids: dict[str, str] = dict(topic_ids or {})
        self.epochs: dict[tuple[str, int], int] = dict(epochs or {})

    def __repr__(self) -> str:
        return f"LogIdentity({self.topic_ids}, {self.epochs})"

    def changes(self, parts: Iterable[Part], origin: LogOrigin) -> dict[str, Any]:
        """What :meth:`apply` needs to follow a step: only what differs from before, so that most steps need nothing.

        >>> class Origin:
        ...     topic_ids = {"ads": "r4WR"}
        ...     def epoch(self, part): return 3
        >>> identity = LogIdentity()
        >>> change = identity.changes([Part("ads", 0, 0, 5)], Origin())
        >>> change
        {'topics': {'ads': 'r4WR'}, 'epochs': {'ads': {'0': 3}}}
        >>> identity.apply(change)
        >>> identity.changes([Part("ads", 0, 5, 9)], Origin())
        {}
        """
        change: dict[str, Any] = {}
        for part in parts:
            known = origin.topic_ids.get(part.topic)
            if known is not None and self.topic_ids.get(part.topic) != known:
                change.setdefault("topics", {})[part.topic] = known
            now = origin.epoch(part)
            if self.epochs.get((part.topic, part.partition)) != now:
                change.setdefault("epochs", {}).setdefault(part.topic, {})[str(part.partition)] = now
        return change

    def journaled(self, parts: Sequence[Part], origin: LogOrigin | None) -> dict[str, Any]:
        """What a journal entry records about the log of its parts: ``log``, the changes of the identity, and ``times``."""
        if origin is None:
            return {}
        found = {
            "log": self.changes(parts, origin),
            "times": origin.decisions(parts) if parts else {},
        }
        return {name: value for name, value in found.items() if value}

    def apply(self, change: Mapping[str, Any]) -> None:
        """Follow a step whose :meth:`changes` were recorded."""
        self.topic_ids.update(change.get("topics", {}))
        for topic, partitions in change.get("epochs", {}).items():
            for partition, epoch in partitions.items():
                if epoch is None:
                    self.epochs.pop((topic, int(partition)), None)
                else:
                    self.epochs[(topic, int(partition))] = epoch

    def to_json(self) -> dict[str, Any]:
        """As nested plain dicts, the form that :meth:`apply` reads."""
        epochs: dict[str, dict[str, int]] = {}
        for (topic, partition), epoch in sorted(self.epochs.items()):
            epochs.setdefault(topic, {})[str(partition)] = epoch
        return {"topics": dict(sorted(self.topic_ids.items())), "epochs": epochs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> LogIdentity:
        """Inverse of :meth:`to_json`; None, as in the state of an older version: nothing is known.

        >>> LogIdentity.from_json(LogIdentity({"ads": "r4WR"}, {("ads", 0): 3}).to_json())
        LogIdentity({'ads': 'r4WR'}, {('ads', 0): 3})
        """
        identity = cls()
        identity.apply(data or {})
        return identity
