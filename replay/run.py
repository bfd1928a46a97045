"""Playing a log back: the steps of a source, through the same engine that runs live."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from models.batch import AD, DOMAIN_NAMES, NATURAL
from models.engine import Engine
from models.events import EventDecoder
from replay.align import Aligner, Chunk, Step
from replay.kafka_log import KafkaLog
from replay.source import Source
from state.errors import DataError
from state.journal import JournalEntry

__all__ = ["Playback", "play", "redo", "steps_from_log", "steps_from_source"]

# Lanes of a source that is not Kafka: one a domain, offsets are row numbers.
SOURCE_LANES = {("natural", 0): NATURAL, ("ad", 0): AD}
BUFFER_ROWS = 65_536

ProgressCallback = Callable[[int, int], None]
"""``progress(rows done, event clock in ms)``."""


@dataclass
class Playback:
    """What a replay did."""

    rows: int = 0
    steps: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    rejects: Counter[str] = field(default_factory=Counter)

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0


def steps_from_source(
    source: Source, decoder: EventDecoder, *, natural_batch: int, ad_batch: int, rejects: Counter[str]
) -> Iterator[Step]:
    """Steps of a source whose frames come in event order (files, simulator, data sets)."""
    aligner = Aligner(SOURCE_LANES, natural_batch=natural_batch, ad_batch=ad_batch)
    position = dict.fromkeys(SOURCE_LANES, 0)
    for frame in source.frames():
        decoded = decoder.from_frame(frame)
        rejects.update(r.reason for r in decoded.rejects)
        batch = decoded.batch
        if not len(batch):
            continue
        for key, domain in SOURCE_LANES.items():
            rows = np.flatnonzero(batch.domain == domain)
            if len(rows):
                first = position[key]
                offsets = np.arange(first, first + len(rows), dtype=np.int64)
                position[key] += len(rows)
                aligner.add(Chunk(*key, first, position[key], offsets, batch.take(rows)))
        aligner.advance(int(batch.ts.max()))
        yield from aligner.cut()
    yield from aligner.cut(final=True)


def steps_from_log(
    log: KafkaLog,
    first: Mapping[tuple[str, int], int],
    end: Mapping[tuple[str, int], int],
    *,
    natural_batch: int,
    ad_batch: int,
) -> Iterator[Step]:
    """Steps of offset ranges of the click topics, as a live worker catching up would cut them."""
    aligner = Aligner(
        {key: log.topics[key[0]] for key in end},
        natural_batch=natural_batch,
        ad_batch=ad_batch,
        positions=first,
    )
    left = {key for key in end if first[key] < end[key]}
    for key in end:
        if key not in left:
            aligner.close(*key)
    limit = max(BUFFER_ROWS // max(1, len(end)), 4 * natural_batch)
    for chunk in log.chunks(first, end, wants=lambda topic, p: aligner.buffered(topic, p) < limit):
        key = (chunk.topic, chunk.partition)
        aligner.add(chunk)
        if chunk.end >= end[key]:
            left.discard(key)
            aligner.close(*key)
        if left:
            yield from aligner.cut()
    yield from aligner.cut(final=True)


def play(engine: Engine, steps: Iterator[Step], progress: ProgressCallback | None = None) -> Playback:
    """Run every step through the engine; Ctrl-C ends it early with what was done."""
    done = Playback()
    began = time.perf_counter()
    try:
        for step in steps:
            engine.run(step.kind, step.batch, step.clock)
            done.rows += len(step.batch)
            done.steps += 1
            if progress is not None:
                progress(done.rows, step.clock)
    except KeyboardInterrupt:
        done.interrupted = True
    done.seconds = time.perf_counter() - began
    return done


def redo(
    engine: Engine, log: KafkaLog, entries: Iterator[JournalEntry], progress: ProgressCallback | None = None
) -> Playback:
    """Run journaled steps again with the rows that the log holds at their offsets."""
    done = Playback()
    began = time.perf_counter()
    for entry in entries:
        batch = log.fetch(entry.parts) if entry.parts else None
        if batch is None and entry.kind in DOMAIN_NAMES:
            raise DataError(f"journal step {entry.step} ({entry.kind}) names no offsets")
        engine.redo(entry, batch)
        done.rows += 0 if batch is None else len(batch)
        done.steps += 1
        if progress is not None:
            progress(done.rows, entry.clock)
    done.seconds = time.perf_counter() - began
    return done
