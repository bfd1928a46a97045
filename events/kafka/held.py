"""``LogState``: what the brokers report about a log; ``losses``: what of the learned and needed records it no longer holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ecdctr.state.positions import LogIdentity

__all__ = ["LogState", "Loss", "LossKind", "losses"]

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class LogState:
    """What the brokers report.

    Attributes
    ----------
    beginning, ends
        First offset and end of each partition, open transactions included. A topic that is absent was not shown, which proves
        nothing.
    topic_ids
        ``{topic: id}``; without those that are unknown.
    epoch_ends
        Where the leader epoch of the last learned record ends in each partition; without those that are unknown.
    compacted
        Topics whose ``cleanup.policy`` is known to contain ``compact``.
    """

    beginning: Mapping[Key, int]
    ends: Mapping[Key, int]
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    epoch_ends: Mapping[Key, int] = field(default_factory=dict)
    compacted: frozenset[str] = frozenset()


class LossKind(StrEnum):
    """Why a log does not hold the records of the stored positions."""

    MADE_ANEW = "made anew"
    """The topic was deleted and created again: it has another id."""
    CUT = "cut"
    """An unclean leader election: the leader epoch that was read ends before the position."""
    SHORT = "short"
    """The log ends before the position, and nothing else is known."""
    NO_PARTITION = "no partition"
    """The topic has fewer partitions."""
    DELETED = "deleted"
    """Records were deleted before they were learned, by retention or ``DeleteRecords``."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Records of one partition that the log no longer holds.

    Attributes
    ----------
    needed
        First offset that is needed.
    reached
        The log was learned up to this offset.
    same_until
        The log has the records that were learned, or would have been, only before this offset; the following ones are others.
        ``inf``: it is the same log.
    held
        First offset and end of the partition now.
    detail
        What proves it, as a part of a sentence.
    """

    key: Key
    kind: LossKind
    needed: int
    reached: int
    same_until: float
    held: tuple[int, int] | None
    detail: str

    def __str__(self) -> str:
        topic, partition = self.key
        if self.held is None:
            return f'topic "{topic}" partition {partition} (learned up to offset {self.reached}) cannot be read any more: {self.detail}'
        beginning, end = self.held
        return (
            f'topic "{topic}" partition {partition}: needed from offset {self.needed} (learned up to {self.reached}), '
            f"the log holds {beginning} to {end}: {self.detail}"
        )


def losses(
    needed: Mapping[Key, int], reached: Mapping[Key, int], identity: LogIdentity, state: LogState
) -> list[Loss]:
    """The partitions that do not hold what training needs, or what it has learned.

    Of a topic that was made anew or a partition that was cut, the end does not tell: it may have grown beyond the old positions.
    The topic id and the leader epoch do.

    Parameters
    ----------
    needed
        First offset that will be read in each partition.
    reached
        Next offset after the records that were learned; not before ``needed``.
    identity
        The log in which ``reached`` was reached.
    state
        As the brokers report it.

    Examples
    --------
    >>> state = LogState({("ads", 0): 0}, {("ads", 0): 90}, {"ads": "B"})
    >>> (loss,) = losses({("ads", 0): 50}, {("ads", 0): 50}, LogIdentity({"ads": "A"}), state)
    >>> print(loss)
    topic "ads" partition 0: needed from offset 50 (learned up to 50), the log holds 0 to 90: the topic was deleted and created again (its id was A, now it is B), so all of its records are new
    """
    shown = {topic for topic, _ in state.ends}
    found = []
    for key in sorted(reached):
        if key[0] not in shown:
            continue
        loss = _loss(key, needed[key], reached[key], identity, state)
        if loss is not None:
            found.append(loss)
    return found


def _loss(key: Key, needed: int, reached: int, identity: LogIdentity, state: LogState) -> Loss | None:
    topic = key[0]
    held = (state.beginning[key], state.ends[key]) if key in state.ends else None
    was, now = identity.topic_ids.get(topic), state.topic_ids.get(topic)
    if reached and was is not None and now is not None and was != now:
        detail = f"the topic was deleted and created again (its id was {was}, now it is {now}), so all of its records are new"
        return Loss(key, LossKind.MADE_ANEW, needed, reached, 0, held, detail)
    if held is None:
        return Loss(key, LossKind.NO_PARTITION, needed, reached, 0, None, "the topic has fewer partitions")
    beginning, end = held
    cut = state.epoch_ends.get(key)
    if cut is not None and cut < reached:
        detail = (
            f"an unclean leader election cut it at offset {cut} (leader epoch {identity.epochs[key]}, which was read up to {reached}, "
            f"ends there), and the records from offset {cut} on are others"
        )
        return Loss(key, LossKind.CUT, needed, reached, cut, held, detail)
    if end < reached:
        detail = f"it ends before offset {reached}"
        if was is None or key not in identity.epochs:
            detail += " (the state holds no topic id and leader epoch that could tell whether the records before are the same)"
        return Loss(key, LossKind.SHORT, needed, reached, end, held, detail)
    if beginning > needed:
        detail = f"offsets {needed} to {beginning} were deleted before they were learned (retention)"
        return Loss(key, LossKind.DELETED, needed, reached, math.inf, held, detail)
    return None
