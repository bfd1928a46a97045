"""``Trainer``: predict, score, learn; the one step that live training and replay share."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.step import Step, StepKind
from ecdctr.events.time import HOUR_MS
from ecdctr.models.arms import (
    PREDICT_ROWS,
    Arm,
    ArmSpec,
    BayesFm,
    History,
    ItemCtr,
    LinkedArm,
    OnlineShift,
    Prepared,
    Stack,
    lineup,
)
from ecdctr.models.nets import MAX_LOSS, Encoded, InputEncoder, choose_device, use_threads
from ecdctr.models.settings import ModelSettings, ScheduleSettings, TpmSettings
from ecdctr.models.tpm import LiveTpm, MergedHistory, SnapshotHistory
from ecdctr.models.training.gate import Evidence, Gate
from ecdctr.models.training.release import ReleaseReport, Transfer
from ecdctr.models.training.release_schedule import ReleaseSchedule
from ecdctr.state.checkpoints import Capture, Loaded, Rows
from ecdctr.state.hashing import mix64
from ecdctr.state.row_logs import AdWindow
from ecdctr.state.snapshots import EmbeddingStore

__all__ = ["ReleaseReport", "StepResult", "Trainer"]

log = logging.getLogger("ecdctr.trainer")

MIN_WINDOW_ROWS = 128
"""Ad rows that a scheduled release waits for."""

_SCORE_SALT = np.uint64(0xA5C35C6E0F2B9D17)
"""So that the sample of scored users has nothing to do with any feature's buckets."""


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """What a step did.

    Attributes
    ----------
    kind
        ``natural`` or ``ad``.
    n
        Rows.
    loss
        Mean binary cross-entropy of each arm that learned, before its update. Empty when skipped.
    scored
        Which rows were predicted before learning.
    scores
        Their click probabilities by arm, float32, aligned with ``scored``.
    skipped
        Why the step was taken back as a whole; None: it stands.
    """

    kind: StepKind
    n: int
    loss: dict[str, float]
    scored: NDArray[np.intp]
    scores: dict[str, NDArray[np.float32]]
    skipped: str | None = None


class Trainer:
    """CPM, A-CTR and the ads-only control, taught by one stream of one-domain batches.

    =========  ==================  ===========================  ==========================================
    arm        learns from         TPM history                  begins as
    =========  ==================  ===========================  ==========================================
    cpm        natural rows        attention, learned           its initial values
    actr       ad rows             merged, frozen at a release  CPM at each release (see :meth:`release`)
    ads_only   ad rows             none                         its initial values

    mixed      both, with a flag    none                         its initial values
    mixed_tpm  both, with a flag    attention, learned           its initial values
    ads_tpm    ad rows             attention, learned           its initial values
    linked     ad rows             its backbone's               its backbone (see :class:`LinkedArm`)
    =========  ==================  ===========================  ==========================================

    The first three are those of the paper; ``model.transfer`` says what serves under the name ``actr``: the network of
    that name (``reload``), ``linked``, ``bayes_fm`` (see :class:`BayesFm`; ``ads_bayes_fm`` is its control, taught by ads
    alone), or ``stack`` (see :class:`Stack`). ``model.arms`` runs others beside it, and the rivals without a network,
    ``cpm_only`` and ``item_ctr``. What needs no other arm is not run.

    Until the first release there is no A-CTR: its scores are the control's, and it learns nothing (the release
    shows it the ad window). So it cannot be worse than ads alone for want of natural clicks. The other modes serve
    the control's scores for as long (:meth:`ReleaseSchedule.warm`).

    No step draws a random number: the state is a function of the settings and of the batches in their order, for a
    given number of torch threads.

    Parameters
    ----------
    schema
        The features.
    model, schedule, tpm
        Settings.
    store
        TPM snapshots; None: nobody has a history.
    ad_window
        Keeps learned ad rows for releases; this trainer appends to it.
    device
        Overrides ``model.device``.
    score_ads_with_cpm
        Predict ad rows with CPM too, for comparison: a forward pass more.
    gate
        Judges whether a release may serve; None: every one may.
    tiny
        TPM from the stream; None: nobody trains it here.

    Attributes
    ----------
    arms
        By name.
    clock
        Youngest event time met, ms.
    releases
        CPM releases that came to serve: the version of A-CTR.
    until_room
        Does a write to disk; an owner that can wait for room on a full disk sets another.
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
        score_ads_with_cpm: bool = False,
        gate: Gate | None = None,
        tiny: LiveTpm | None = None,
    ) -> None:
        use_threads(model.threads)
        self.device = choose_device(device or model.device)
        self.model, self.tpm, self.tiny = model, tpm, tiny
        self.ad_window = ad_window
        self.store = None if model.history == "none" else store
        self.score_ads_with_cpm = score_ads_with_cpm
        self.encoder = InputEncoder(schema, self.device)
        self._schema = schema
        self.schedule = ReleaseSchedule(schedule)
        self.lineup = lineup(model)
        self.arms: dict[str, Arm] = self._networks()
        self.transfer: Transfer | None = None
        if "actr" in self.arms:
            self.transfer = Transfer(
                self.arms["cpm"],
                self.arms["actr"],
                self.encoder,
                ad_window,
                reset_batch_norm=schedule.reset_batch_norm,
                fine_tune=schedule.fine_tune,
            )
        self.gate, self._gate_days = gate, schedule.gate_days
        self.shift, self.item_ctr = OnlineShift(), ItemCtr()
        self.bayes = {
            name: BayesFm(schema, model.bayes_fm, name=name, seed=model.seed, natural=name == "bayes_fm")
            for name in self.lineup.bayes
        }
        self.stack = Stack(
            self.lineup.stack, ridge=model.stack_ridge, every=model.stack_every, fade=model.stack_fade
        )
        self.until_room: Callable[[Callable[[], None]], None] = lambda write: write()
        self.clock = 0
        self.releases = 0
        self._asked_hour = -1
        self.cpm_months: tuple[str, ...] = ()
        self.actr_months: tuple[str, ...] = ()
        self._set_cpm_months(())

    def _networks(self) -> dict[str, Arm]:
        model, wanted = self.model, self.lineup.networks
        learned: History = "none" if model.history == "none" else "learned"
        merged: History = "none" if model.history == "none" else "merged"
        natural, ad = model.natural_batch, model.ad_batch
        fast = model.natural_embedding_lr
        cpm = self._arm(ArmSpec("cpm", (NATURAL,), learned, model.lr, fast, natural), None)
        arms = {"cpm": cpm}
        if "reload" in wanted:
            spec = ArmSpec("actr", (AD,), merged, model.transfer_lr, model.transfer_embedding_lr, ad)
            arms["actr"] = self._arm(spec, cpm)
        arms["ads_only"] = self._arm(
            ArmSpec("ads_only", (AD,), "none", model.lr, model.ad_embedding_lr, ad), cpm
        )
        if "ads_tpm" in wanted:
            spec = ArmSpec("ads_tpm", (AD,), learned, model.lr, model.ad_embedding_lr, ad)
            arms["ads_tpm"] = self._arm(spec, cpm)
        histories: dict[str, History] = {"mixed": "none", "mixed_tpm": learned}
        for name, history in histories.items():
            if name in wanted:
                spec = ArmSpec(name, (NATURAL, AD), history, model.lr, fast, natural, True, ad)
                arms[name] = self._arm(spec, cpm)
        if "linked" in wanted:
            spec = ArmSpec(
                "linked", (AD,), "none", model.linked_lr, model.linked_embedding_lr, model.linked_batch
            )
            shape = (self.encoder, self._schema.n_dense, model, self.tpm.dim, self.device)
            arms["linked"] = LinkedArm(spec, arms[model.backbone], *shape)
        return arms

    def _arm(self, spec: ArmSpec, like: Arm | None) -> Arm:
        return Arm(spec, self.encoder, self._schema.n_dense, self.model, self.tpm.dim, self.device, like)

    # -- step

    def step(self, step: Step) -> StepResult:
        """One step.

        1. Predict with the parameters as they are: all ad rows, natural rows of a fixed sample of users.
        2. Learn, in chunks of at most the configured size, every row once: natural rows teach CPM, ad rows A-CTR
           (once there is one) and the control. A loss or gradient that is not finite, or a loss that explodes,
           takes the whole step back in all arms.
        3. Ad rows join the ad window; natural rows teach the tiny model, where it learns from the stream.

        Parameters
        ----------
        step
            Any number of rows.
        """
        kind, batch = step.kind, step.batch
        if not len(batch):
            return StepResult(kind, 0, {}, np.empty(0, np.intp), {})
        learners = self._learners(kind)
        prepared = self._prepare(batch, learners)
        scored, scores = self._score(kind, batch, prepared)
        self.clock = max(self.clock, int(batch.ts.max()))
        loss, skipped = _learn(learners, prepared)
        if skipped is not None:
            return StepResult(kind, len(batch), {}, scored, scores, skipped)
        for bayes in self.bayes.values():
            bayes.learn(batch)
        if kind == StepKind.NATURAL:
            self.schedule.observe(int(batch.ts.min()), int(batch.ts.max()))
            if self.tiny is not None:
                self.tiny.learn(batch)
        else:
            self._observe(batch, scores)
            columns = batch.columns(self.ad_window.row_columns)
            # What a release replaces is the network that reloads, whatever arm is served besides.
            columns["p_serving"] = scores.get("reload", scores["actr"])
            columns["p_control"] = scores["ads_only"]
            self.until_room(lambda: self.ad_window.append(columns))
        return StepResult(kind, len(batch), loss, scored, scores)

    def score(self, step: Step) -> tuple[NDArray[np.intp], dict[str, NDArray[np.float32]]]:
        """What :meth:`step` would predict for the rows of a step; nothing is learned.

        Returns
        -------
        tuple
            Which rows are scored, and their click probabilities by arm.
        """
        kind, batch = step.kind, step.batch
        if not len(batch):
            return np.empty(0, np.intp), {}
        return self._score(kind, batch, self._prepare(batch, self._learners(kind)))

    def _score(
        self, kind: StepKind, batch: Batch, prepared: Mapping[str, list[Prepared]]
    ) -> tuple[NDArray[np.intp], dict[str, NDArray[np.float32]]]:
        if kind == StepKind.AD:
            return np.arange(len(batch)), self._score_ads(batch, prepared)
        scored = self._sample(batch)
        if len(scored) == len(batch):
            return scored, {"cpm": _predict(self.arms["cpm"], prepared["cpm"])}
        return scored, {"cpm": self.predict(batch.take(scored), "cpm")}

    def _prepare(self, batch: Batch, arms: list[Arm]) -> dict[str, list[Prepared]]:
        """The batch in chunks of each arm's size; arms of one size share the tensors, those of one reader what it
        reads."""
        ad = int(batch.domain[0]) == AD
        by_size: dict[int, list[tuple[Batch, Encoded]]] = {}
        read: dict[tuple[int, int, int], Prepared] = {}
        out: dict[str, list[Prepared]] = {}
        for arm in arms:
            size = arm.spec.size(ad)
            size = size if len(batch) > size else len(batch)
            if size not in by_size:
                cut = (
                    [batch]
                    if size == len(batch)
                    else [batch.take(slice(i, i + size)) for i in range(0, len(batch), size)]
                )
                by_size[size] = [(chunk, self.encoder.encode(chunk)) for chunk in cut]
            parts = out[arm.spec.name] = []
            for i, (chunk, encoded) in enumerate(by_size[size]):
                key = (id(arm.history_reader), size, i)
                if key not in read:
                    read[key] = arm.prepare(encoded, chunk)
                parts.append(read[key])
        return out

    def _score_ads(
        self, batch: Batch, prepared: Mapping[str, list[Prepared]]
    ) -> dict[str, NDArray[np.float32]]:
        """What every arm predicts; ``actr`` is what serves."""
        found = {name: _predict(self.arms[name], parts) for name, parts in prepared.items()}
        control, warm = found["ads_only"], self.schedule.warm()
        extra = self.lineup.extra
        found["reload"] = found.pop("actr", control)
        if not warm:
            found["linked"] = control
        if self.score_ads_with_cpm or "cpm_only" in extra or "cpm" in self.lineup.stack:
            found["cpm"] = self.predict(batch, "cpm")
        if "cpm_only" in extra:
            found["cpm_only"] = self.shift.predict(found["cpm"])
        for name, bayes in self.bayes.items():
            found[name] = bayes.predict(batch)
        if "item_ctr" in extra:
            found["item_ctr"] = self.item_ctr.predict(batch.item)
        if self.lineup.stack:
            found["stack"] = self.stack.predict(found) if warm else control
        scores = {"actr": found[self.model.transfer]}
        return scores | {name: found[name] for name in ("ads_only", "cpm", *extra) if name in found}

    def _observe(self, batch: Batch, scores: Mapping[str, NDArray[np.float32]]) -> None:
        """What has no network learns from scored ad rows, after all arms could."""
        if "cpm_only" in self.lineup.extra:
            self.shift.observe(scores["cpm"], batch.label)
        if "item_ctr" in self.lineup.extra:
            self.item_ctr.observe(batch.item, batch.label)
        if self.lineup.stack and self.schedule.warm():
            self.stack.observe(scores, batch.label, self.clock)

    def predict(self, batch: Batch, arm: str) -> NDArray[np.float32]:
        """Click probabilities of any rows by one arm; nothing is learned.

        ``actr`` is what serves; ``reload``, the network that releases replace, answers as ``ads_only`` before the first.
        """
        if arm == "actr":
            return self._served(batch)
        if arm in self.bayes:
            return self.bayes[arm].predict(batch)
        if arm == "reload":
            arm = "actr" if self.releases else "ads_only"
        parts = [batch.take(slice(i, i + PREDICT_ROWS)) for i in range(0, len(batch), PREDICT_ROWS)]
        model = self.arms[arm]
        return _predict(model, [model.prepare(self.encoder.encode(part), part) for part in parts])

    def tpm_present(
        self, ts: NDArray[np.int64], user: NDArray[np.uint64], item: NDArray[np.uint64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        """Whether CPM finds a TPM vector of each row's user, and of its item; None while it reads no snapshot."""
        reader = self.arms["cpm"].reader
        if not self.cpm_months or not isinstance(reader, SnapshotHistory):
            return None
        return reader.present(ts, user, item)

    def _served(self, batch: Batch) -> NDArray[np.float32]:
        mode = self.model.transfer
        if mode in ("linked", "stack") and not self.schedule.warm():
            return self.predict(batch, "ads_only")
        if mode == "stack":
            return self.stack.predict({name: self.predict(batch, name) for name in self.stack.members})
        return self.predict(batch, mode)

    def _learners(self, kind: StepKind) -> list[Arm]:
        """Arms that a row teaches, in this order: ``linked`` before its backbone."""
        order = ("cpm", "ads_only", "ads_tpm", "actr", "linked", "mixed", "mixed_tpm")
        arms = [self.arms[name] for name in order if name in self.arms]
        return [
            arm
            for arm in arms
            if kind.domain in arm.spec.domains and (arm.spec.name != "actr" or self.releases)
        ]

    def _sample(self, batch: Batch) -> NDArray[np.intp]:
        share = self.model.natural_score_share
        if share >= 1.0:
            return np.arange(len(batch))
        bound = np.uint64(int(share * 2.0**64))
        return np.flatnonzero(mix64(batch.user ^ _SCORE_SALT) < bound)

    # -- months and releases

    def months_due(self, clock_ms: int) -> tuple[str, ...] | None:
        """The snapshots that CPM should read from now on; None: those that it reads. Asked of the store once an
        hour of event time; the answer takes effect through :meth:`use_months`."""
        hour = clock_ms // HOUR_MS
        if self.store is None or hour == self._asked_hour:
            return None
        self._asked_hour = hour
        months = tuple(self.store.select(min(clock_ms, self.clock), self.tpm.k))
        return months if months and months != self.cpm_months else None

    def use_months(self, months: tuple[str, ...]) -> None:
        """CPM reads these snapshots from now on; A-CTR from the next release on, with CPM's attention of then.

        Raises
        ------
        PointInTimeError
            One of them is not older than the event clock.
        """
        if self.tiny is not None:
            self.tiny.settle(months)  # redone at speed, a month's write may still be on its way
        self._set_cpm_months(months)

    def _set_cpm_months(self, months: tuple[str, ...]) -> None:
        readers = [self.arms[name] for name in ("cpm", "ads_tpm", "mixed_tpm") if name in self.arms]
        if readers[0].reads_history:
            reader = SnapshotHistory(self.store, months, self.tpm.dim, self.clock, self.device)
            for arm in readers:
                arm.reader = reader
        self.cpm_months = months

    def _set_actr_months(self, months: tuple[str, ...]) -> None:
        actr = self.arms.get("actr")
        if actr is not None and actr.net.history_user is not None and actr.net.history_item is not None:
            actr.reader = MergedHistory(
                self.store, months, actr.net.history_user, actr.net.history_item, self.clock, self.device
            )
        self.actr_months = months

    def release_due(self, clock_ms: int) -> int | None:
        """The scheduled event time (ms) of a release that should happen now; None: not yet.

        Without an arm that reloads there are none. A release waits for :data:`MIN_WINDOW_ROWS` ad rows: batch norm and output bias are estimated on them.
        """
        if self.transfer is None or len(self.ad_window) < MIN_WINDOW_ROWS:
            return None
        return self.schedule.due(clock_ms)

    def release(self, clock_ms: int) -> ReleaseReport:
        """Hand CPM on to A-CTR.

        1. A-CTR becomes CPM in everything but batch norm.
        2. The snapshots that CPM reads are merged through A-CTR's copy of its attention, which learns no more.
        3. Batch norm's statistics and the output bias are estimated on the ad window.
        4. The ad window is learned once, at gentle rates; rows of its last days are predicted before they are learned.
        5. The gate compares those predictions with what the A-CTR in place and the control said of the same rows
           before they learned them. It is lenient in one respect: the new version comes from a CPM that has seen
           natural clicks younger than the rows, and batch norm and bias were estimated on them.
        6. Accepted: the versions (TPM months, CPM release, A-CTR) change together. Refused: A-CTR is set back to what
           it was, bit for bit, and the next release is due at the next boundary.
        """
        assert self.transfer is not None, f"transfer = {self.model.transfer} knows no releases"
        boundary = self.schedule.due(clock_ms)
        evidence, months = None, self.actr_months
        if self.gate is not None:
            evidence = Evidence(self.ad_window.last_days(self._gate_days))
            self.transfer.begin()
        copied = self.transfer.load()
        self._set_actr_months(self.cpm_months)
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
                self.transfer.rollback()
                self.actr_months = months
        self.schedule.done(report.boundary_ms, accepted=report.accepted)
        self.releases += report.accepted
        return report

    @property
    def versions(self) -> dict[str, Any]:
        """The triple that serves: TPM months, CPM release, A-CTR version (its release number; 0: the control)."""
        return {"tpm": list(self.actr_months), "cpm": self.releases, "actr": self.releases}

    # -- keep

    def capture(self) -> Capture:
        """Copies of the dense tensors, and of the rows changed since the last capture.

        The caller adds what it knows: step, positions, event clock.
        """
        dense: dict[str, NDArray[Any]] = {}
        rows: Rows = {}
        for arm in self.arms.values():
            dense.update(arm.dense_state())
            rows.update(arm.take_rows())
        for bayes in self.bayes.values():
            dense.update(bayes.dense_state())
            rows.update(bayes.take_rows())
        if "item_ctr" in self.lineup.extra:
            rows.update(self.item_ctr.take_rows())
        capture = Capture(dense=dense, rows=rows, meta={"versions": self.versions, "trainer": self._meta()})
        if self.tiny is not None:
            self.tiny.capture_into(capture)
        return capture

    def _meta(self) -> dict[str, Any]:
        return {
            "clock": self.clock,
            "releases": self.releases,
            "cpm_months": list(self.cpm_months),
            "actr_months": list(self.actr_months),
            "schedule": self.schedule.to_json(),
            "shift": self.shift.to_json(),
            "stack": self.stack.to_json(),
            "threads": torch.get_num_threads(),
            "device": self.device.type,
            "torch": torch.__version__,
        }

    def restore(self, loaded: Loaded) -> None:
        """Become what was captured; going on from here gives the same bits as never having stopped."""
        meta = loaded.meta["trainer"]
        here = self._meta()
        for key in ("threads", "device", "torch"):
            if meta[key] != here[key]:
                log.warning(
                    "the checkpoint was made with %s %s, here it is %s: results agree up to rounding, not to the last bit",
                    key, meta[key], here[key],
                )  # fmt: skip
        if self.clock:
            for arm in self.arms.values():
                arm.reset()
        for arm in self.arms.values():
            arm.load(loaded.dense, loaded.rows)
        self.clock, self.releases = int(meta["clock"]), int(meta["releases"])
        self.schedule.load(meta["schedule"])
        if "stack" in meta:  # else from before there were such arms
            self.shift.load(meta["shift"])
            self.stack.load(meta["stack"])
        for bayes in self.bayes.values():
            bayes.load(loaded.dense, loaded.rows)
        self.item_ctr.load(loaded.rows)
        self._asked_hour = -1
        self._set_cpm_months(tuple(meta["cpm_months"]))
        self._set_actr_months(tuple(meta["actr_months"]))
        if self.tiny is not None:
            self.tiny.restore(loaded)
        self._find_unreleased(loaded.rows)

    def _find_unreleased(self, rows: Rows) -> None:
        """Which rows the next release must copy: those in which A-CTR is not what a release would make of it."""
        if "actr" not in self.arms:
            return
        cpm, actr = self.arms["cpm"], self.arms["actr"]
        names = zip(cpm.table_names(), actr.table_names(), strict=True)
        for pair, ours, theirs in zip(names, cpm.tables, actr.tables, strict=True):
            parts = [rows[name][0] for name in pair if name in rows]
            if not parts:
                continue
            index = np.unique(np.concatenate(parts))
            at = torch.from_numpy(index).to(self.device)
            differs = (ours.gather(at) != theirs.gather(at)).any(1)
            differs |= theirs.accumulator.index_select(0, at) != theirs.initial_accumulator
            ours.unreleased.mark(index[differs.cpu().numpy()])

    def state_hash(self) -> str:
        """Hash of every parameter, optimiser state and buffer, and of the counters. Reads whole tables."""
        digest = hashlib.blake2b(digest_size=16)
        for name, arm in sorted(self.arms.items()):
            for key, value in sorted(arm.dense_state().items()):
                digest.update(f"{key}{value.shape}".encode())
                digest.update(np.ascontiguousarray(value).tobytes())
            for table in arm.tables:
                digest.update(f"{name}{table.dim}".encode())
                digest.update(table.weight.cpu().numpy().data)
                digest.update(table.accumulator.cpu().numpy().data)
        for name, value in () if self.tiny is None else self.tiny.tensors():
            digest.update(f"tpm {name}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        counters = self._meta()
        names = ("clock", "releases", "cpm_months", "actr_months", "schedule", "shift", "stack")
        digest.update(repr([counters[k] for k in names]).encode())
        digest.update(repr(self.item_ctr.state()).encode())
        for bayes in self.bayes.values():
            bayes.digest(digest)
        return digest.hexdigest()


def _predict(arm: Arm, parts: list[Prepared]) -> NDArray[np.float32]:
    if len(parts) == 1:
        return arm.predict(parts[0])
    return np.concatenate([np.empty(0, np.float32), *(arm.predict(part) for part in parts)])


def _learn(arms: list[Arm], prepared: Mapping[str, list[Prepared]]) -> tuple[dict[str, float], str | None]:
    """All chunks in all arms, or none in any; an arm has learned all of them before the next one begins."""
    parts = [prepared[arm.spec.name] for arm in arms]
    at_once = all(len(chunks) == 1 for chunks in parts)
    out: dict[str, float] = {}
    for arm in arms:
        arm.begin(1 if at_once else 2)  # one chunk everywhere: nothing is applied before all can
    for arm, chunks in zip(arms, parts, strict=True):
        total, rows = 0.0, 0
        for chunk in chunks:
            loss = arm.compute(chunk)
            if math.isnan(loss):
                for other in arms:
                    other.rollback()
                return (
                    {},
                    f"loss or gradient of {arm.spec.name} is not finite, or its loss is above {MAX_LOSS:g}",
                )
            if not at_once:
                arm.apply()
            total, rows = total + loss * chunk.encoded.n, rows + chunk.encoded.n
        out[arm.spec.name] = total / rows
    for arm in arms:
        if at_once:
            arm.apply()
        arm.commit()
    return out, None
