"""Rebuilding a model from journal and log, and comparing it with the checkpoint bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from ecdctr import factory
from ecdctr.events.kafka import KafkaLog, losses
from ecdctr.models.training import Engine, input_differences
from ecdctr.progress import progress_bar
from ecdctr.replay.play import RowNotes, redo
from ecdctr.settings import Settings
from ecdctr.state.checkpoints import CheckpointStore, Loaded, merge_rows
from ecdctr.state.errors import CheckpointDamagedError, OffsetsLostError, RowsLostError, StateError
from ecdctr.state.folder_format import check_format
from ecdctr.state.journals import Journal, JournalEntry
from ecdctr.state.positions import LogIdentity, Positions
from ecdctr.state.snapshots import SnapshotCheck

__all__ = ["Rebuilt", "first_difference", "rebuild"]


@dataclass
class Rebuilt:
    """A model rebuilt from journal and log, and the result of its comparison with a checkpoint."""

    engine: Engine
    checkpoint: str
    steps: int
    rows: int
    difference: str | None
    base: str | None = None
    """The checkpoint from which it was rebuilt, if the log or the journal no longer reaches back to step 0."""
    why: str = ""
    """Why they do not."""

    @property
    def identical(self) -> bool:
        return self.difference is None

    @property
    def verdict(self) -> str:
        what = f"checkpoint {self.checkpoint}, {self.steps:,} steps, {self.rows:,} rows"
        if self.base is not None:
            what += f", from checkpoint {self.base} on because {self.why}"
        return f"identical ({what})" if self.difference is None else f"DIFFERENT ({what}): {self.difference}"

    @property
    def trained(self) -> int:
        """Rows learned, both domains."""
        return sum(self.engine.progress.rows.values())

    @property
    def release_clocks(self) -> list[int]:
        """Event times of the accepted CPM releases, milliseconds."""
        return [r.clock_ms for r in self.engine.releases if r.accepted]


def rebuild(
    err: Console,
    settings: Settings,
    checkpoint: str | None = None,
    *,
    compare: bool = True,
    notes: RowNotes | None = None,
) -> Rebuilt:
    """Run the state folder's journal again from the Kafka log with a new model.

    1. Select the checkpoint to compare with: the newest undamaged one, or the requested one.
    2. From step 0, fetch the rows of each journaled step from the log and run the step again. If the log was lost and its
       offsets were reset, if old journal files were deleted, or if the log no longer holds the rows of the first steps (retention,
       compaction), start with the oldest checkpoint after that.
    3. At the step of the checkpoint, compare every tensor bit by bit, the digests of all predictions up to there, and the TPM
       months that closed meanwhile with their snapshots.

    Parameters
    ----------
    err
        Console for the progress bar.
    settings
        With changed settings of the models this is a counterfactual on the same rows in the same order.
    checkpoint
        Name of a checkpoint; default: the newest undamaged one.
    compare
        False for a counterfactual.
    notes
        The columns of the score log beside scores.

    Raises
    ------
    OffsetsLostError
        The log no longer holds the rows of the journal's steps, and no checkpoint reaches back far enough.
    StateError
        The journal no longer has the steps, and no checkpoint reaches back far enough.
    """
    check_format(settings.state.folder)
    folders = factory.Folders(settings.state.folder)
    store = CheckpointStore(folders.checkpoints, keep=settings.state.keep_checkpoints)
    loaded = store.load(checkpoint) if checkpoint else store.newest()
    if loaded is None:
        raise StateError(f"{folders.checkpoints} contains no whole checkpoint: let a worker write one first")
    journal = Journal(folders.journal, read_only=True)
    last = int(loaded.meta["step"])
    decoder = factory.decoder(settings)
    if notes is not None:
        notes.prepare(decoder)
    with factory.kafka_log(settings, decoder) as log:
        start = _first_steps(journal, loaded, log, factory.input_settings(settings))
        while True:
            base = _base(store, start, last)
            if base is not None:
                err.print(f"rebuilding from checkpoint {base.name} on, because {start.why}", soft_wrap=True)
            engine = factory.memory_engine(
                settings, threads=int(loaded.meta["trainer"]["threads"]), notes=notes
            )
            if base is not None:
                engine.begin_at(base, folders.ad_window)
            try:
                with progress_bar(err, "replay the journal", None) as update:
                    steps = _until(journal.entries(after_step=engine.step), last)
                    done = redo(engine, log, steps, update, notes)
                break
            except RowsLostError as error:
                # A later checkpoint may be followed by steps whose rows are all there.
                start = _Start(engine.step + 2, str(error), lost=True)
    difference = _compare(engine, loaded, base) if compare else None
    return Rebuilt(
        engine, loaded.name, done.steps, done.rows, difference, base.name if base else None, start.why
    )


@dataclass(frozen=True)
class _Start:
    """From which step on a model can be rebuilt, why not earlier, and whether the log is the reason (else the journal)."""

    step: int
    why: str = ""
    lost: bool = False


def _first_steps(journal: Journal, loaded: Loaded, log: KafkaLog, inputs: Mapping[str, Any]) -> _Start:
    """The first step such that the journal, and the log, hold all steps from there to the checkpoint's.

    1. The journal begins at its oldest file, and anew where the offsets were reset.
    2. The settings that decode the rows are those with which the steps were learned.
    3. The log holds the rows of a step if its offsets are between the beginning and the end, and if topic and leader epoch are still
       those from which the step learned.
    """
    start = _Start(0)
    first = journal.first_step() or 0
    if first:
        start = _Start(first, "older journal files were deleted (state.journal_keep_days)")
    last = int(loaded.meta["step"])
    recorded: Mapping[str, Any] | None = None
    for entry in _until(journal.entries(), last):
        if entry.kind == "reset":
            why = f"the log was lost at step {entry.step} (--reset-offsets {entry.extra['choice']})"
            start = _Start(entry.step, why)
        recorded = entry.extra.get("inputs", recorded)
        if entry.parts and (differ := input_differences(recorded, inputs)):
            start = _Start(
                entry.step + 1, f"up to step {entry.step} other settings applied ({'; '.join(differ)})"
            )
    identity = LogIdentity.from_json(loaded.meta.get("log"))
    reached = Positions.from_json(loaded.meta["positions"])
    state = log.confirmed_state(identity, reached, reached)
    # Needed from the end on: what was deleted is found below, step by step.
    lost = {loss.key: loss for loss in losses(reached, reached, identity, state)}
    for entry in _until(journal.entries(after_step=start.step - 1), last):
        for part in entry.parts:
            key = (part.topic, part.partition)
            if key not in state.ends:
                why = f'topic "{part.topic}" has no partition {part.partition} that can be read'
            elif part.first < state.beginning[key]:
                why = (
                    f'topic "{part.topic}" partition {part.partition} begins at offset {state.beginning[key]} now (retention), and step '
                    f"{entry.step} learned from offset {part.first} on"
                )
            elif key in lost and part.end > lost[key].same_until:
                why = str(lost[key])
            else:
                continue
            start = _Start(entry.step + 1, why, lost=True)
    return start


def _base(store: CheckpointStore, start: _Start, last: int) -> Loaded | None:
    """The oldest checkpoint to start from; None: start at step 0 with a new model."""
    if start.step == 0:
        return None
    for info in store.list():
        if start.step - 1 <= info.step < last:
            try:
                return store.load(info.name)
            except CheckpointDamagedError:
                continue
    raise (OffsetsLostError if start.lost else StateError)(
        f"the model can be rebuilt only from step {start.step} on, because {start.why}; there is no checkpoint between that step "
        f"and step {last}, at which the models are compared, to start from"
    )


def _until(entries: Iterator[JournalEntry], last: int) -> Iterator[JournalEntry]:
    for entry in entries:
        if entry.step > last:
            return
        yield entry


def _compare(engine: Engine, loaded: Loaded, base: Loaded | None) -> str | None:
    where = (
        f"first step with different predictions: {engine.first_difference}; "
        if engine.first_difference is not None
        else ""
    )
    tensor = first_difference(engine, loaded, base)
    if tensor is not None:
        return f"{where}first tensor that differs: {tensor}"
    where += "; ".join(_other_snapshots(engine))
    return where.rstrip("; ") or None


def _other_snapshots(engine: Engine) -> list[str]:
    """TPM months that closed meanwhile and whose vectors differ from their snapshots on disk."""
    tpm = engine.trainer.live_tpm
    return tpm.sink.differences if tpm is not None and isinstance(tpm.sink, SnapshotCheck) else []


def first_difference(engine: Engine, loaded: Loaded, base: Loaded | None = None) -> str | None:
    """Name of the first tensor in which an engine's state differs from a checkpoint; None if they are equal bit for bit.

    The engine must not have been captured before; it started as a new model, or from ``base``.
    """
    mine = engine.trainer.capture()
    if base is not None:
        mine.rows = merge_rows([base.rows, mine.rows])
    for name in sorted(set(mine.dense) | set(loaded.dense)):
        a, b = mine.dense.get(name), loaded.dense.get(name)
        if a is None or b is None:
            return f"{name} (only in the {'checkpoint' if a is None else 'rebuilt model'})"
        if a.shape != b.shape or a.dtype != b.dtype or a.tobytes() != b.tobytes():
            return name
    for table in sorted(set(mine.rows) | set(loaded.rows)):
        if table not in mine.rows or table not in loaded.rows:
            return f"table {table} (only in one of them)"
        (ai, av), (bi, bv) = mine.rows[table], loaded.rows[table]
        ao, bo = np.argsort(ai, kind="stable"), np.argsort(bi, kind="stable")
        if not np.array_equal(ai[ao], bi[bo]):
            return f"table {table}: rows touched ({len(ai)} rebuilt, {len(bi)} in the checkpoint)"
        same = (av[ao].view(np.uint32) == bv[bo].view(np.uint32)).all(axis=1)
        if not same.all():
            return f"table {table} row {int(ai[ao][~same][0])}"
    return None
