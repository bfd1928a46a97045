"""``Trainer``: predicts the rows of a step and then learns them. Live training and replay use the same class."""

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
from ecdctr.models.streaming_features import StreamingFeatures
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
    """Trains all arms of a configuration, that is all models that run side by side on the same rows.

    Every step contains rows of one domain only: natural content or ads. ``cpm`` and ``reload`` (its network is named
    ``actr`` in checkpoints) implement CPM and A-CTR of E-CDCTR (arXiv 2408.16238); ``ads_only`` is the control, the same
    network trained on ads alone and without TPM vectors. ``model.transfer`` selects the arm whose predictions are served
    (see :class:`Scorer`); ``model.arms`` adds others for comparison. ``cpm`` and ``ads_only`` are always built, any other
    arm only if a setting names it or another arm needs it (see :func:`select_arms`).

    Training draws no random numbers. For a given device, torch version and number of torch threads, the state depends
    only on the settings, the TPM snapshots, and the batches and their order.

    Parameters
    ----------
    schema
        The features that the models read, streaming features included.
    model, schedule, tpm
        Settings.
    store
        TPM snapshots. If None (or if ``model.history`` is ``none``), no TPM vector is read: every id counts as absent.
    ad_window
        The trainer appends every learned ad row to it; a release is calibrated and fine-tuned on these rows.
    device
        Overrides ``model.device``.
    gate
        Decides whether a release is accepted. If None, every release is accepted.
    live_tpm
        Trains TPM from the stream. If None, TPM is not trained here.
    streaming
        Computes the streaming features. If None, rows have all features of ``schema`` themselves.

    Attributes
    ----------
    arms
        Arms by ``Arm.name``. It equals the name in the table of arms except for ``reload``, whose arm is named ``actr``.
    selection
        Which arms run and which are scored.
    months
        Readers of the TPM snapshots.
    clock
        Latest event time so far, ms.
    releases
        Number of accepted CPM releases; also the version number of A-CTR.
    run_write
        Called with a function that writes to disk; runs it. :class:`Engine` replaces it with a version that retries while
        the disk is full.
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
        streaming: StreamingFeatures | None = None,
    ) -> None:
        use_threads(model.threads)
        self.device = choose_device(device or model.device)
        self.model, self.live_tpm, self.streaming = model, live_tpm, streaming
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
        self.run_write: Callable[[Callable[[], None]], None] = lambda write: write()
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
        """Run one training step.

        0. If there are streaming features, the rows receive their values, from strictly older events. The events of these rows are
           added after the step, also if it is rolled back.
        1. Predict all ad rows, or the natural rows of a fixed sample of users, with the current parameters.
        2. Every arm that learns this domain, and whose ``learns_from`` milestone has been reached, learns each row once, in
           chunks of at most its configured size. If the loss, a gradient or a batch norm statistic of one arm is not finite,
           or its mean loss exceeds ``MAX_LOSS``, the step is rolled back in all arms, and learned without the rows that cause it.
        3. Ad rows that were learned are appended to the ad window; natural rows also train TPM if it learns from the stream.

        Parameters
        ----------
        step
            Any number of rows.
        """
        kind, batch = step.kind, step.batch
        if not len(batch):
            return StepResult(kind, 0, {}, np.empty(0, np.intp), {})
        extended = self._extend(batch, learned=True)
        if self.streaming is not None:
            self.streaming.observe(batch)
        rows = self.scorer.rows(extended, clock_ms=max(self.clock, int(batch.ts.max())), will_learn=True)
        scored, scores = self.scorer.score(rows)
        self.clock = rows.clock_ms
        done = learn_in_all(self._learners(rows), rows)
        result = StepResult(
            kind, len(batch) - len(done.lost), done.loss, scored, scores, done.reason, done.lost
        )
        if done.rows is None:
            return result
        learned = result.learned(batch)
        if done.rows.ad:
            self._append_to_window(done.rows, learned.scores)
        else:
            ts = learned.batch.ts
            self.schedule.observe(int(ts.min()), int(ts.max()))
            if self.live_tpm is not None:
                self.live_tpm.learn(learned.batch)
        return result

    def _extend(self, batch: Batch, *, learned: bool = False) -> Batch:
        """The rows with the streaming features, if there are any; nothing changes."""
        return batch if self.streaming is None else self.streaming.extend(batch, learned=learned)

    def _learners(self, rows: ArmInput) -> list[Arm]:
        return [
            arm
            for name, arm in self.arms.items()
            if rows.domain in arm.domains and self._reached(self._learns_from[name])
        ]

    def _append_to_window(self, rows: ArmInput, scores: Mapping[str, NDArray[np.float32]]) -> None:
        columns = rows.batch.columns(self.ad_window.row_columns)
        # A release replaces the network of ``reload``, whichever arm serves. If that arm does not run, nothing reads the column.
        columns["p_serving"] = scores.get("reload", scores[SERVING])
        columns["p_control"] = scores["ads_only"]
        self.run_write(lambda: self.ad_window.append(columns))

    def score(self, step: Step) -> tuple[NDArray[np.intp], dict[str, NDArray[np.float32]]]:
        """The predictions that :meth:`step` would return for these rows; nothing is learned.

        Returns
        -------
        tuple
            Positions of the scored rows, and their click probabilities by arm.
        """
        rows = self._extend(step.batch, learned=True)
        return self.scorer.score(self.scorer.rows(rows, clock_ms=self.clock, will_learn=True))

    def predict(self, batch: Batch, arm: str) -> NDArray[np.float32]:
        """Click probabilities of any rows by one arm, or by the serving arm (``actr``); nothing is learned.

        See :class:`Scorer` for the rule.
        """
        return self.scorer.predict(self._extend(batch), arm)

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
        """Whether CPM finds a TPM vector for each row's user, and for its item; None while CPM reads no snapshot."""
        return self.months.present(ts, user, item)

    def months_due(self, clock_ms: int) -> tuple[str, ...] | None:
        """The snapshots that CPM should read from now on; None if they do not change.

        The store is queried once per hour of event time. :meth:`use_months` puts the result into effect.
        """
        return self.months.due(clock_ms, self.clock)

    def use_months(self, months: tuple[str, ...]) -> None:
        """CPM reads these snapshots from now on; A-CTR from the next release on, with CPM's attention of that time.

        Raises
        ------
        PointInTimeError
            One of them is not older than the event clock.
        """
        if self.live_tpm is not None:
            # Wait: in a fast replay of the journal the snapshot may not be completely written yet.
            self.live_tpm.settle(months)
        self.months.set_cpm(months, self.clock)

    def release_due(self, clock_ms: int) -> int | None:
        """The scheduled event time (ms) of a release that should happen now; None if no release is due.

        Without the arm ``reload`` there are no releases. A release waits until the ad window has at least
        :data:`MIN_WINDOW_ROWS` rows, because batch norm and output bias are estimated on the window.
        """
        if self.transfer is None or len(self.ad_window) < MIN_WINDOW_ROWS:
            return None
        return self.schedule.due(clock_ms)

    def release(self, clock_ms: int) -> ReleaseReport:
        """Transfer CPM to A-CTR.

        1. CPM's parameters are copied to A-CTR. Batch norm is reset, or copied if ``schedule.reset_batch_norm`` is false.
        2. A-CTR reads the same snapshots as CPM from now on. The K vectors of an id are merged into one by A-CTR's copy of
           CPM's attention, which stays fixed until the next release.
        3. The statistics of batch norm (if it was reset) and the output bias are estimated on the ad window.
        4. If ``schedule.fine_tune`` is set, A-CTR learns the ad window once. Rows of the last ``schedule.gate_days`` days
           are predicted before they are learned.
        5. The gate compares these predictions with those that the previous version of A-CTR and the ads-only control made
           for the same rows before they learned them. The comparison favours the new version in one respect: CPM has
           learned natural clicks that are newer than these rows, and batch norm and output bias were estimated on a window
           that contains these rows.
        6. If the gate accepts, months, CPM release and A-CTR change together. If it refuses, A-CTR is restored bit for bit,
           and the next release is tried at the next scheduled time (``schedule.release_every`` later).
        """
        assert self.transfer is not None, "there are no releases: the arm reload does not run"
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
            report = report.with_verdict(self.gate(evidence.rows()))
            if report.accepted:
                self.transfer.commit()
            else:
                self.transfer.rollback()  # also restores the arm's reader
                self.months.actr = months
        self.schedule.done(report.boundary_ms, accepted=report.accepted)
        self.releases += report.accepted
        return report

    @property
    def versions(self) -> dict[str, Any]:
        """Versions in use: labels of the TPM months that A-CTR reads, and the number of accepted releases (``cpm`` and ``actr``).

        While that number is 0, the control's predictions are used in place of A-CTR's.
        """
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
        if self.streaming is not None:
            self.streaming.capture_into(capture)
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
        """Properties of the environment that can change results by rounding."""
        return {
            "threads": torch.get_num_threads(),
            "device": self.device.type,
            "torch": torch.__version__,
        }

    def restore(self, loaded: Loaded) -> None:
        """Restore a captured state. Training then gives bit-identical results, as if it had not been interrupted."""
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
        if self.streaming is not None:
            self.streaming.restore(loaded)
        if self.transfer is not None:
            mark_unreleased(self.transfer.source, self.transfer.target, loaded.rows, self.device)

    def state_hash(self) -> str:
        """Hash of all parameters, optimiser states, buffers and counters. Expensive: all embedding tables are read."""
        tpm = () if self.live_tpm is None else self.live_tpm.tensors()
        return state_hash(self.arms, tpm, self._counters() | arms_meta(self.arms), self.streaming)
