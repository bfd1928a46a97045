"""``Engine``: runs a trainer with a journal and checkpoints, so that each row is learned exactly once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.step import Step, StepKind
from ecdctr.events.time import DAY_MS
from ecdctr.models.training.progress import Progress
from ecdctr.models.training.recorded_inputs import RecordedInputs
from ecdctr.models.training.trainer import ReleaseReport, StepResult, Trainer
from ecdctr.models.training.waiting_writes import WaitingWrites
from ecdctr.state.checkpoints import Capture, CheckpointInfo, CheckpointStoreLike, Loaded, Rows, merge_rows
from ecdctr.state.errors import JournalDamagedError, StateError
from ecdctr.state.journals import EntryKind, JournalEntry, JournalLike
from ecdctr.state.malloc import trim_memory
from ecdctr.state.positions import LogIdentity, LogOrigin, Part, Positions
from ecdctr.state.row_logs import ROW_COLUMNS, AdWindow, ScoreLog
from ecdctr.state.settings import StateSettings

__all__ = ["Engine"]

log = logging.getLogger("ecdctr.engine")


class Engine:
    """Runs steps that are journaled first, and writes checkpoints in the background.

    Not thread-safe: one thread owns it. Checkpoints are written by another thread, from a captured copy.

    Parameters
    ----------
    trainer, journal, checkpoints, scores, ad_window
        The trainer and the stores of its state.
    settings
        Intervals of checkpoints, and retention.
    fingerprint
        Identifies the features and networks; a checkpoint with another fingerprint is refused.
    live_tpm
        Whether the tiny model (TPM) learns from the natural rows of the stream. Each change is a journal entry.
    on_checkpoint
        Called in the saving thread with the positions of a checkpoint that is durable.
    on_skipped
        Called with the batch of a step of which rows could not be learned, their positions, and the reason. Also called while steps
        are redone, since the process may have died between the step and this call.
    score_skipped
        Whether such rows are written to the score log without scores (NaN), so that engines which run the same steps have the same
        rows in their logs.
    note
        Computes further columns of the score log that depend on the models when a row is scored. The notes of the batch
        (:attr:`Batch.notes`) are always written if the log has columns for them.
    inputs
        The settings that determine the rows of a step, by key (:class:`~ecdctr.models.training.recorded_inputs.RecordedInputs`).

    Attributes
    ----------
    positions, identity
        Next offset of each partition, and the log to which these offsets belong. ``identity`` is updated first.
    origin
        The log from which live steps come; None: its identity is unknown.
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
        on_skipped: Callable[[Batch, NDArray[np.intp], str], None] | None = None,
        score_skipped: bool = False,
        note: Callable[[Batch], Mapping[str, NDArray[Any]]] | None = None,
        live_tpm: bool = False,
        inputs: Mapping[str, Any] | None = None,
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
        self.identity = LogIdentity()
        self.inputs = RecordedInputs(inputs)
        self.origin: LogOrigin | None = None
        self.progress = Progress()
        self.releases: list[ReleaseReport] = []
        self.first_difference: int | None = None
        self._digest: str | None = None
        self._writes = WaitingWrites(self.progress)
        trainer.run_write = lambda write: self._writes.run("ad window", write)
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[CheckpointInfo] | None = None
        # Rows of captures that did not reach the store; only the saving thread uses it.
        self._unsaved: list[Rows] = []
        self._saved_step = -1
        self._saved_at = time.monotonic()

    def bind_thread(self) -> None:
        """Call in the thread that will run the steps, because torch's number of threads is set per calling thread."""
        if self.trainer.model.threads:
            torch.set_num_threads(self.trainer.model.threads)

    # -- protocol 3: recovery

    def recover(self) -> Iterator[JournalEntry]:
        """Restore the newest undamaged checkpoint and return the journal entries that must be redone.

        1. Load the newest checkpoint whose checksums are correct; damaged ones are reported and skipped.
        2. Truncate the score log and the ad window to the sizes that are recorded in it.
        3. Yield the later entries of the journal, in order; the caller fetches their rows and calls :meth:`redo`. An entry whose rows
           the configured inputs would decode differently is an error.
        4. After the last entry the state is the same as before the crash. Live training continues at :attr:`positions`.

        Raises
        ------
        StateError
            There is no undamaged checkpoint and the journal does not begin at step 0, or there is none and all checkpoints are
            damaged: a new model is not begun by itself. Also if the checkpoint has another fingerprint or format.
        """
        loaded = self.checkpoints.newest()
        for name, reason in self.checkpoints.damaged:
            log.error(
                "checkpoint %s is damaged (%s): it is skipped and retained; an older one is used",
                name,
                reason,
            )
        if loaded is None:
            first = self.journal.first_step()
            if first is None and self.checkpoints.damaged:
                raise StateError(
                    f"no checkpoint in {self.settings.folder} is whole, and there is no journal to repeat all steps: restore a "
                    "checkpoint folder, or move the state folder aside to begin a new model"
                )
            if first not in (None, 0):
                raise StateError(
                    f"no whole checkpoint in {self.settings.folder}, and the journal begins at step {first}, not 0: "
                    "restore a checkpoint folder, or move the state folder aside to start without a state"
                )
            self.scores.truncate({})
            self.ad_window.truncate({})
        else:
            self._load(loaded)
            self.scores.truncate({int(k): v for k, v in loaded.meta["scores"].items()})
            self.ad_window.truncate({int(k): v for k, v in loaded.meta["ad_window"].items()})
            self._check_journal()
            if self.inputs.recorded is None:
                self.inputs.check_old(self.journal.entries())
            log.info("checkpoint %s: step %d", loaded.name, self.step)
        return self.inputs.checked(self.journal.entries(after_step=self.step))

    def begin_at(self, loaded: Loaded, ad_window: Path) -> None:
        """Load a checkpoint of another engine, whose ad window is in the folder ``ad_window``, into this new engine in memory."""
        self._load(loaded)
        self.ad_window.copy_from(ad_window, {int(k): v for k, v in loaded.meta["ad_window"].items()})

    def _load(self, loaded: Loaded) -> None:
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
        self.identity = LogIdentity.from_json(meta.get("log"))
        self.inputs.apply(meta)
        self.progress.restore(meta["progress"])
        self._saved_step = self.step

    def _check_journal(self) -> None:
        """Empty a journal that ends before the checkpoint, because its last lines were lost (power loss).

        It continues after the checkpoint.
        """
        last = self.journal.last_step()
        if last is not None and last < self.step:
            log.error(
                "the journal ends at step %d and the checkpoint is at step %d: the audit has a gap",
                last,
                self.step,
            )
            self.journal.truncate_after(-1)

    def redo(self, entry: JournalEntry, batch: Batch | None) -> StepResult | None:
        """Repeat a journaled step with the same rows; returns the result of a step that learns.

        Each entry has a digest of the predictions of the step before it. If that step now has another digest, this machine computes
        differently: :attr:`first_difference` is the first such step.

        Raises
        ------
        JournalDamagedError
            The entry does not follow the previous step.
        """
        if entry.step != self.step + 1:
            raise JournalDamagedError(
                f"journal: step {entry.step} follows step {self.step}; steps between them are missing"
            )
        recorded = entry.extra.get("before")
        if (
            None not in (recorded, self._digest)
            and recorded != self._digest
            and self.first_difference is None
        ):
            self.first_difference = self.step
            log.error(
                "step %d predicts differently than before when it is redone: see docs/guarantees.md",
                self.step,
            )
        step = None if batch is None else Step(StepKind(entry.kind), batch, entry.clock)
        return self._apply(entry, step)

    def reset_positions(self, positions: Positions, choice: str) -> None:
        """Discard the journal after the checkpoint and continue at other positions of the log, recorded by a journal entry."""
        self.journal.truncate_after(self.step)
        log = {} if self.origin is None else LogIdentity(self.origin.topic_ids).to_json()
        entry = self._entry(
            EntryKind.RESET, (), self.clock, choice=choice, positions=positions.to_json(), log=log
        )
        self._append(entry)
        self._apply(entry, None)

    # -- protocol 1: a step

    def run(self, step: Step) -> StepResult:
        """Run one live step.

        1. Journal: the plan is on disk before anything is learned.
        2. Predict. 3. Score: the predictions are written to the score log. 4. Learn.
        5. Advance the offsets in memory.

        A change of TPM snapshots, a CPM release and a checkpoint follow if they are due. Before the first step, a journal entry
        records whether the tiny model learns from then on.
        """
        self._switch_tpm()
        entry = self._entry(EntryKind(step.kind), step.parts, step.clock, len(step.batch))
        self._append(entry)
        result = self._apply(entry, step)
        assert result is not None
        self._run_due()
        if self._checkpoint_due():
            self.checkpoint()
        return result

    def _switch_tpm(self) -> None:
        tpm = self.trainer.live_tpm
        if tpm is None or tpm.learns == self.live_tpm:
            return
        entry = self._entry(EntryKind.TPM, (), self.clock, **(tpm.plan(self.live_tpm) or {}))
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

    def _entry(
        self, kind: EntryKind, parts: tuple[Part, ...], clock: int, rows: int | None = None, **extra: Any
    ) -> JournalEntry:
        if self._digest is not None:
            extra["before"] = self._digest
        extra |= self.identity.journaled(parts, self.origin)
        extra.update(self.inputs.change())
        return JournalEntry(self.step + 1, kind, parts, clock, extra, rows)

    def _append(self, entry: JournalEntry) -> None:
        self._writes.run(f"journal: step {entry.step}", lambda: self.journal.append(entry))

    def stop_waiting(self) -> None:
        """Let a write that waits for disk space fail, and every later one that would wait.

        May be called in any thread and in a signal handler.
        """
        self._writes.stop_waiting()

    def _apply(self, entry: JournalEntry, step: Step | None) -> StepResult | None:
        result: StepResult | None = None
        if entry.kind == EntryKind.RELEASE:
            self.progress.busy = "training: a CPM release is being made"
            report = self.trainer.release(entry.clock)
            self.progress.busy = None
            self.releases.append(report)
            if report.accepted:
                self.progress.releases += 1
                self.progress.released.append(report.clock_ms)
            else:
                self.progress.refused.append(report.clock_ms)
            log.log(logging.INFO if report.accepted else logging.WARNING, "CPM release %s", report)
            trim_memory()  # of the ad window's rows and of the gate's copies
        elif entry.kind == EntryKind.RESET:
            self.identity = LogIdentity()
            self.positions = Positions.from_json(entry.extra["positions"])
        elif entry.kind == EntryKind.MONTH:
            self.trainer.use_months(tuple(entry.extra["months"]))
        elif entry.kind == EntryKind.TPM:
            if self.trainer.live_tpm is None:
                raise StateError(
                    "the journal changes the training of the tiny model (TPM), but this engine has none: set tpm.live"
                )
            self.trainer.live_tpm.switch(bool(entry.extra["learns"]), entry.extra.get("from"))
        elif step is None:
            raise ValueError(f"step {entry.step} ({entry.kind}) needs its rows")
        else:
            batch = step.batch
            result = self.trainer.step(step)
            self._digest = result.digest()
            self.progress.rows[step.kind] += result.n
            if result.skipped is None:
                self._record(batch, result.scored, result.scores)
            else:
                self._record_part(batch, result)
                self.progress.skipped_rows += len(result.lost)
                log.error(
                    "step %d: %d of %d rows were not learned: %s",
                    entry.step, len(result.lost), len(batch), result.skipped,
                )  # fmt: skip
                if self.on_skipped is not None:
                    self.on_skipped(batch, result.lost, result.skipped)
        self.step = entry.step
        self.clock = max(self.clock, entry.clock)
        self.identity.apply(entry.extra.get("log", {}))
        self.inputs.apply(entry.extra)
        self.positions.advance(entry.parts)
        return result

    def _record_part(self, batch: Batch, result: StepResult) -> None:
        """Write the scores of a step of which rows were lost: those without scores, or not at all."""
        if not self.score_skipped:
            self._record(*result.learned(batch))
        else:
            lost = np.isin(result.scored, result.lost)
            scores = {arm: np.where(lost, np.float32(np.nan), p) for arm, p in result.scores.items()}
            self._record(batch, result.scored, scores)

    def _record(
        self, batch: Batch, scored: NDArray[np.intp], scores: Mapping[str, NDArray[np.float32]]
    ) -> None:
        if not len(scored):
            return
        rows = batch if len(scored) == len(batch) else batch.take(scored)
        columns = {
            **rows.columns(ROW_COLUMNS),
            "label": rows.label.astype(np.uint8),
            **{f"p_{arm}": p for arm, p in scores.items()},
            **(
                {} if rows.notes is None else {n: rows.notes[n] for n in self.scores.notes if n in rows.notes}
            ),
            **({} if self.note is None else self.note(rows)),
        }
        self._writes.run("score log", lambda: self.scores.append(columns))

    def idle(self) -> None:
        """Write a checkpoint if one is due. Call it while no step is queued, so that the last steps become durable in time."""
        if self._checkpoint_due():
            self.checkpoint()

    # -- protocol 2: a checkpoint

    def _checkpoint_due(self) -> bool:
        steps = self.step - self._saved_step
        return steps >= self.settings.checkpoint_every_steps or (
            steps > 0 and time.monotonic() - self._saved_at >= self.settings.checkpoint_every_s
        )

    def checkpoint(self, *, wait: bool = False) -> None:
        """Capture the state between two steps, and write it in the background.

        1. If the previous save is still running, postpone this one (with ``wait``: wait for it).
        2. Capture: copy the dense tensors and the rows that changed since the last capture. Training pauses only for this.
        3. In the saving thread: write the snapshots of TPM months that closed before, the score log and the ad window, then follow
           the store's own protocol (write aside, fsync, rename, fsync the folder).
        4. Publish the offsets; begin a new journal file; remove what no retained checkpoint needs.

        A failed save (full disk) is reported and repeated at the next checkpoint, whose rows include those of this one.
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
            log=self.identity.to_json(),
            fingerprint=self.fingerprint,
            scores={str(k): v for k, v in scores.items()},
            ad_window={str(k): v for k, v in window.items()},
            progress=self.progress.durable(),
        )
        if self.inputs.recorded is not None:
            capture.meta["inputs"] = self.inputs.recorded
        self.journal.rotate()
        self._saved_step, self._saved_at = self.step, time.monotonic()
        self.progress.stall_s_max = max(self.progress.stall_s_max, time.perf_counter() - began)
        self._saving = self._saver.submit(self._save, capture, Positions(self.positions))
        if wait:
            self._finish_save()

    def _save(self, capture: Capture, positions: Positions) -> CheckpointInfo:
        capture.rows = merge_rows([*self._unsaved, capture.rows])
        self._unsaved = [capture.rows]
        if self.trainer.live_tpm is not None:
            self.trainer.live_tpm.settle()
        self.journal.sync()  # before the checkpoint that builds on it: a journal must never be behind
        self.scores.flush(fsync=True)
        self.ad_window.flush(fsync=True)
        self._unsaved = []  # the store retains them if it fails itself
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
            log.error(
                "checkpoint not written (%s): training continues, the next one includes its rows", error
            )
            return
        self.progress.checkpoints += 1
        if self.progress.last_error and self.progress.last_error.startswith("checkpoint"):
            self.progress.last_error = None
        try:
            self._drop_old()
        except (StateError, OSError) as error:  # a later checkpoint removes it
            log.error("old state was not removed (%s): training continues", error)

    def _drop_old(self) -> None:
        retained = self.checkpoints.list()
        if not retained:
            return
        oldest = min(info.step for info in retained)
        keep_from = self.clock - int(self.settings.journal_keep_days * DAY_MS)
        self.journal.drop_before(oldest, keep_from)
        # An old checkpoint may need days that newer ones do not: nothing after the oldest one's clock is removed.
        day = min(int(info.meta["clock"]) for info in retained) // DAY_MS
        self.scores.drop_before(day - self.settings.score_days)
        self.ad_window.drop_unused(
            {int(d): n for d, n in info.meta["ad_window"].items()} for info in retained
        )

    def close(self, *, checkpoint: bool = True) -> None:
        """Write a last checkpoint (unless ``checkpoint`` is False) and close all files."""
        try:
            if checkpoint:
                self.checkpoint(wait=True)
            self._finish_save()
        finally:
            self._saver.shutdown(wait=True)
            if self.trainer.live_tpm is not None:
                self.trainer.live_tpm.sink.close()
            self.journal.close()
            self.scores.close()
            self.ad_window.close()
