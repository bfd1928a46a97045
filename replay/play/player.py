"""Replaying a log: the steps of a source run through the same engine that runs live, by one arm or several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.kafka import KafkaLog
from ecdctr.events.plausible_time import TimeDecisions
from ecdctr.events.step import Step
from ecdctr.models.training import Engine
from ecdctr.replay.play.row_notes import RowNotes
from ecdctr.state.errors import DataError, EcdctrError, RowsLostError
from ecdctr.state.journals import JournalEntry
from ecdctr.state.positions import Positions

__all__ = ["Playback", "Player", "ProgressCallback", "play", "redo"]

ProgressCallback = Callable[[int, int], None]
"""Called as ``progress(rows done, event clock in ms)``."""


@dataclass
class Playback:
    """What a replay did.

    Attributes
    ----------
    rows, steps
        Rows and steps from the beginning of the log to where this replay ended, including those skipped because an earlier,
        interrupted run had done them; for :func:`redo`, the repeated rows and steps.
    seconds
        Wall time.
    cpu_seconds
        CPU time of this process, all threads.
    skipped
        Rows that an earlier run had done.
    interrupted
        Whether it ended before the end of the log.
    torn
        Whether it ended within a step, so that the models must not be used further.
    """

    rows: int = 0
    steps: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    skipped: int = 0
    interrupted: bool = False
    torn: bool = False

    @property
    def rows_per_s(self) -> float:
        return (self.rows - self.skipped) / self.seconds if self.seconds else 0.0


class Player(Protocol):
    """Something that runs the steps of a replay: an engine, or an arm beside it."""

    @property
    def positions(self) -> Mapping[tuple[str, int], int]:
        """Next offset of each partition."""
        ...

    def run(self, step: Step) -> Any:
        """Run a step."""
        ...


def play(
    players: Sequence[Player],
    steps: Iterator[Step],
    progress: ProgressCallback | None = None,
    stop: Callable[[], bool] | None = None,
) -> Playback:
    """Run every step through every player, in the given order.

    A player that has run steps before (:meth:`Engine.recover`) resumes at its own positions: the steps before them
    are skipped for this player.

    Parameters
    ----------
    players
        :attr:`Playback.skipped` counts the rows that the first one skips.
    steps
        Steps of the log, from its beginning.
    progress
        Called after each step.
    stop
        Called after each step; the replay ends if it returns true. Ctrl-C ends it even within a step.

    Raises
    ------
    DataError
        No step ends exactly at a player's positions, so this is not the log from which it has learned.
    """
    done = Playback()
    began, cpu = time.perf_counter(), time.process_time()
    reached = Positions()
    waiting = {one: Positions(one.positions) for one in players if Positions(one.positions)}
    try:
        for step in steps:
            for one in players:
                if one not in waiting:
                    one.run(step)
                elif one is players[0]:
                    done.skipped += len(step.batch)
            reached.advance(step.parts)
            for one, wanted in list(waiting.items()):
                if reached == wanted:
                    del waiting[one]
                elif any(at > wanted.get(key, -1) for key, at in reached.items()):
                    raise _other_log(reached, wanted)
            done.rows += len(step.batch)
            done.steps += 1
            if progress is not None:
                progress(done.rows, step.clock)
            if stop is not None and stop():
                done.interrupted = True
                break
        else:
            for wanted in waiting.values():
                raise _other_log(reached, wanted)
    except KeyboardInterrupt:
        # Somewhere within a step: the scores so far are valid, but the models must not be used further.
        done.interrupted = done.torn = True
    done.seconds, done.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return done


def _other_log(reached: Positions, wanted: Positions) -> DataError:
    return DataError(
        f"the steps of the log end at offsets {dict(reached)}, but the interrupted replay stopped at {dict(wanted)}: "
        "the log has changed since then; replay it again, without --resume"
    )


def redo(
    engine: Engine,
    log: KafkaLog,
    entries: Iterator[JournalEntry],
    progress: ProgressCallback | None = None,
    notes: RowNotes | None = None,
) -> Playback:
    """Run journaled steps again with the rows that the log holds at their offsets; ``notes`` are added to them.

    Raises
    ------
    RowsLostError
        The log no longer holds all rows of a step; the engine has run the steps before it.
    DataError
        The log holds all records of a step, but they have another number of valid rows than before.
    OffsetsLostError
        The log no longer holds the offsets of a step.
    """
    done = Playback()
    began = time.perf_counter()
    for entry in entries:
        batch = log.fetch(entry.parts, _decisions(entry)) if entry.parts else None
        if batch is None and entry.kind in DOMAIN_NAMES:
            raise DataError(
                f"journal step {entry.step} ({entry.kind}) has no offset ranges, so its rows cannot be read: the journal is "
                "damaged or was written by another version"
            )
        if batch is not None and entry.rows not in (None, len(batch)):
            raise _other_rows(entry, len(batch), log.gaps)
        engine.redo(entry, batch if batch is None or notes is None else notes.add_to(batch))
        done.rows += 0 if batch is None else len(batch)
        done.steps += 1
        if progress is not None:
            progress(done.rows, entry.clock)
    done.seconds = time.perf_counter() - began
    return done


def _decisions(entry: JournalEntry) -> TimeDecisions:
    return TimeDecisions.from_json(entry.extra.get("times"))


def _other_rows(entry: JournalEntry, found: int, gaps: int) -> EcdctrError:
    ranges = ", ".join(f"{p.topic}[{p.partition}] {p.first} to {p.end}" for p in entry.parts)
    what = f"journal step {entry.step} learned {entry.rows} rows from offsets {ranges}, and the log now has {found} rows there"
    if gaps and entry.rows is not None and found < entry.rows:
        return RowsLostError(f"{what}: {gaps} of these offsets have no record any more (compaction)")
    return DataError(
        f"{what}, though no record is missing: the messages are decoded differently than when they were learned. Restore the features "
        "and the settings events.* of that time, and the version of ecdctr"
    )
