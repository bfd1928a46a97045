"""CPM release: the transfer of CPM to a new version of A-CTR."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ecdctr.events.batch import AD, Batch
from ecdctr.models.arms import PREDICT_ROWS, NetworkArm, Prepared
from ecdctr.models.nets import BatchNorm, InputEncoder
from ecdctr.models.probability import sigmoid
from ecdctr.models.training.gate import Evidence, Verdict
from ecdctr.models.training.rollback import ArmBackup
from ecdctr.state.row_logs import AdWindow

__all__ = ["ReleaseReport", "Transfer"]

ESTIMATE_ROWS = 1024
"""Chunk size, in rows, for re-estimating batch norm: large enough that the statistics of a chunk are close to those of all
ad rows."""


@dataclass(frozen=True, slots=True)
class ReleaseReport:
    """The result of a release.

    Attributes
    ----------
    number
        Version number of the new A-CTR, counted from 1. A refused release has the number that it would have received; the
        next release has the same number.
    clock_ms, boundary_ms
        Event clock at the release, and the event time at which the release was scheduled.
    months
        TPM snapshots that the new A-CTR reads.
    rows_copied
        Embedding rows that CPM or A-CTR had changed since the previous release.
    window_rows
        Ad rows in the window.
    bias_shift
        Change of the output bias by the calibration (log-odds).
    loss_before, loss_after
        Mean loss of the calibrated model on the window before fine-tuning, and mean loss during fine-tuning, where each row
        is evaluated before it is learned. NaN if the window is empty; ``loss_after`` also if fine-tuning is disabled or every
        step was rolled back.
    skipped_rows
        Window rows whose fine-tuning step was rolled back (see :meth:`NetworkArm.compute`).
    accepted
        Whether the new version replaces the previous one.
    reason
        Why the gate accepted or refused the release, in one sentence; empty if there is no gate.
    figures
        Metric values on which the gate based its decision, by name.
    seconds
        Wall time of calibration and fine-tuning (:meth:`Transfer.adapt`); copying the parameters and the gate are not
        included.
    """

    number: int
    clock_ms: int
    boundary_ms: int
    months: tuple[str, ...]
    rows_copied: int = 0
    window_rows: int = 0
    bias_shift: float = 0.0
    loss_before: float = math.nan
    loss_after: float = math.nan
    skipped_rows: int = 0
    accepted: bool = True
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.clock_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        return (
            f"{self.number} at {when} (event time): {self.rows_copied:,} rows copied, TPM months "
            f"{', '.join(self.months) or 'none'}, {self.window_rows:,} ad rows, bias {self.bias_shift:+.3f}, "
            f"log loss {self.loss_before:.4f} -> {self.loss_after:.4f}, {self.seconds:.2f} s{self._verdict()}"
        )

    def _verdict(self) -> str:
        if not self.reason:
            return ""
        figures = ", ".join(f"{name} {value:+.5g}" for name, value in self.figures.items())
        verdict = "accepted" if self.accepted else "REFUSED, A-CTR is unchanged"
        return f"; {verdict}: {self.reason}{f' ({figures})' if figures else ''}"

    def with_verdict(self, verdict: Verdict) -> ReleaseReport:
        """The report with the gate's verdict."""
        return replace(self, accepted=verdict.accepted, reason=verdict.reason, figures=verdict.figures)


class Transfer:
    """Performs a release: transfers the parameters of ``source`` (CPM) to ``target`` (A-CTR).

    Parameters
    ----------
    source, target
        Arms with the same network architecture. Embedding rows that neither arm has changed since the previous release are
        equal in both.
    encoder
        Encodes the rows of the window for both arms.
    window
        Ad rows on which batch norm is estimated, the output bias is calibrated, and the target is fine-tuned.
    reset_batch_norm
        Whether batch norm is reset, as in the paper, instead of copied from CPM.
    fine_tune
        Whether to fine-tune the target on the window.
    """

    def __init__(
        self,
        source: NetworkArm,
        target: NetworkArm,
        encoder: InputEncoder,
        window: AdWindow,
        *,
        reset_batch_norm: bool,
        fine_tune: bool,
    ) -> None:
        self.source, self.target = source, target
        self._encoder, self._window = encoder, window
        self._reset, self._fine_tune = reset_batch_norm, fine_tune
        self._backup: ArmBackup | None = None
        self._copied: list[NDArray[np.int64]] = []

    def begin(self) -> None:
        """Start a release that :meth:`commit` accepts or :meth:`rollback` undoes."""
        self._backup = ArmBackup(self.target)

    def commit(self) -> None:
        """Accept the release."""
        assert self._backup is not None, "commit() was called without begin()"
        self._backup.forget()
        self._backup = None

    def rollback(self) -> None:
        """Restore the state that the target had at :meth:`begin`, bit for bit.

        The copied rows are marked as unreleased again, so that the next release copies them.
        """
        assert self._backup is not None, "rollback() was called without begin()"
        self._backup.revert()
        self._backup = None
        for table, index in zip(self.target.tables, self._copied, strict=True):
            # Discard all marks: rows that only fine-tuning changed have been restored and need not be copied.
            table.unreleased.take()
            table.unreleased.mark(index)

    def adapt(self, report: ReleaseReport, evidence: Evidence | None = None) -> ReleaseReport:
        """Adapt the loaded target to ads. Call it after :meth:`load`.

        Runs :meth:`estimate_batch_norm` (if batch norm was reset), :meth:`calibrate`, and :meth:`fine_tune` (if enabled). If
        the window is empty, or all of its rows are damaged, none of them runs, and CPM's batch norm is copied if it had been reset.

        ``evidence`` collects the target's predictions for the last days of the window. With fine-tuning, each chunk is
        predicted before it is learned; without it, the chunks are only predicted.
        """
        began = time.perf_counter()
        rows = len(self._window)
        shift, before, after, skipped = 0.0, math.nan, math.nan, 0
        if next(self._window.chunks(1), None) is not None:
            if self._reset:
                self.estimate_batch_norm()
            shift, before = self.calibrate()
            if self._fine_tune:
                after, skipped = self.fine_tune(evidence)
            elif evidence is not None:
                for columns, prepared in self._read(PREDICT_ROWS, evidence.first_day):
                    evidence.add(columns, self.target.predict_chunk(prepared))
        elif self._reset:
            # Without rows batch norm cannot be estimated, and its reset values would make the predictions useless.
            self.target.flat.values.data.copy_(self.source.flat.values.data)
            self._copy_buffers()
        return replace(
            report,
            window_rows=rows,
            bias_shift=shift,
            loss_before=before,
            loss_after=after,
            skipped_rows=skipped,
            seconds=time.perf_counter() - began,
        )

    def load(self) -> int:
        """Copy the source's parameters to the target and reset the target's optimisers.

        Batch norm is reset to its default values (weight 1, bias 0, running mean 0, running variance 1, counter 0), or
        copied if ``reset_batch_norm`` is false. Only embedding rows that either arm has changed since the previous release
        are copied; all others are already equal. Adam's moments and the Adagrad accumulators of the copied rows are reset:
        they describe gradients of parameters that have been replaced, and a large accumulator of a row that CPM has updated
        often would make its steps on ads too small.

        Returns
        -------
        int
            Rows copied.
        """
        source, target = self.source, self.target
        self._copied = []
        for source_table, target_table in zip(source.tables, target.tables, strict=True):
            index = np.union1d(source_table.unreleased.take(), target_table.unreleased.take())
            at = torch.from_numpy(index).to(target.device)
            if target_table.backup is not None:
                target_table.backup.save(index)
            target_table.weight.index_copy_(0, at, source_table.weight.index_select(0, at))
            target_table.accumulator.index_fill_(0, at, target_table.initial_accumulator)
            target_table.unsaved.mark(index)
            self._copied.append(index)
        n = source.flat.n_first
        target.flat.values.data[:n].copy_(source.flat.values.data[:n])
        target.flat.reset_adam()
        if self._reset:
            for module in target.net.modules():
                if isinstance(module, BatchNorm):
                    module.reset_parameters()  # affine part and running statistics
        else:
            target.flat.values.data[n:].copy_(source.flat.values.data[n:])
            self._copy_buffers()
        return sum(map(len, self._copied))

    def _copy_buffers(self) -> None:
        self.target.flat.buffers.copy_(self.source.flat.buffers)
        source_buffers = dict(self.source.net.named_buffers())
        for name, buffer in self.target.net.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.copy_(source_buffers[name])

    def estimate_batch_norm(self) -> None:
        """Set the running statistics to the average of the statistics of the window's chunks, weighted by their number of rows."""
        norms = [m for m in self.target.net.modules() if isinstance(m, BatchNorm)]
        before = [(norm.momentum, norm.running) for norm in norms]
        for norm in norms:
            norm.running = False
        total = 0
        with torch.no_grad():
            for prepared in self._chunks(ESTIMATE_ROWS):
                total += prepared.encoded.n
                for norm in norms:
                    norm.momentum = prepared.encoded.n / total
                rows = [
                    t.gather(r.at) for t, r in zip(self.target.tables, prepared.encoded.tables, strict=True)
                ]
                self.target.net(rows, prepared.encoded, prepared.history, training=True)
        for norm, (momentum, running) in zip(norms, before, strict=True):
            norm.momentum, norm.running = momentum, running

    def calibrate(self) -> tuple[float, float]:
        """Shift the output bias so that the mean prediction over the window equals the window's click rate.

        Natural content has a higher click rate than ads. The shift corrects the mean prediction before the new version makes
        its first prediction.

        Returns
        -------
        tuple of float
            The shift, and the mean loss after it.
        """
        logits, labels = [], []
        for prepared in self._chunks(PREDICT_ROWS):
            logits.append(self.target.logits(prepared).double().cpu().numpy())
            labels.append(prepared.encoded.label.double().cpu().numpy())
        z, y = np.concatenate(logits), np.concatenate(labels)
        shift = solve_shift(z, y)
        with torch.no_grad():
            self.target.net.out.bias.add_(shift)
        z = z + np.float64(np.float32(shift))
        return shift, float(np.mean(np.logaddexp(0.0, z) - y * z))

    def fine_tune(self, evidence: Evidence | None = None) -> tuple[float, int]:
        """Learn every row of the window once, including the last partial chunk.

        Rows are learned by event day, and within a day in the order of arrival. Chunks with rows that ``evidence`` collects
        are predicted before they are learned.

        Returns
        -------
        tuple
            Mean loss of the rows, each before it was learned, and the number of rows that were skipped because their step
            was rolled back.
        """
        total, learned, skipped = 0.0, 0, 0
        for columns, prepared in self._read(self.target.spec.batch):
            if evidence is not None and evidence.wants(columns):
                evidence.add(columns, self.target.predict_chunk(prepared))
            loss = self.target.learn_chunks([prepared])
            if math.isnan(loss):
                skipped += prepared.encoded.n
                continue
            total += loss * prepared.encoded.n
            learned += prepared.encoded.n
        return (total / learned if learned else math.nan), skipped

    def _chunks(self, rows: int) -> Iterator[Prepared]:
        for _, prepared in self._read(rows):
            yield prepared

    def _read(
        self, rows: int, first_day: int | None = None
    ) -> Iterator[tuple[dict[str, NDArray[Any]], Prepared]]:
        """Yield the window in chunks of ``rows`` rows: its columns, and the same rows encoded for the target."""
        for columns in self._window.chunks(rows, first_day):
            batch = Batch(
                ts=columns["ts"],
                domain=np.full(len(columns["ts"]), AD, np.uint8),
                user=columns["user"],
                item=columns["item"],
                features=columns["features"],
                dense=columns["dense"],
                label=columns["label"],
            )
            yield columns, self.target.prepare(self._encoder.encode(batch), batch)


def solve_shift(z: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The ``b`` for which ``mean(sigmoid(z + b))`` equals the click rate, by Newton's method.

    Half a click and half a non-click are added, so that the result is finite even if all rows, or none, are clicks.

    >>> z = np.array([-1.0, 0.5, 2.0, 0.0])
    >>> b = solve_shift(z, np.array([0.0, 0.0, 1.0, 0.0]))
    >>> round(float(np.mean(1 / (1 + np.exp(-z - b)))), 6)
    0.3
    """
    target = (y.sum() + 0.5) / (len(y) + 1.0)
    b = 0.0
    for _ in range(50):
        p = sigmoid(z + b)
        gap = float(np.mean(p) - target)
        slope = float(np.mean(p * (1.0 - p)))
        # Far from the solution the slope is almost 0 and a Newton step would be far too long: limit it to 2.
        step = float(np.clip(gap / max(slope, 1e-12), -2.0, 2.0))
        b -= step
        if abs(step) < 1e-10:
            break
    return b
