"""``Trainer``: predict, score, learn; the one step that live training and replay share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.step import Step
from ecdctr.models.arms import Arm, ArmContext, ArmInput, ArmState, NetworkArm, build_arms, select_arms
from ecdctr.models.nets import InputEncoder, choose_device, use_threads
from ecdctr.models.registry import SERVING, Milestone, entry_of
from ecdctr.models.serving import Scorer
from ecdctr.models.settings import ModelSettings, ScheduleSettings, TpmSettings
from ecdctr.models.tpm import LiveTpm
from ecdctr.models.training.gate import Evidence, Gate
from ecdctr.models.training.months import MonthReaders
from ecdctr.models.training.release import ReleaseReport, Transfer
from ecdctr.models.training.release_schedule import ReleaseSchedule
from ecdctr.models.training.saved_state import arms_meta, capture_arms, mark_unreleased, state_hash
from ecdctr.models.training.step_result import StepResult
from ecdctr.models.training.transaction import learn_in_all
from ecdctr.state.checkpoints import Capture, Loaded
from ecdctr.state.row_logs import AdWindow
from ecdctr.state.snapshots import EmbeddingStore

__all__ = ["ReleaseReport", "StepResult", "Trainer"]

log = logging.getLogger("ecdctr.trainer")

MIN_WINDOW_ROWS = 128
"""Minimum number of ad rows in the ad window at a scheduled release."""


class Trainer:
    """All arms of a configuration, trained by one stream of one-domain batches.

    The arms ``cpm``, ``actr`` and ``ads_only`` are those of the paper. ``model.transfer`` selects the arm whose
    predictions are served (see :class:`Scorer`); ``model.arms`` adds others for comparison. An arm that neither
    a setting nor another arm requires is not built (see :func:`select_arms`).

    No step draws a random number: the state is a function of the settings and of the batches in their order, for a
    given number of torch threads.

    Parameters
    ----------
    schema
        The features.
    model, schedule, tpm
        Settings.
    store
        TPM snapshots; None: no id has a history.
    ad_window
        Stores learned ad rows for releases; this trainer appends to it.
    device
        Overrides ``model.device``.
    gate
        Judges whether a release may serve; None: every release is accepted.
    live_tpm
        Trains TPM from the stream; None: TPM is not trained here.

    Attributes
    ----------
    arms
        By their own name, which is ``actr`` for the network that releases replace.
    selection
        Which arms run and which are scored.
    months
        Readers of the TPM snapshots.
    clock
        Youngest event time so far, ms.
    releases
        Number of accepted CPM releases: the version of A-CTR.
    until_room
        Performs a write to disk; an owner that can wait for space on a full disk replaces it.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        model: ModelSettings,
        schedule: ScheduleSettings,
        tpm: TpmSettings,
        store: EmbeddingStore | None,
        ad_window: AdWindow,
        device: str | None = None,
        *,
        gate: Gate | None = None,
        live_tpm: LiveTpm | None = None,
    ) -> None:
        use_threads(model.threads)
        self.device = choose_device(device or model.device)
        self.model, self.live_tpm = model, live_tpm
        self.ad_window = ad_window
        self.store = None if model.history == "none" else store
        self.encoder = InputEncoder(schema, self.device)
        self.schedule = ReleaseSchedule(schedule)
        self.selection = select_arms(model)
        context = ArmContext(schema, model, tpm.dim, self.encoder, self.device)
        named = build_arms(self.selection, context)
        self.arms: dict[str, Arm] = {arm.name: arm for arm in named.values()}
        self._learns_from = {arm.name: entry_of(name).learns_from for name, arm in named.items()}
        self.scorer = Scorer(
            named, self.selection, model.transfer, self.encoder, self._reached, model.natural_score_share
        )
        self.transfer = self._make_transfer(schedule)
        self.gate, self._gate_days = gate, schedule.gate_days
        self.until_room: Callable[[Callable[[], None]], None] = lambda write: write()
        self.clock = 0
        self.releases = 0
        self.months = MonthReaders(self.store, self.arms, tpm.k, tpm.dim, self.device)

    def _make_transfer(self, schedule: ScheduleSettings) -> Transfer | None:
        cpm, actr = self.arms["cpm"], self.arms.get("actr")
        if not (isinstance(cpm, NetworkArm) and isinstance(actr, NetworkArm)):
            return None
        return Transfer(
            cpm,
            actr,
            self.encoder,
            self.ad_window,
            reset_batch_norm=schedule.reset_batch_norm,
            fine_tune=schedule.fine_tune,
        )

    def _reached(self, milestone: Milestone) -> bool:
        if milestone is Milestone.FIRST_RELEASE:
            return self.releases > 0
        return milestone is Milestone.START or self.schedule.warm()

    # -- step

    def step(self, step: Step) -> StepResult:
        """One step.

        1. Predict with the parameters as they are: all ad rows, and natural rows of a fixed sample of users.
        2. Every arm learns each row of its domains once, in chunks of at most the configured size. A loss or gradient
           that is not finite, or a loss that explodes, rolls the whole step back in all arms.
        3. Ad rows are appended to the ad window; natural rows train TPM where it learns from the stream.

        Parameters
        ----------
        step
            Any number of rows.
        """
        kind, batch = step.kind, step.batch
        if not len(batch):
            return StepResult(kind, 0, {}, np.empty(0, np.intp), {})
        rows = self.scorer.rows(batch, clock_ms=max(self.clock, int(batch.ts.max())), learned=True)
        scored, scores = self.scorer.score(rows)
        self.clock = rows.clock_ms
        loss, skipped = learn_in_all(self._learners(rows), rows)
        if skipped is not None:
            return StepResult(kind, len(batch), {}, scored, scores, skipped)
        if rows.ad:
            self._append_to_window(rows, scores)
        else:
            self.schedule.observe(int(batch.ts.min()), int(batch.ts.max()))
            if self.live_tpm is not None:
                self.live_tpm.learn(batch)
        return StepResult(kind, len(batch), loss, scored, scores)

    def _learners(self, rows: ArmInput) -> list[Arm]:
        return [
            arm
            for name, arm in self.arms.items()
            if rows.domain in arm.domains and self._reached(self._learns_from[name])
        ]

    def _append_to_window(self, rows: ArmInput, scores: Mapping[str, NDArray[np.float32]]) -> None:
        columns = rows.batch.columns(self.ad_window.row_columns)
        # A release replaces the network ``reload``, whichever arm serves; without that arm no release reads the column.
        columns["p_serving"] = scores.get("reload", scores[SERVING])
        columns["p_control"] = scores["ads_only"]
        self.until_room(lambda: self.ad_window.append(columns))

    def score(self, step: Step) -> tuple[NDArray[np.intp], dict[str, NDArray[np.float32]]]:
        """The predictions that :meth:`step` would record for the rows of a step; nothing is learned.

        Returns
        -------
        tuple
            Positions of the scored rows, and their click probabilities by arm.
        """
        return self.scorer.score(self.scorer.rows(step.batch, clock_ms=self.clock, learned=True))

    def predict(self, batch: Batch, arm: str) -> NDArray[np.float32]:
        """Click probabilities of any rows by one arm, or by the serving arm (``actr``); nothing is learned.

        See :class:`Scorer` for the rule.
        """
        return self.scorer.predict(batch, arm)

    # -- months and releases

    @property
    def cpm_months(self) -> tuple[str, ...]:
        """Labels of the TPM snapshots that CPM reads, oldest first."""
        return self.months.cpm

    @property
    def actr_months(self) -> tuple[str, ...]:
        """Labels of the TPM snapshots that A-CTR reads, oldest first."""
        return self.months.actr

    def tpm_present(
        self, ts: NDArray[np.int64], user: NDArray[np.uint64], item: NDArray[np.uint64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        """Whether CPM finds a TPM vector of each row's user, and of its item; None while it reads no snapshot."""
        return self.months.present(ts, user, item)

    def months_due(self, clock_ms: int) -> tuple[str, ...] | None:
        """The snapshots that CPM should read from now on; None: no change. The store is queried once per hour of event
        time; the answer takes effect through :meth:`use_months`."""
        return self.months.due(clock_ms, self.clock)

    def use_months(self, months: tuple[str, ...]) -> None:
        """CPM reads these snapshots from now on; A-CTR from the next release on, with CPM's attention of that time.

        Raises
        ------
        PointInTimeError
            One of them is not older than the event clock.
        """
        if self.live_tpm is not None:
            self.live_tpm.settle(
                months
            )  # when a journal is replayed at full speed, a month may still be being written
        self.months.set_cpm(months, self.clock)

    def release_due(self, clock_ms: int) -> int | None:
        """The scheduled event time (ms) of a release that should happen now; None: no release is due.

        Without the arm ``reload`` there are no releases. A release waits for :data:`MIN_WINDOW_ROWS` ad rows, from which
        batch norm and output bias are estimated.
        """
        if self.transfer is None or len(self.ad_window) < MIN_WINDOW_ROWS:
            return None
        return self.schedule.due(clock_ms)

    def release(self, clock_ms: int) -> ReleaseReport:
        """Transfer CPM to A-CTR.

        1. A-CTR's parameters are set to CPM's, except batch norm.
        2. The snapshots that CPM reads are merged through A-CTR's copy of its attention, which is fixed from then on.
        3. Batch norm's statistics and the output bias are estimated on the ad window.
        4. The ad window is learned once, at low learning rates; rows of its last days are predicted before they are
           learned.
        5. The gate compares those predictions with the predictions that the present A-CTR and the control made for the
           same rows before learning them. The comparison favours the new version in one respect: it comes from a CPM that
           has learned natural clicks younger than the rows, and batch norm and bias were estimated on them.
        6. Accepted: the versions (TPM months, CPM release, A-CTR) change together. Refused: A-CTR is restored, bit for
           bit, and the next release is due at the next boundary.
        """
        assert self.transfer is not None, f"transfer = {self.model.transfer} has no releases"
        boundary = self.schedule.due(clock_ms)
        evidence, months = None, self.actr_months
        if self.gate is not None:
            evidence = Evidence(self.ad_window.first_of_last_days(self._gate_days))
            self.transfer.begin()
        copied = self.transfer.load()
        self.months.set_actr(self.cpm_months, self.clock)
        report = self.transfer.adapt(
            ReleaseReport(
                number=self.releases + 1,
                clock_ms=clock_ms,
                boundary_ms=clock_ms if boundary is None else boundary,
                months=self.cpm_months,
                rows_copied=copied,
            ),
            evidence,
        )
        if self.gate is not None and evidence is not None:
            report = report.judged(self.gate(evidence.rows()))
            if report.accepted:
                self.transfer.commit()
            else:
                self.transfer.rollback()  # restores the arm's reader, too
                self.months.actr = months
        self.schedule.done(report.boundary_ms, accepted=report.accepted)
        self.releases += report.accepted
        return report

    @property
    def versions(self) -> dict[str, Any]:
        """The versions that serve together: TPM months, CPM release, A-CTR (its release number; 0: the control)."""
        return {"tpm": list(self.actr_months), "cpm": self.releases, "actr": self.releases}

    # -- state

    def capture(self) -> Capture:
        """Copies of the dense tensors, and of the rows changed since the previous capture.

        The caller adds step, positions and event clock.
        """
        state = capture_arms(self.arms)
        meta = {"versions": self.versions, "trainer": self._counters() | state.meta | self._environment()}
        capture = Capture(dense=state.dense, rows=state.rows, meta=meta)
        if self.live_tpm is not None:
            self.live_tpm.capture_into(capture)
        return capture

    def _counters(self) -> dict[str, Any]:
        return {
            "clock": self.clock,
            "releases": self.releases,
            "cpm_months": list(self.cpm_months),
            "actr_months": list(self.actr_months),
            "schedule": self.schedule.to_json(),
        }

    def _environment(self) -> dict[str, Any]:
        """What results depend on in their last bits."""
        return {
            "threads": torch.get_num_threads(),
            "device": self.device.type,
            "torch": torch.__version__,
        }

    def restore(self, loaded: Loaded) -> None:
        """Set the trainer to a captured state; it continues to the same bits as if it had never stopped."""
        meta = loaded.meta["trainer"]
        for key, here in self._environment().items():
            if meta[key] != here:
                log.warning(
                    "the checkpoint was made with %s %s, here it is %s: results agree up to rounding, not to the last bit",
                    key, meta[key], here,
                )  # fmt: skip
        if self.clock:
            for arm in self.arms.values():
                arm.reset()
        state = ArmState(loaded.dense, loaded.rows, meta)
        for arm in self.arms.values():
            arm.load(state)
        self.clock, self.releases = int(meta["clock"]), int(meta["releases"])
        self.schedule.load(meta["schedule"])
        self.months.restore(tuple(meta["cpm_months"]), tuple(meta["actr_months"]), self.clock)
        if self.live_tpm is not None:
            self.live_tpm.restore(loaded)
        if self.transfer is not None:
            mark_unreleased(self.transfer.source, self.transfer.target, loaded.rows, self.device)

    def state_hash(self) -> str:
        """Hash of every parameter, optimiser state and buffer, and of the counters. Reads whole tables."""
        tpm = () if self.live_tpm is None else self.live_tpm.tensors()
        return state_hash(self.arms, tpm, self._counters() | arms_meta(self.arms))
