"""Checks that the log holds what training needs and has learned; ``--reset-offsets`` where it does not.

Positions are compared with the log at start (:func:`settle_positions`, :func:`redo_journal`), every few seconds while the worker
runs (:func:`check_log`), and before the first record of a new leader epoch is learned (:class:`ecdctr.streams.intake.EpochGuard`).
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ecdctr.events.kafka import KafkaLog, LogState, Loss, LossKind, losses
from ecdctr.events.plausible_time import TimeDecisions
from ecdctr.models.training import Engine
from ecdctr.replay.play import Playback, ProgressCallback, redo
from ecdctr.state.errors import ConfigError, OffsetsLostError, RowsLostError
from ecdctr.state.journals import JournalEntry
from ecdctr.state.positions import LogIdentity, Positions

__all__ = [
    "CHOICES",
    "check_log",
    "identity_after",
    "positions_after",
    "redo_journal",
    "settle_positions",
    "warn_of_compaction",
]

log = logging.getLogger("ecdctr.worker")
Key = tuple[str, int]

CHOICES = ("earliest", "latest", "checkpoint")

_START_AGAIN = "Start again: the worker then reports what --reset-offsets earliest, latest or checkpoint would lose or double"


def identity_after(identity: LogIdentity, entries: Iterable[JournalEntry]) -> LogIdentity:
    """The identity of the log after the steps of a journal that begins at ``identity``."""
    after = LogIdentity.from_json(identity.to_json())
    for entry in entries:
        if entry.kind == "reset":
            after = LogIdentity()
        after.apply(entry.extra.get("log", {}))
    return after


def settle_positions(
    engine: Engine, entries: Iterable[JournalEntry], state: LogState, choice: str | None
) -> Iterator[JournalEntry]:
    """Return the journal entries that must be redone, after a check that the log holds their rows and those that follow.

    1. If the log holds every offset that is needed, and is the one that was learned from, ``choice`` is ignored.
    2. If it does not and there is no choice, raise an error that reports what is missing, and what each choice would lose or double.
    3. Otherwise discard these journal entries; a new entry records where reading continues.

    Parameters
    ----------
    engine
        An engine whose checkpoint has been restored, so that its positions are those of the checkpoint.
    entries
        Entries of the journal after the checkpoint.
    state
        The log, with the ends of the leader epochs of :func:`identity_after` these entries: what
        :meth:`~ecdctr.events.kafka.KafkaLog.confirmed_state` returns, so that two looks at the log decide.
    choice
        ``earliest``, ``latest``, ``checkpoint`` or None.

    Raises
    ------
    OffsetsLostError
        Offsets are missing and there is no choice.
    ConfigError
        The choice is not one of :data:`CHOICES`.
    """
    if choice is not None and choice not in CHOICES:
        raise ConfigError(f"--reset-offsets {choice!r}: choose one of {', '.join(CHOICES)}")
    tail = list(entries)
    at_checkpoint = _positions(engine, state)
    reached, needed = positions_after(at_checkpoint, tail)
    learned, _ = positions_after(engine.positions, tail)
    lost = losses(needed, reached, identity_after(engine.identity, tail), state)
    lost += _of_other_topics(needed, learned, state)
    if not lost:
        return iter(tail)
    reasons = [str(loss) for loss in lost]
    _reset(engine, state, at_checkpoint, reached, lost, choice, reasons, _offsets_elsewhere(tail, state))
    return itertools.chain()


def redo_journal(
    engine: Engine,
    kafka: KafkaLog,
    entries: Sequence[JournalEntry],
    state: LogState,
    choice: str | None,
    progress: ProgressCallback | None = None,
) -> Playback:
    """Redo the entries that :func:`settle_positions` returned.

    If the log no longer holds all rows of a step (compaction), nothing from this step on is learned again without a choice. With one,
    the remaining entries are discarded, and reading continues as with lost offsets.

    Raises
    ------
    OffsetsLostError
        Rows are missing and there is no choice.
    """
    try:
        return redo(engine, kafka, iter(entries), progress)
    except RowsLostError as error:
        rest = [entry for entry in entries if entry.step > engine.step]
        at = _positions(engine, state)
        reached, _ = positions_after(at, rest)
        learned = sum(entry.rows or 0 for entry in rest)
        held = sum(
            len(kafka.fetch(entry.parts, TimeDecisions.from_json(entry.extra.get("times"))))
            for entry in rest
            if entry.parts
        )
        reasons = [
            str(error),
            f"of the {learned:,} rows that the journal's steps from {rest[0].step} on learned, {max(0, learned - held):,} are gone for good",
        ]
        _reset(engine, state, at, reached, [], choice, reasons)
    return Playback()


def check_log(positions: Mapping[Key, int], identity: LogIdentity, state: LogState) -> None:
    """Compare the positions of a running worker with the log.

    Records that retention deletes before they are learned are left to the reader, which has read further than ``positions``.

    Parameters
    ----------
    positions, identity
        Taken before ``state``, and the positions before the identity.

    Raises
    ------
    OffsetsLostError
        The log is not the one that was learned from, or ends before a position.
    """
    lost = [loss for loss in losses(positions, positions, identity, state) if loss.kind != LossKind.DELETED]
    if lost:
        where = "; ".join(_in_short(loss) for loss in lost)
        raise OffsetsLostError(f"the log is no longer the one that was learned from: {where}. {_START_AGAIN}")


def warn_of_compaction(state: LogState) -> None:
    """Log a warning for each click topic that is compacted."""
    for topic in sorted(state.compacted):
        log.warning(
            'topic "%s" has cleanup.policy=compact: compaction removes records, and a step whose rows are not all there can be '
            "repeated neither after a crash nor by replay --journal. Set cleanup.policy=delete",
            topic,
        )


def _positions(engine: Engine, state: LogState) -> Positions:
    """Next offset of every partition that the log has or the engine has learned from; a new partition is at its beginning."""
    shown = {topic for topic, _ in state.ends}
    return Positions(
        {**state.beginning, **{key: at for key, at in engine.positions.items() if key[0] in shown}}
    )


def _of_other_topics(needed: Mapping[Key, int], learned: Mapping[Key, int], state: LogState) -> list[Loss]:
    """The partitions of topics from which the model has learned since the last reset, or whose rows the journal needs, and which
    the configuration does not name.
    """
    shown = {topic for topic, _ in state.ends}
    other = {**needed, **learned}
    return [
        Loss(
            key,
            LossKind.NO_PARTITION,
            needed.get(key, at),
            at,
            0,
            None,
            "topics.natural and topics.ad name other topics",
        )
        for key, at in sorted(other.items())
        if key[0] not in shown
    ]


def _offsets_elsewhere(entries: Iterable[JournalEntry], state: LogState) -> int:
    """Offsets that steps have learned from topics which the configuration does not name."""
    shown = {topic for topic, _ in state.ends}
    return sum(part.end - part.first for entry in entries for part in entry.parts if part.topic not in shown)


def positions_after(
    at: Mapping[Key, int], entries: Iterable[JournalEntry]
) -> tuple[Positions, dict[Key, int]]:
    """Next offset of each partition after the entries, and the first that they and what follows them need.

    After a reset, reading continued at other offsets: only the rows of the steps before it are needed from then on.
    """
    reached, read = Positions(at), dict[Key, int]()
    for entry in entries:
        if entry.kind == "reset":
            chosen = Positions.from_json(entry.extra["positions"])
            topics = {topic for topic, _ in chosen}
            reached = Positions({key: offset for key, offset in at.items() if key[0] in topics} | chosen)
        for part in entry.parts:
            key = (part.topic, part.partition)
            read[key] = min(read.get(key, part.first), part.first)
        reached.advance(entry.parts)
    return reached, {key: min(read.get(key, offset), offset) for key, offset in reached.items()} | {
        key: first for key, first in read.items() if key not in reached
    }


def _reset(
    engine: Engine,
    state: LogState,
    at: Positions,
    reached: Positions,
    lost: Sequence[Loss],
    choice: str | None,
    reasons: Sequence[str],
    elsewhere: int = 0,
) -> None:
    """Continue at the offsets of the choice; without one, raise an error with the reasons and the costs.

    ``elsewhere``: offsets that the discarded steps have learned from topics which are not read any more.
    """
    same_until = {loss.key: loss.same_until for loss in lost}
    targets = _targets(at, state, same_until)
    costs = {
        name: _cost(target, at, reached, same_until, state, elsewhere) for name, target in targets.items()
    }
    if choice is None:
        lines = ["the log no longer holds what training needs:", *(f"  {reason}" for reason in reasons)]
        lines += ["start again with one of", *(f"  --reset-offsets {n}: {cost}" for n, cost in costs.items())]
        raise OffsetsLostError("\n".join(lines))
    log.warning("--reset-offsets %s: %s", choice, costs[choice])
    engine.reset_positions(targets[choice], choice)


def _targets(at: Positions, state: LogState, same_until: Mapping[Key, float]) -> dict[str, Positions]:
    """Where reading continues after each choice: the log's beginning, its end, or the nearest offset to the checkpoint.

    The nearest offset to a position behind which the log has other records than before is the first of these.
    """
    beginning, ends = state.beginning, state.ends
    nearest = {
        key: int(min(max(min(at[key], same_until.get(key, math.inf)), beginning[key]), ends[key]))
        for key in ends
    }
    return dict(zip(CHOICES, (Positions(beginning), Positions(ends), Positions(nearest)), strict=True))


def _cost(
    target: Positions,
    at: Positions,
    reached: Positions,
    same_until: Mapping[Key, float],
    state: LogState,
    elsewhere: int = 0,
) -> str:
    """Offsets that are lost and that are learned twice if reading continues at ``target``.

    In a partition, the model has learned the offsets before ``at``; the steps up to ``reached`` are discarded. The log has the same
    records as before up to ``same``, and others from there on. Lost are

    - what the discarded steps learned and the log no longer has: ``at`` or ``same`` to ``reached``,
    - of the same records, those that are skipped: ``at`` to ``target``,
    - of the other records, those that are skipped: ``same`` to ``target``,
    - what the discarded steps learned from topics that are not read any more: ``elsewhere``.

    Learned a second time is what the model has learned, from ``target`` on, as far as the log still has it.
    """
    lost, doubled = float(elsewhere), 0.0
    for key in at:
        same = same_until.get(key, math.inf)
        until = reached.get(key, at[key])
        if key not in target:  # the topic has fewer partitions now
            lost += until - at[key]
            continue
        if same < math.inf:
            lost += max(0, until - max(at[key], same))
            lost += max(0, target[key] - same)
        lost += max(0, min(target[key], same) - at[key])
        doubled += max(0, min(at[key], same, state.ends[key]) - target[key])
    return f"{int(lost):,} offsets are lost, {int(doubled):,} are learned a second time"


def _in_short(loss: Loss) -> str:
    topic, partition = loss.key
    if loss.kind == LossKind.SHORT and loss.held is not None:
        return f"{topic}[{partition}] ends at {loss.held[1]}, learned up to {loss.reached}"
    return f"{topic}[{partition}], learned up to {loss.reached}: {loss.detail}"
