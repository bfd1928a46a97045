"""The engine: one trainer, its journal and its checkpoints, so that each row is counted exactly once."""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crc32c import crc32c
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.step import Step, StepKind
from ecdctr.events.time import DAY_MS
from ecdctr.models.training.trainer import ReleaseReport, StepResult, Trainer
from ecdctr.state.checkpoints import Capture, CheckpointInfo, CheckpointStoreLike, Loaded, Rows, merge_rows
from ecdctr.state.errors import JournalDamagedError, StateError
from ecdctr.state.journals import EntryKind, JournalEntry, JournalLike
from ecdctr.state.malloc import trim_memory
from ecdctr.state.positions import Part, Positions
from ecdctr.state.row_logs import ROW_COLUMNS, AdWindow, ScoreLog
from ecdctr.state.settings import StateSettings

__all__ = ["Engine", "Progress", "audit"]

log = logging.getLogger("ecdctr.engine")


@dataclass
class Progress:
    """Counters of a running engine; those in ``durable()`` are part of the checkpoint."""

    rows: dict[str, int] = field(default_factory=lambda: {"natural": 0, "ad": 0})
    skipped_rows: int = 0
    releases: int = 0
    released: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    """Event clocks (ms) of the releases that came to serve, and of those that the gate refused."""
    checkpoints: int = 0
    checkpoint_failures: int = 0
    last_error: str | None = None
    stall_s_max: float = 0.0

    def durable(self) -> dict[str, Any]:
        return {
            "rows": dict(self.rows),
            "skipped_rows": self.skipped_rows,
            "releases": self.releases,
            "released": list(self.released),
            "refused": list(self.refused),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        self.rows = {k: int(v) for k, v in saved["rows"].items()}
        self.skipped_rows = int(saved["skipped_rows"])
        self.releases = int(saved["releases"])
        self.released = list(saved.get("released", ()))
        self.refused = list(saved.get("refused", ()))


class Engine:
    """Runs steps under the journal and takes checkpoints beside them.

    Not thread-safe: one thread owns it. Saving happens in a thread of its own, on a captured copy.

    Parameters
    ----------
    trainer, journal, checkpoints, scores, ad_window
        What learns and what is kept.
    settings
        How often to checkpoint, what to keep.
    fingerprint
        Names the features and networks; a checkpoint of another fingerprint is refused.
    live_tpm
        Whether the tiny model is to learn from the natural rows that come; what it does meanwhile, the journal says.
    on_checkpoint
        Called with the checkpoint's positions once it is durable, from the saving thread.
    on_skipped
        Called with a batch whose step was rolled back, and the reason; while redoing too, since a crash may have
        come between the step and what was made of it.
    score_skipped
        A step that was rolled back goes to the score log without scores (NaN): engines that run the same steps then
        have the same rows there, one by one.
    note
        Computes notes that depend on the models when a row is scored, for the score log; those of the batch
        (:attr:`Batch.notes`) go there in any case, as far as it has columns for them.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        journal: JournalLike,
        checkpoints: CheckpointStoreLike,
        scores: ScoreLog,
        ad_window: AdWindow,
        settings: StateSettings,
        fingerprint: str,
        on_checkpoint: Callable[[Positions], None] | None = None,
        on_skipped: Callable[[Batch, str], None] | None = None,
        score_skipped: bool = False,
        note: Callable[[Batch], Mapping[str, NDArray[Any]]] | None = None,
        live_tpm: bool = False,
    ) -> None:
        self.trainer = trainer
        self.live_tpm = live_tpm
        self.journal = journal
        self.checkpoints = checkpoints
        self.scores = scores
        self.ad_window = ad_window
        self.settings = settings
        self.fingerprint = fingerprint
        self.on_checkpoint = on_checkpoint
        self.on_skipped = on_skipped
        self.score_skipped = score_skipped
        self.note = note
        self.step = -1
        self.clock = 0
        self.positions = Positions()
        self.progress = Progress()
        self.releases: list[ReleaseReport] = []
        self.first_difference: int | None = None
        self._digest: str | None = None
        self._no_waiting = False
        trainer.until_room = lambda write: self._until_room("ad window", write)
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[CheckpointInfo] | None = None
        self._owed: list[Rows] = []  # of captures that did not reach the store; the saving thread's
        self._saved_step = -1
        self._saved_at = time.monotonic()

    def bind_thread(self) -> None:
        """Call in the thread that is to run the steps: torch keeps its number of threads for each thread apart."""
        if self.trainer.model.threads:
            torch.set_num_threads(self.trainer.model.threads)

    # -- protocol 3: recovery

    def recover(self) -> Iterator[JournalEntry]:
        """Return to the newest whole checkpoint and give the journal entries that must be redone.

        1. Load the newest checkpoint whose checksums hold; damaged ones are named and skipped.
        2. Cut the score log and the ad window back to the sizes that it names.
        3. Yield the journal's entries past it, in order; the caller fetches their rows and calls :meth:`redo`.
        4. When they are exhausted the state equals that before the crash: go live from :attr:`positions`.
        """
        loaded = self.checkpoints.newest()
        for name, reason in self.checkpoints.damaged:
            log.error("checkpoint %s is damaged (%s): skipped and kept; an older one is used", name, reason)
        if loaded is None:
            first = self.journal.first_step()
            if first not in (None, 0):
                raise StateError(
                    f"no whole checkpoint in {self.settings.folder}, and the journal begins at step {first}, not 0: "
                    "restore a checkpoint folder, or move the state folder aside to begin anew"
                )
            self.scores.truncate({})
            self.ad_window.truncate({})
        else:
            self._become(loaded)
            self.scores.truncate({int(k): v for k, v in loaded.meta["scores"].items()})
            self.ad_window.truncate({int(k): v for k, v in loaded.meta["ad_window"].items()})
            self._check_journal()
            log.info("checkpoint %s: step %d", loaded.name, self.step)
        return self.journal.entries(after_step=self.step)

    def begin_at(self, loaded: Loaded, ad_window: Path) -> None:
        """An untouched engine in memory becomes a checkpoint of another one, whose ad window is in that folder."""
        self._become(loaded)
        self.ad_window.adopt(ad_window, {int(k): v for k, v in loaded.meta["ad_window"].items()})

    def _become(self, loaded: Loaded) -> None:
        meta = loaded.meta
        if meta["fingerprint"] != self.fingerprint:
            raise StateError(
                f"checkpoint {loaded.name} was made with other features or networks (fingerprint "
                f"{meta['fingerprint']}, configured {self.fingerprint}): restore the configuration it was made "
                "with, or set state.folder to a new folder"
            )
        self.trainer.restore(loaded)
        self.step, self.clock = int(meta["step"]), int(meta["clock"])
        self.positions = Positions.from_json(meta["positions"])
        self.progress.restore(meta["progress"])
        self._saved_step = self.step

    def _check_journal(self) -> None:
        """A journal that ends before the checkpoint lost its last lines (power loss): it begins anew behind it."""
        last = self.journal.last_step()
        if last is not None and last < self.step:
            log.error(
                "the journal ends at step %d, the checkpoint is at step %d: the audit has a gap",
                last,
                self.step,
            )
            self.journal.truncate_after(-1)

    def redo(self, entry: JournalEntry, batch: Batch | None) -> StepResult | None:
        """Do a journaled step again, with the same rows.

        Each entry carries a digest of what the step before it predicted. Where it is not met, the machine did not
        compute the same: :attr:`first_difference` keeps the first such step.
        """
        if entry.step != self.step + 1:
            raise JournalDamagedError(
                f"journal: step {entry.step} follows step {self.step}; steps between them are missing"
            )
        told = entry.extra.get("before")
        if None not in (told, self._digest) and told != self._digest and self.first_difference is None:
            self.first_difference = self.step
            log.error(
                "step %d, done again, predicts otherwise than it did: see docs/guarantees.md", self.step
            )
        step = None if batch is None else Step(StepKind(entry.kind), batch, entry.clock)
        return self._apply(entry, step)

    def reset_positions(self, positions: Positions, choice: str) -> None:
        """Give up the journal's tail past the checkpoint and go on elsewhere in the log; the journal says so."""
        self.journal.truncate_after(self.step)
        entry = self._entry(EntryKind.RESET, (), self.clock, choice=choice, positions=positions.to_json())
        self._append(entry)
        self._apply(entry, None)

    # -- protocol 1: a step

    def run(self, step: Step) -> StepResult:
        """One live step.

        1. Journal: the plan is on disk before anything learns.
        2. Predict. 3. Score: the predictions go to the score log. 4. Learn.
        5. Advance the offsets in memory.

        Then whatever event time made due (new snapshots, a CPM release) and, if due, a checkpoint. Before the first
        step: whether the tiny model learns from here on.
        """
        self._switch_tpm()
        entry = self._entry(EntryKind(step.kind), step.parts, step.clock)
        self._append(entry)
        result = self._apply(entry, step)
        assert result is not None
        self._run_due()
        if self._checkpoint_due():
            self.checkpoint()
        return result

    def _switch_tpm(self) -> None:
        tiny = self.trainer.tiny
        if tiny is None or tiny.learns == self.live_tpm:
            return
        entry = self._entry(EntryKind.TPM, (), self.clock, **(tiny.plan(self.live_tpm) or {}))
        self._append(entry)
        self._apply(entry, None)

    def _run_due(self) -> None:
        months = self.trainer.months_due(self.clock)
        if months is not None:
            entry = self._entry(EntryKind.MONTH, (), self.clock, months=list(months))
            self._append(entry)
            self._apply(entry, None)
        if self.trainer.release_due(self.clock) is not None:
            entry = self._entry(EntryKind.RELEASE, (), self.clock)
            self._append(entry)
            self._apply(entry, None)

    def _entry(self, kind: EntryKind, parts: tuple[Part, ...], clock: int, **extra: Any) -> JournalEntry:
        if self._digest is not None:
            extra["before"] = self._digest
        return JournalEntry(self.step + 1, kind, parts, clock, extra)

    def _append(self, entry: JournalEntry) -> None:
        self._until_room(f"journal: step {entry.step}", lambda: self.journal.append(entry))

    def _until_room(self, what: str, write: Callable[[], None]) -> None:
        """Write something without which no row may be learned or forgotten; a full disk is waited for.

        ``write`` does all or nothing. Only :meth:`stop_waiting` ends the wait, with the error.
        """
        wait, waited = 0.1, False
        while True:
            try:
                write()
                if waited:
                    self.progress.last_error = None
                    log.info("%s written: training goes on", what)
                return
            except (OSError, StateError) as error:
                waited = True
                self.progress.last_error = f"{what}: {error}"
                log.error("%s cannot be written (%s): waiting for room", what, error)
                if self._no_waiting:
                    raise
                time.sleep(wait)
                wait = min(2 * wait, 2.0)

    def stop_waiting(self) -> None:
        """A write that waits for room on the disk fails, as does every later one that would wait.

        May be called from any thread and from a signal handler.
        """
        self._no_waiting = True

    def _apply(self, entry: JournalEntry, step: Step | None) -> StepResult | None:
        result: StepResult | None = None
        if entry.kind == EntryKind.RELEASE:
            report = self.trainer.release(entry.clock)
            self.releases.append(report)
            if report.accepted:
                self.progress.releases += 1
                self.progress.released.append(report.clock_ms)
            else:
                self.progress.refused.append(report.clock_ms)
            log.log(logging.INFO if report.accepted else logging.WARNING, "CPM release %s", report)
            trim_memory()  # the ad window's rows and the copies that the gate wanted
        elif entry.kind == EntryKind.RESET:
            self.positions = Positions.from_json(entry.extra["positions"])
        elif entry.kind == EntryKind.MONTH:
            self.trainer.use_months(tuple(entry.extra["months"]))
        elif entry.kind == EntryKind.TPM:
            if self.trainer.tiny is None:
                raise StateError("the journal lets the tiny model learn, and this engine has none")
            self.trainer.tiny.switch(bool(entry.extra["learns"]), entry.extra.get("from"))
        elif step is None:
            raise ValueError(f"step {entry.step} ({entry.kind}) needs its rows")
        else:
            batch = step.batch
            result = self.trainer.step(step)
            self._digest = _digest(result)
            if result.skipped is None:
                self._record(batch, result)
                self.progress.rows[step.kind] += result.n
            else:
                self.progress.skipped_rows += len(batch)
                if self.score_skipped:
                    self._record(batch, replace(result, scores={}))
                log.error("step %d rolled back: %s", entry.step, result.skipped)
                if self.on_skipped is not None:
                    self.on_skipped(batch, result.skipped)
        self.step = entry.step
        self.clock = max(self.clock, entry.clock)
        self.positions.advance(entry.parts)
        return result

    def _record(self, batch: Batch, result: StepResult) -> None:
        if not len(result.scored):
            return
        rows = batch if len(result.scored) == len(batch) else batch.take(result.scored)
        columns = {
            **rows.columns(ROW_COLUMNS),
            "label": rows.label.astype(np.uint8),
            **{f"p_{arm}": p for arm, p in result.scores.items()},
            **(
                {} if rows.notes is None else {n: rows.notes[n] for n in self.scores.notes if n in rows.notes}
            ),
            **({} if self.note is None else self.note(rows)),
        }
        self._until_room("score log", lambda: self.scores.append(columns))

    def idle(self) -> None:
        """Called while no step waits: what was learned last still becomes durable in time."""
        if self._checkpoint_due():
            self.checkpoint()

    # -- protocol 2: a checkpoint

    def _checkpoint_due(self) -> bool:
        steps = self.step - self._saved_step
        return steps >= self.settings.checkpoint_every_steps or (
            steps > 0 and time.monotonic() - self._saved_at >= self.settings.checkpoint_every_s
        )

    def checkpoint(self, *, wait: bool = False) -> None:
        """Capture the state between two steps, and write it beside training.

        1. The previous save has ended (if not, this one is put off; with ``wait`` it is waited for).
        2. Capture: rows touched since the last capture and dense tensors are copied. This is the whole stall.
        3. In the saving thread: the snapshots of TPM months closed before, score log and ad window to disk, then the
           store's own protocol (write aside, fsync, rename, fsync the folder).
        4. Publish the offsets; begin a new journal file; drop what no kept checkpoint needs.

        A save that fails (a full disk) is reported and tried again at the next turn; its rows are not lost, the
        store keeps them.
        """
        if self._saving is not None and not self._saving.done() and not wait:
            return
        self._finish_save()
        if self.step == self._saved_step:
            return
        began = time.perf_counter()
        capture = self.trainer.capture()
        scores, window = self.scores.sizes(), self.ad_window.sizes()
        capture.meta.update(
            step=self.step,
            clock=self.clock,
            positions=self.positions.to_json(),
            fingerprint=self.fingerprint,
            scores={str(k): v for k, v in scores.items()},
            ad_window={str(k): v for k, v in window.items()},
            progress=self.progress.durable(),
        )
        self.journal.rotate()
        self._saved_step, self._saved_at = self.step, time.monotonic()
        self.progress.stall_s_max = max(self.progress.stall_s_max, time.perf_counter() - began)
        self._saving = self._saver.submit(self._save, capture, Positions(self.positions))
        if wait:
            self._finish_save()

    def _save(self, capture: Capture, positions: Positions) -> CheckpointInfo:
        capture.rows = merge_rows([*self._owed, capture.rows])
        self._owed = [capture.rows]
        if self.trainer.tiny is not None:
            self.trainer.tiny.settle()
        self.journal.sync()  # before the checkpoint that builds on it: a journal must never be behind
        self.scores.flush(fsync=True)
        self.ad_window.flush(fsync=True)
        self._owed = []  # the store keeps them, if it fails itself
        info = self.checkpoints.save(capture)
        if self.on_checkpoint is not None:
            self.on_checkpoint(positions)
        trim_memory()
        return info

    def _finish_save(self) -> None:
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        try:
            saving.result()
        except (StateError, OSError) as error:
            self.progress.checkpoint_failures += 1
            self.progress.last_error = f"checkpoint: {error}"
            log.error("checkpoint not written (%s): training goes on, the next one includes its rows", error)
            return
        self.progress.checkpoints += 1
        if self.progress.last_error and self.progress.last_error.startswith("checkpoint"):
            self.progress.last_error = None
        try:
            self._drop_old()
        except (StateError, OSError) as error:  # what is left is dropped at a later checkpoint
            log.error("old state was not removed (%s): training goes on", error)

    def _drop_old(self) -> None:
        kept = self.checkpoints.list()
        if not kept:
            return
        oldest = min(info.step for info in kept)
        keep_from = self.clock - int(self.settings.journal_keep_days * DAY_MS)
        self.journal.drop_before(oldest, keep_from)
        # A kept checkpoint may name days that newer ones no longer do: drop only behind the oldest one's clock.
        day = min(int(info.meta["clock"]) for info in kept) // DAY_MS
        self.scores.drop_before(day - self.settings.score_days)
        self.ad_window.drop_unused({int(d): n for d, n in info.meta["ad_window"].items()} for info in kept)

    def close(self, *, checkpoint: bool = True) -> None:
        """Write a last checkpoint (unless told not to) and let go of all files."""
        try:
            if checkpoint:
                self.checkpoint(wait=True)
            self._finish_save()
        finally:
            self._saver.shutdown(wait=True)
            if self.trainer.tiny is not None:
                self.trainer.tiny.sink.close()
            self.journal.close()
            self.scores.close()
            self.ad_window.close()


def _digest(result: StepResult) -> str:
    """Eight hex digits of everything that a step predicted and lost, to the last bit."""
    crc = 0
    for name in sorted(result.loss):
        crc = crc32c(struct.pack("<d", result.loss[name]), crc)
    for name in sorted(result.scores):
        crc = crc32c(np.ascontiguousarray(result.scores[name]).tobytes(), crc)
    return f"{crc:08x}"


def audit(entries: Iterator[JournalEntry], ends: dict[tuple[str, int], int]) -> tuple[int, int]:
    """Offsets that the journal's steps left out, and offsets that they counted twice.

    Parameters
    ----------
    entries
        The whole journal, from step 0.
    ends
        True end offset of every partition; partitions are taken to begin at 0.

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
