"""Playing a log back: the steps of a source, through the same engine that runs live."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.kafka import KafkaLog
from ecdctr.events.step import Step
from ecdctr.models.training import Engine
from ecdctr.replay.play.row_notes import RowNotes
from ecdctr.state.errors import DataError
from ecdctr.state.journals import JournalEntry
from ecdctr.state.positions import Positions

__all__ = ["Playback", "Player", "ProgressCallback", "play", "redo"]

ProgressCallback = Callable[[int, int], None]
"""``progress(rows done, event clock in ms)``."""


@dataclass
class Playback:
    """What a replay did.

    Attributes
    ----------
    rows, steps
        All of them, those of the run that was gone on with included.
    cpu_seconds
        Of this process, all of its threads.
    skipped
        Rows that an earlier run had done.
    interrupted, torn
        Ended early; ended within a step.
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
    """What runs the steps of a replay: an engine, or an arm beside it."""

    @property
    def positions(self) -> Mapping[tuple[str, int], int]:
        """How far in the log it is."""
        ...

    def run(self, step: Step) -> Any:
        """Do a step."""
        ...


def play(
    player: Player,
    steps: Iterator[Step],
    progress: ProgressCallback | None = None,
    stop: Callable[[], bool] | None = None,
    beside: Sequence[Player] = (),
) -> Playback:
    """Run every step through the engine; ``stop`` is asked after each, Ctrl-C ends it even within one.

    An engine that has done steps already (:meth:`Engine.recover`) goes on behind them: the steps that lead up to
    its positions are counted and not run. Those ``beside`` it run the same steps, each from where it stands.

    Raises
    ------
    DataError
        The steps do not lead to an engine's positions: the log is not the one that it has learned from.
    """
    done = Playback()
    began, cpu = time.perf_counter(), time.process_time()
    reached = Positions()
    waiting = {one: Positions(one.positions) for one in (player, *beside) if Positions(one.positions)}
    try:
        for step in steps:
            for one in (player, *beside):
                if one not in waiting:
                    one.run(step)
                elif one is player:
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
        # Somewhere within a step: its figures stand, its model must not be gone on with.
        done.interrupted = done.torn = True
    done.seconds, done.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return done


def _other_log(reached: Positions, wanted: Positions) -> DataError:
    return DataError(
        f"the log does not lead to where the replay was ({dict(wanted)}; it gives {dict(reached)}): it has changed "
        "since; replay it anew, without --resume"
    )


def redo(
    engine: Engine,
    log: KafkaLog,
    entries: Iterator[JournalEntry],
    progress: ProgressCallback | None = None,
    notes: RowNotes | None = None,
) -> Playback:
    """Run journaled steps again with the rows that the log holds at their offsets; ``notes`` are added to them."""
    done = Playback()
    began = time.perf_counter()
    for entry in entries:
        batch = log.fetch(entry.parts) if entry.parts else None
        if batch is None and entry.kind in DOMAIN_NAMES:
            raise DataError(f"journal step {entry.step} ({entry.kind}) names no offsets")
        engine.redo(entry, batch if batch is None or notes is None else notes.add_to(batch))
        done.rows += 0 if batch is None else len(batch)
        done.steps += 1
        if progress is not None:
            progress(done.rows, entry.clock)
    done.seconds = time.perf_counter() - began
    return done
