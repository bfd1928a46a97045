"""``audit``: whether the steps of a journal cover every offset exactly once."""

from __future__ import annotations

from collections.abc import Iterator

from ecdctr.state.journals import JournalEntry

__all__ = ["audit"]


def audit(entries: Iterator[JournalEntry], ends: dict[tuple[str, int], int]) -> tuple[int, int]:
    """Count the offsets that no step of the journal covers, and those that several steps cover.

    Parameters
    ----------
    entries
        The whole journal, from step 0.
    ends
        True end offset of every partition; all partitions begin at 0.

    Returns
    -------
    tuple of int
        ``(lost, doubled)``; both 0 when every offset belongs to exactly one step.
    """
    spans: dict[tuple[str, int], list[tuple[int, int]]] = {key: [] for key in ends}
    for entry in entries:
        for part in entry.parts:
            spans.setdefault((part.topic, part.partition), []).append((part.first, part.end))
    lost = doubled = 0
    for key, ranges in spans.items():
        reached = 0
        for first, end in sorted(ranges):
            lost += max(0, first - reached)
            doubled += max(0, min(reached, end) - first)
            reached = max(reached, end)
        lost += max(0, ends.get(key, reached) - reached)
    return lost, doubled
