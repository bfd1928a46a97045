"""``Monitor``: computes metrics of the streams and the models from completed training steps, live or in a replay."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.schema import FeatureSchema
from ecdctr.events.time import DAY_MS, duration_ms
from ecdctr.models.training import ReleaseReport
from ecdctr.monitor.alerts import Alert, Inputs, PendingAlerts, RuleBook, measure
from ecdctr.monitor.drift import Detectors, DriftWatch, Reference
from ecdctr.monitor.folder import MonitorFolder
from ecdctr.monitor.marks import Mark
from ecdctr.monitor.quality import (
    ARMS_OF,
    Forgetting,
    Predict,
    QualityFigures,
    Scored,
    TransferFigure,
    TransferWatch,
)
from ecdctr.monitor.restart import ScoredRows, read_score_log
from ecdctr.monitor.settings import WatchSettings
from ecdctr.monitor.snapshot import Snapshot
from ecdctr.monitor.steps import ObservedStep, RowBlock

__all__ = ["Monitor"]

log = logging.getLogger("ecdctr.monitor")

BLOCK_ROWS = 32_768
"""Rows after which the collected steps are added as one block: this amortises numpy's overhead per call and limits memory."""

RULES_EVERY_MS = 300_000
"""Event time between two evaluations of the alert rules."""

MAX_MARKS = 200
"""Number of most recent marks that are retained."""


class Monitor:
    """Computes metrics from the steps of a trainer. All methods may be called from any thread; steps must be reported in order.

    :meth:`observe` does its work synchronously, and is most efficient with many steps per call: a live trainer should queue its steps
    and report them from another thread. All windows and intervals are in event time; the wall clock is not read.

    Parameters
    ----------
    schema
        The features, for the names in the drift table.
    settings
        Windows, drift, forgetting, alert rules.
    reference
        Reference for drift; default: ``settings.drift.reference``, or the first rows of the stream if that is empty.

    Attributes
    ----------
    clock
        Event time reached, ms; None before the first row.
    rows
        Rows observed since the start, by domain.
    quality, drift, detectors, forgetting, transfer, rules
        The parts that compute the metrics; change them through the methods of this class only.

    Examples
    --------
    >>> from ecdctr.events.settings import default_features
    >>> monitor = Monitor(FeatureSchema(default_features(), 16))
    >>> monitor.snapshot()["windows"]["1h"]["ad"]["rows"]
    0
    """

    def __init__(
        self,
        schema: FeatureSchema,
        settings: WatchSettings | None = None,
        *,
        reference: Reference | None = None,
    ) -> None:
        self.schema = schema
        self.settings = settings or WatchSettings()
        s = self.settings
        self.clock: int | None = None
        self.rows = {"natural": 0, "ad": 0}
        self.quality = QualityFigures(s.gauc_rows)
        self.drift = DriftWatch(schema, s.drift, reference)
        self.detectors = Detectors()
        self.forgetting = Forgetting(s.probes)
        self.transfer = TransferWatch(s.transfer_days)
        self.rules = RuleBook(s.rules)
        self._transfer_figure = TransferFigure(self.transfer)
        self._rules_evaluated_at = -1
        self._late_ms = duration_ms(s.late_after)
        self._marks: deque[Mark] = deque(maxlen=MAX_MARKS)
        self._alerts = PendingAlerts()
        self._folder: MonitorFolder | None = None
        self._reference_is_given = reference is not None or bool(s.drift.reference)
        self._busy_s = 0.0
        self._loss: dict[str, float] = {}
        self._last_release: ReleaseReport | None = None
        self._lock = threading.RLock()

    def observe(self, steps: Sequence[ObservedStep]) -> None:
        """Add completed steps, in the order in which they were executed, to all metrics."""
        with self._lock:
            block: list[tuple[ObservedStep, NDArray[np.bool_] | None]] = []
            rows = 0
            for step in steps:
                batch = step.batch
                if not len(batch):
                    continue
                newest, clock = int(batch.ts.max()), self.clock
                late = None
                if clock is not None and int(batch.ts.min()) < clock - self._late_ms:
                    late = batch.ts < clock - self._late_ms
                if clock is not None and newest // DAY_MS > clock // DAY_MS:
                    # GAUC and AUC of the past day are computed while all of its rows are still retained.
                    self._add_block(block)
                    block, rows = [], 0
                    self.quality.rank_past_days(newest)
                block.append((step, late))
                rows += len(batch)
                self.rows[step.kind] += len(batch)
                self.quality.newest[step.kind] = max(self.quality.newest[step.kind], newest)
                self._busy_s += step.seconds
                self._loss.update(step.loss)
                self.clock = newest if clock is None else max(clock, newest)
                if rows >= BLOCK_ROWS:
                    self._add_block(block)
                    block, rows = [], 0
            self._add_block(block)

    def release(self, report: ReleaseReport) -> None:
        """Record a CPM release: adds a mark to the charts; if the gate refused it, a rule with metric ``release`` raises an alert."""
        state = "" if report.accepted else ", refused by the gate"
        with self._lock:
            self._mark(report.clock_ms, "release", f"CPM release {report.number}{state}")
            self._last_release = report

    def month(self, months: Sequence[str], clock_ms: int | None = None) -> None:
        """Record that CPM now reads other TPM snapshots: adds a mark to the charts."""
        with self._lock:
            at = self.clock if clock_ms is None else clock_ms
            self._mark(at or 0, "month", f"TPM {', '.join(months) or 'none'}")

    def score_probes(self, predict: Predict) -> None:
        """Score the probe slices with the current model; this adds a point to each forgetting curve.

        Call it at a checkpoint, in the thread that owns the model. It predicts at most ``probes.periods * probes.rows`` rows for each
        arm (one arm of natural rows, two of ad rows).
        """
        with self._lock:
            if self.clock is not None:
                self.forgetting.score(predict, self.clock)

    def snapshot(self) -> Snapshot:
        """Return all metrics as values for JSON. GAUC and AUC of the current day are updated first."""
        with self._lock:
            clock = self.clock or 0
            windows = self.quality.window_figures(clock)
            self.quality.rank_today(clock)
            return {
                "clock": self.clock,
                "rows": dict(self.rows),
                "training": {
                    "loss": dict(self._loss),
                    "rows_per_s": sum(self.rows.values()) / self._busy_s if self._busy_s else None,
                },
                "windows": windows,
                "series": self.quality.series_figures(),
                "drift": {**self.drift.to_json(), "detectors": self.detectors.to_json()},
                "forgetting": self.forgetting.to_json(),
                "transfer": self._transfer_figure.figures(self.rows["ad"]),
                "marks": list(self._marks),
                "alerts": [a.to_json() for a in self.rules.raised()],
            }

    def alerts(self) -> list[Alert]:
        """Alerts that are raised, oldest first."""
        with self._lock:
            return self.rules.raised()

    def take_events(self) -> list[Alert]:
        """Return the alerts raised or resolved since the last call, oldest first. Call :meth:`delivered` after delivering them."""
        with self._lock:
            return self._alerts.take()

    def delivered(self) -> None:
        """Mark all alerts returned by :meth:`take_events` as delivered, so that they are not returned again after a restart."""
        with self._lock:
            if self._alerts.confirm():
                self._save_alerts()

    # -- restart

    def restore(self, folder: Path, scores: ScoredRows | None = None, clock_ms: int = 0) -> None:
        """Continue from the state in a folder, and save to it from now on. Call it before the first :meth:`observe`.

        The following is restored:

        1. Raised and undelivered alerts, marks, and the changes that the detectors found.
        2. Counts of windows and series, Bloom filters of ids; the drift reference; probe slices and their curves.
        3. From the score log: sums of the windows, the rows from which GAUC is computed, the transfer comparison.

        Not restored for rows after the last :meth:`save`: counts of natural rows that were not scored, and, for all rows, the numbers
        of late rows and of unseen users and items and the TPM share.

        The drift table is empty until a full day has been compared again; alerts about drift do not change until then. The detectors
        themselves start again.

        Parameters
        ----------
        folder
            Made if absent.
        scores
            Rows scored so far, including rows of steps that were executed again during recovery.
        clock_ms
            Event time reached.
        """
        with self._lock:
            stored = self._folder = MonitorFolder(folder)
            alerts, figures = stored.alerts(), stored.figures()
            newest = [int(figures.get(f"newest.{d}", 0)) for d in ARMS_OF]
            clock = max(int(alerts.get("clock") or 0), clock_ms, *newest)
            self.clock = clock or None
            self._restore_alerts(alerts, clock)
            self.forgetting = Forgetting(self.settings.probes, stored.probes)
            reference = None if self._reference_is_given else stored.reference(self.schema)
            if reference is not None:
                ready = bool(alerts.get("reference_ready")) or clock >= reference.until_ms
                self.drift.resume(reference, ready=ready)
            if figures:
                self._restore_figures(figures, clock)
            if scores is not None:
                read_score_log(scores, self.quality, self.transfer, self.settings.transfer_days, clock)

    def save(self) -> None:
        """Write the state that :meth:`restore` reads, apart from the score log."""
        with self._lock:
            if self._folder is None or self.clock is None:
                return
            self._folder.save_figures(self.quality.to_arrays())
            self.forgetting.save()
            if self.drift.reference is not None and not self._reference_is_given:
                self._folder.save_reference(self.drift.reference, ready=self.drift.ready)
            self._save_alerts()

    def _restore_alerts(self, stored: Mapping[str, Any], clock: int) -> None:
        try:
            self._marks.extend(stored.get("marks", ()))
            self._alerts.add([Alert(**e) for e in stored.get("events", ())])
            self._alerts.add(self.rules.restore(stored.get("states", {}), clock))
            self.detectors.restore(stored.get("detectors", ()))
        except (KeyError, TypeError, ValueError) as error:
            log.error(
                "the stored alerts cannot be read (%r; another version?): they are not restored completely",
                error,
            )

    def _restore_figures(self, arrays: Mapping[str, NDArray[Any]], clock: int) -> None:
        try:
            self.quality.restore(arrays, clock)
        except (KeyError, ValueError) as error:
            log.error(
                "the stored counts cannot be read (%s; another version?): windows and series are not restored completely",
                error,
            )

    def _save_alerts(self) -> None:
        if self._folder is None:
            return
        self._folder.save_alerts(
            {
                "clock": self.clock,
                "states": self.rules.to_json(),
                "events": [asdict(e) for e in self._alerts.unconfirmed()],
                "marks": list(self._marks),
                "detectors": self.detectors.to_json(),
                "reference_ready": self.drift.ready,
            }
        )

    # -- adding rows

    def _add_block(self, steps: Sequence[tuple[ObservedStep, NDArray[np.bool_] | None]]) -> None:
        """Add steps to all metrics, each with a boolean mask of its late rows (None: no row is late).

        1. Join the rows of each domain to one block, in the order of the steps, and add it.
        2. If a day has ended, compute its GAUC and AUC.
        3. If a slot of the drift settings (``drift.every``) has ended, compare the last day with the drift reference.
        4. Evaluate the alert rules after a comparison, and otherwise every :data:`RULES_EVERY_MS`.
        """
        if not steps:
            return
        assert self.clock is not None
        for domain, arms in ARMS_OF.items():  # 1
            of_domain = [(step, late) for step, late in steps if step.kind == domain]
            if of_domain:
                self._add_rows(domain, RowBlock.join(of_domain, arms), self.clock)
        self.quality.rank_past_days(self.clock)  # 2
        reference_was_ready = self.drift.ready
        compared = self.drift.advance(self.clock)  # 3
        if self.drift.ready and not reference_was_ready and self.drift.reference is not None:
            self._mark(self.drift.reference.until_ms, "reference", "drift reference complete")
        interval = self.clock // RULES_EVERY_MS
        if compared or interval > self._rules_evaluated_at:  # 4
            self._rules_evaluated_at = interval
            self._evaluate_rules(self.clock)

    def _add_rows(self, domain: str, block: RowBlock, clock: int) -> None:
        scored = self.quality.add(domain, block, clock)
        self._add_drift(domain, block)
        for arm, p in block.scores.items():
            rows = np.flatnonzero(~np.isnan(p))
            self.detectors.add(
                domain, arm, scored.ts[rows], scored.label[rows], p[rows], self.drift.hourly_ctr(domain)
            )
        if domain == "ad":
            self._add_transfer(block.scores, scored)
        self.forgetting.add(domain, block.batch, block.history)

    def _add_drift(self, domain: str, block: RowBlock) -> None:
        p = block.scores.get(ARMS_OF[domain][0])
        predicted = None if p is None else ~np.isnan(p)
        if p is not None and predicted is not None and not predicted.all():
            self.drift.add(domain, block.batch, block.scored[predicted], p[predicted])
        else:
            self.drift.add(domain, block.batch, block.scored, p)

    def _add_transfer(self, scores: Mapping[str, NDArray[np.float32]], scored: Scored) -> None:
        if not all(arm in scores for arm in ARMS_OF["ad"]):
            return
        actr, control = scores["actr"], scores["ads_only"]
        both = ~np.isnan(actr) & ~np.isnan(control)
        self.transfer.add(scored.ts[both], scored.user[both], scored.label[both], actr[both], control[both])

    # -- alerts

    def _mark(self, ts: int, kind: Literal["release", "month", "reference"], text: str) -> None:
        mark: Mark = {"ts": ts, "kind": kind, "text": text}
        if (
            mark not in self._marks
        ):  # the last release is reported again after a restart; do not mark it twice
            self._marks.append(mark)

    def _evaluate_rules(self, clock: int) -> None:
        self._transfer_figure.advance(clock)
        inputs = Inputs(
            clock_ms=clock,
            windows=self.quality.windows,
            drift=None if self.drift.evaluated_at is None else self.drift.table,
            detectors=self.detectors,
            transfer=lambda: self._transfer_figure.figures(self.rows["ad"]),
            forgetting=self.forgetting,
            release=self._last_release,
            marks=list(self._marks),
        )
        events = self.rules.update(clock, lambda rule: measure(rule, inputs))
        if events:
            self._alerts.add(events)
            self._save_alerts()  # save first, so that undelivered alerts survive a crash
