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
"""Rows of a chunk when batch norm is re-estimated: enough for a chunk's statistics to be close to the domain's."""


@dataclass(frozen=True, slots=True)
class ReleaseReport:
    """The result of a release.

    Attributes
    ----------
    number
        Version of the new A-CTR, 1 for the first; of a refused release, the version that it would have had.
    clock_ms, boundary_ms
        Event clock at the release, and its scheduled time.
    months
        TPM snapshots that the new A-CTR reads.
    rows_copied
        Embedding rows that CPM or A-CTR had changed since the previous release.
    window_rows
        Ad rows in the window.
    bias_shift
        Change of the output bias by the calibration (log-odds).
    loss_before, loss_after
        Mean loss over the window: of the calibrated model before fine-tuning, and during fine-tuning, each row
        before it was learned. NaN with an empty window.
    skipped_rows
        Window rows whose fine-tuning step was rolled back (loss not finite or exploded).
    accepted
        Whether the new version serves.
    reason
        The reason, in a sentence; empty without a gate.
    figures
        The figures behind the decision: name -> value.
    seconds
        Wall time.
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
        verdict = "accepted" if self.accepted else "REFUSED, the previous version continues to serve"
        return f"; {verdict}: {self.reason}{f' ({figures})' if figures else ''}"

    def judged(self, verdict: Verdict) -> ReleaseReport:
        """The report with the gate's verdict."""
        return replace(self, accepted=verdict.accepted, reason=verdict.reason, figures=verdict.figures)


class Transfer:
    """The steps of a release, from ``source`` (CPM) to ``target`` (A-CTR).

    Parameters
    ----------
    source, target
        Arms with equal networks; their embedding rows differ only where either has changed them since the previous release.
    encoder
        Encoder of their features.
    window
        Ad rows to estimate, calibrate and fine-tune on.
    reset_batch_norm
        Batch norm is reset (the paper) instead of copied from CPM.
    fine_tune
        Whether to learn the window.
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
        assert self._backup is not None, "commit follows begin"
        self._backup.forget()
        self._backup = None

    def rollback(self) -> None:
        """Restore the target as of :meth:`begin`, bit for bit; the copied rows are pending again for the next release."""
        assert self._backup is not None, "rollback follows begin"
        self._backup.revert()
        self._backup = None
        for table, index in zip(self.target.tables, self._copied, strict=True):
            table.unreleased.take()  # other rows that fine-tuning changed are restored
            table.unreleased.mark(index)

    def adapt(self, report: ReleaseReport, evidence: Evidence | None = None) -> ReleaseReport:
        """After :meth:`load`: :meth:`estimate_batch_norm`, :meth:`calibrate` and :meth:`fine_tune`, as configured.

        ``evidence`` collects the target's predictions for the last days of the window: of each chunk before it is learned, or
        without learning where fine-tuning is disabled.
        """
        began = time.perf_counter()
        rows = len(self._window)
        shift, before, after, skipped = 0.0, math.nan, math.nan, 0
        if rows:
            if self._reset:
                self.estimate_batch_norm()
            shift, before = self.calibrate()
            if self._fine_tune:
                after, skipped = self.fine_tune(evidence)
            elif evidence is not None:
                for columns, prepared in self._read(PREDICT_ROWS, evidence.first_day):
                    evidence.add(columns, self.target.predict_chunk(prepared))
        elif self._reset:
            # There are no rows to estimate from, and with the default batch norm the network would be useless.
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
        """Make the target equal to the source, except batch norm, which is set to its default.

        Batch norm: weight 1, bias 0, running mean 0, running variance 1, counter 0. Only rows that either side
        has changed since the previous release are copied: the others are equal already. The target's optimisers are reset,
        Adam as well as the rows' accumulators: their statistics belong to gradients of parameters that were replaced, and a
        row that CPM has learned often must still be able to move towards the ad clicks.

        Returns
        -------
        int
            Rows copied.
        """
        source, target = self.source, self.target
        self._copied = []
        for ours, theirs in zip(source.tables, target.tables, strict=True):
            index = np.union1d(ours.unreleased.take(), theirs.unreleased.take())
            at = torch.from_numpy(index).to(target.device)
            if theirs.backup is not None:
                theirs.backup.save(index)
            theirs.weight.index_copy_(0, at, ours.weight.index_select(0, at))
            theirs.accumulator.index_fill_(0, at, theirs.initial_accumulator)
            theirs.unsaved.mark(index)
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
        theirs = dict(self.source.net.named_buffers())
        for name, buffer in self.target.net.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.copy_(theirs[name])

    def estimate_batch_norm(self) -> None:
        """Set the running statistics to the average over the window's chunks, weighted by their rows."""
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
        """Shift the output bias until the window's mean prediction is its click rate.

        Natural content is clicked more often than ads; this removes the difference of the priors before the first score.

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
        """Learn the window once, oldest rows first, no remainder dropped; rows that ``evidence`` collects are predicted first.

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
        """The window in chunks: the columns, and the same rows as input of the target."""
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
    """The ``b`` for which ``mean(sigmoid(z + b))`` is the rate of clicks, by Newton's method.

    Half a click and half a non-click are added, so that a window without either has a finite answer.

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
        # Far from the solution the slope vanishes; bounded steps return.
        step = float(np.clip(gap / max(slope, 1e-12), -2.0, 2.0))
        b -= step
        if abs(step) < 1e-10:
            break
    return b
