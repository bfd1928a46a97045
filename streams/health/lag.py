"""``lag_report``: how many records wait, by the ends that the brokers report and not by what was fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ecdctr.streams.broker_watch import WatchState

__all__ = ["LagReport", "lag_report", "name_partitions"]

Key = tuple[str, int]
_NAMED = 3


@dataclass(frozen=True, slots=True)
class LagReport:
    """Records that have not been learned.

    Attributes
    ----------
    by_topic
        None for a topic of which the end of a partition is not known.
    waiting
        Records in partitions whose ends are known.
    where
        The partitions with most of them, as ``natural-clicks[1]: 4,000, ad-clicks[0]: 12``.
    """

    by_topic: Mapping[str, int | None]
    waiting: int = 0
    where: str = ""

    @property
    def total(self) -> int | None:
        """Of all topics; None: not known."""
        found = [records for records in self.by_topic.values() if records is not None]
        return sum(found) if len(found) == len(self.by_topic) else None


def lag_report(state: WatchState, learned: Mapping[Key, int], topics: Iterable[str], now: float) -> LagReport:
    """The lag of each topic.

    Parameters
    ----------
    state
        What the watch knows.
    learned
        Next offset to learn of each partition; one that is absent begins at 0.
    topics
        The click topics.
    now
        Monotonic seconds.

    Examples
    --------
    >>> state = WatchState({("ads", 0): 9, ("ads", 1): 5}, {("ads", 0): 7.0}, frozenset({("ads", 0), ("ads", 1)}))
    >>> lag_report(state, {("ads", 0): 2}, ["ads"], now=8.0)
    LagReport(by_topic={'ads': None}, waiting=7, where='ads[0]: 7')
    """
    unknown = state.unknown(now)
    known = {key: max(0, state.ends[key] - learned.get(key, 0)) for key in state.partitions - unknown}
    by_topic: dict[str, int | None] = {}
    for topic in topics:
        keys = [key for key in state.partitions if key[0] == topic]
        is_known = bool(keys) and not unknown.intersection(keys)
        by_topic[topic] = sum(known[key] for key in keys) if is_known else None
    behind = sorted(((n, key) for key, n in known.items() if n), reverse=True)
    named = [f"{topic}[{partition}]: {n:,}" for n, (topic, partition) in behind[:_NAMED]]
    if len(behind) > _NAMED:
        named.append(f"{len(behind) - _NAMED} more partitions")
    return LagReport(by_topic, sum(known.values()), ", ".join(named))


def name_partitions(keys: Iterable[Key]) -> str:
    """``natural-clicks[0], ad-clicks[1] and 3 more``, for messages."""
    names = [f"{topic}[{partition}]" for topic, partition in sorted(keys)]
    more = f" and {len(names) - 2 * _NAMED} more" if len(names) > 2 * _NAMED else ""
    return ", ".join(names[: 2 * _NAMED]) + more
