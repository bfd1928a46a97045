"""``settle_positions``: checks that the log still holds what training needs, and applies ``--reset-offsets`` if it does not."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping

from ecdctr.models.training import Engine
from ecdctr.state.errors import ConfigError, OffsetsLostError
from ecdctr.state.journals import JournalEntry
from ecdctr.state.positions import Positions

__all__ = ["CHOICES", "settle_positions"]

log = logging.getLogger("ecdctr.worker")
Key = tuple[str, int]

CHOICES = ("earliest", "latest", "checkpoint")


def settle_positions(
    engine: Engine,
    entries: Iterator[JournalEntry],
    beginning: Mapping[Key, int],
    ends: Mapping[Key, int],
    choice: str | None,
) -> Iterator[JournalEntry]:
    """Return the journal entries that must be redone, after a check that the log holds their rows and those that follow.

    1. If the log holds every offset that is needed, ``choice`` is ignored.
    2. If it does not and there is no choice, raise an error that reports what is missing, and what each choice would lose or double.
    3. Otherwise discard these journal entries; a new entry records where reading continues.

    Parameters
    ----------
    engine
        An engine whose checkpoint has been restored, so that its positions are those of the checkpoint.
    entries
        Entries of the journal after the checkpoint.
    beginning, ends
        First offset and end of each partition in the log.
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
    at_checkpoint = Positions({key: engine.positions.get(key, beginning[key]) for key in beginning})
    reached = Positions(at_checkpoint)
    first = dict(at_checkpoint)
    for entry in tail:
        for part in entry.parts:
            key = (part.topic, part.partition)
            first[key] = min(first.get(key, part.first), part.first)
        reached.advance(entry.parts)
    missing = [
        (key, first[key], reached[key])
        for key in sorted(reached)
        if key not in beginning or first[key] < beginning[key] or reached[key] > ends[key]
    ]
    if not missing:
        return iter(tail)
    if choice is None:
        raise OffsetsLostError(_explain(missing, at_checkpoint, beginning, ends))
    target = _targets(at_checkpoint, beginning, ends)[choice]
    log.warning("--reset-offsets %s: %s", choice, _cost(target, at_checkpoint))
    engine.reset_positions(target, choice)
    return itertools.chain()


def _explain(
    missing: list[tuple[Key, int, int]],
    at_checkpoint: Positions,
    beginning: Mapping[Key, int],
    ends: Mapping[Key, int],
) -> str:
    lines = ["the log no longer holds what training needs:"]
    for (topic, partition), first, reached in missing:
        key = (topic, partition)
        if key not in beginning:
            lines.append(
                f'  topic "{topic}" has no partition {partition} any more (the checkpoint has a position in it)'
            )
        else:
            lines.append(
                f'  topic "{topic}" partition {partition}: needed from offset {first} (learned up to {reached}), '
                f"the log holds {beginning[key]} to {ends[key]}"
            )
    lines.append("start again with one of")
    targets = _targets(at_checkpoint, beginning, ends)
    lines += [f"  --reset-offsets {name}: {_cost(t, at_checkpoint)}" for name, t in targets.items()]
    return "\n".join(lines)


def _targets(
    at_checkpoint: Positions, beginning: Mapping[Key, int], ends: Mapping[Key, int]
) -> dict[str, Positions]:
    """Where reading continues after each choice: the log's beginning, its end, or the nearest offset to the checkpoint."""
    nearest = {key: min(max(at_checkpoint[key], beginning[key]), ends[key]) for key in beginning}
    return dict(zip(CHOICES, (Positions(beginning), Positions(ends), Positions(nearest)), strict=True))


def _cost(target: Positions, at_checkpoint: Positions) -> str:
    lost = sum(max(0, offset - at_checkpoint[key]) for key, offset in target.items())
    doubled = sum(max(0, at_checkpoint[key] - offset) for key, offset in target.items())
    return f"{lost:,} offsets are lost, {doubled:,} are learned a second time"
