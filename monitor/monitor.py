"""``Monitor``: what the steps of a trainer tell about the streams and the models; live and on old logs."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import DOMAIN_NAMES, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.time import DAY_MS, HOUR_MS, duration_ms
from ecdctr.models.training import ReleaseReport
from ecdctr.monitor.alerts import (
    Alert,
    Measurement,
    RuleBook,
    of_detectors,
    of_drift,
    of_forgetting,
    of_release,
    of_transfer,
    of_window,
)
from ecdctr.monitor.drift import Detectors, DriftWatch, Reference
from ecdctr.monitor.folder import MonitorFolder
from ecdctr.monitor.quality import (
    ARMS_OF,
    SERIES,
    WINDOWS,
    DomainSeries,
    DomainWindow,
    Forgetting,
    Predict,
    Scored,
    Seen,
    Tally,
    TransferWatch,
)
from ecdctr.monitor.settings import RuleSpec, WatchSettings
from ecdctr.state.row_logs import ScoreLog

__all__ = ["Monitor"]

log = logging.getLogger("ecdctr.monitor")

BLOCK_ROWS = 32_768
"""Rows held before they are worked off: what numpy asks of each call is then spread over many."""

RULES_EVERY_MS = 300_000
TALLY_MS = 60_000
"""All slots of windows and series are whole numbers of it."""

TODAY_EVERY_MS = 4 * HOUR_MS
"""Event time after which the day that goes on is ranked again."""

MARKS, EVENTS = 200, 1000


@dataclass(slots=True)
class _Held:
    """A step, put aside."""

    kind: str
    batch: Batch
    scored: NDArray[np.intp]
    scores: dict[str, NDArray[np.float32]]
    late: NDArray[np.bool_] | None
    history: NDArray[np.bool_] | None


class Monitor:
    """Watches a trainer through its steps. Safe to be read from other threads while one thread feeds it.

    Rows are only put aside by :meth:`observe` and worked off in blocks, so a step pays for little more than a list append.
    Everything follows event time; nothing depends on the wall clock.

    Parameters
    ----------
    schema
        The features, for the drift table's names.
    settings
        Windows, drift, forgetting, alert rules.
    reference
        What drift is measured against; default: as the settings say.

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
        self._newest = dict.fromkeys(ARMS_OF, -1)
        self.drift = DriftWatch(schema, s.drift, reference)
        self.detectors = Detectors()
        self.forgetting = Forgetting(s.probes)
        self.transfer = TransferWatch(s.transfer_days)
        self.rules = RuleBook(s.rules)
        self._windows = {
            w: {d: DomainWindow(w, arms, s.gauc_rows) for d, arms in ARMS_OF.items()} for w in WINDOWS
        }
        self._series = {w: {d: DomainSeries(w, arms) for d, arms in ARMS_OF.items()} for w in SERIES}
        self._seen = (Seen(), Seen())
        self._held: list[_Held] = []
        self._held_rows = 0
        self._ranked_until = self._hour_ranked = self._today_ranked = 0
        self._looked_at = -1
        self._late_ms = duration_ms(s.late_after)
        self._marks: deque[dict[str, Any]] = deque(maxlen=MARKS)
        self._events: list[Alert] = []
        self._in_flight: list[Alert] = []
        self._folder: MonitorFolder | None = None
        self._given_reference = reference is not None or bool(s.drift.reference)
        self._busy_s = 0.0
        self._transfer_day, self._transfer_rows = -1, 0
        self._loss: dict[str, float] = {}
        self._transfer_now: dict[str, Any] | None = None
        self._last_release: ReleaseReport | None = None
        self._lock = threading.RLock()

    def observe(
        self,
        kind: str,
        batch: Batch,
        scored: NDArray[np.intp],
        scores: dict[str, NDArray[np.float32]],
        loss: dict[str, float],
        seconds: float,
        has_history: NDArray[np.bool_] | None = None,
    ) -> None:
        """A step that was done: the fields of ``StepResult``, the batch it learned, and its wall seconds.

        Parameters
        ----------
        kind
            ``natural`` or ``ad``: the batch holds rows of this domain alone.
        scored, scores
            Rows that were predicted before they were learned, and their probabilities by arm.
        loss
            Mean loss by arm that learned.
        seconds
            Wall time of the step.
        has_history
            Which rows' users had TPM vectors, shape ``(n,)``; None: unknown.
        """
        if not len(batch):
            return
        newest = int(batch.ts.max())
        with self._lock:
            clock = self.clock
            late = None
            if clock is not None and int(batch.ts.min()) < clock - self._late_ms:
                late = batch.ts < clock - self._late_ms
            if clock is not None and newest // DAY_MS > clock // DAY_MS:
                self._work_off()  # the day's rows are all here still: rank them before others take their place
                self._rank_days(newest)
            self._held.append(_Held(kind, batch, scored, scores, late, has_history))
            self._held_rows += len(batch)
            self.rows[kind] += len(batch)
            self._newest[kind] = max(self._newest[kind], newest)
            self._busy_s += seconds
            self._loss.update(loss)
            self.clock = newest if clock is None else max(clock, newest)
            if self._held_rows >= BLOCK_ROWS:
                self._work_off()

    def release(self, report: ReleaseReport) -> None:
        """CPM was handed on: a mark on the time axis; an alert where the gate refused it."""
        state = "" if report.accepted else ", refused by the gate"
        with self._lock:
            self._mark(report.clock_ms, "release", f"CPM release {report.number}{state}")
            self._last_release = report

    def month(self, months: Sequence[str], clock_ms: int | None = None) -> None:
        """CPM reads other TPM snapshots from now on: a mark on the time axis."""
        with self._lock:
            at = self.clock if clock_ms is None else clock_ms
            self._mark(at or 0, "month", f"TPM {', '.join(months) or 'none'}")

    def checkpoint(self, predict: Predict) -> None:
        """Score the probe slices with the model as it is now: the forgetting chart's next point.

        Call it in the thread that owns the model, at a checkpoint. It costs a forward pass over the slices (``periods`` times ``rows``
        rows a domain at most).
        """
        with self._lock:
            self._work_off()
            if self.clock is not None:
                self.forgetting.score(predict, self.clock)

    def snapshot(self) -> dict[str, Any]:
        """Everything that is known now, ready for JSON (numbers that do not exist are None).

        Returns
        -------
        dict
            ``clock``
                Event time reached, ms; None before the first row.
            ``rows``
                ``{natural, ad}``: rows observed since start.
            ``training``
                ``loss`` of the last step by arm, ``rows_per_s`` of the steps themselves (wall clock).
            ``windows[window][domain]``
                ``window`` is ``5m``, ``1h`` or ``1d`` of event time up to ``clock``, ``domain`` ``natural`` or ``ad``:

                - ``rows, rows_per_s`` (event time), ``clicks, ctr, late`` (rows that came late), ``unseen_users, unseen_items``
                  (shares of rows), ``tpm_share`` (share of rows with TPM vectors);
                - ``arms[arm]``: ``rows, clicks, ctr, log_loss, ne, pcoc, auc, auc_error, gauc, gauc_error, gauc_users``. The true AUC
                  lies within ``auc +- auc_error`` always; GAUC within ``gauc +- gauc_error`` in 95 of 100 windows
                  (0: exact, all users were kept).
            ``series[window]``
                The past for charts, ``window`` ``5m`` (last day), ``1h`` (last week) or ``1d`` (last quarter): ``t`` (ends of the
                slots, ms, oldest first) and ``natural``, ``ad`` with one column a figure, as long as ``t``:
                ``rows, ctr, late``, ``arms[arm]`` with ``rows, log_loss, ne, pcoc`` and, from ``1h`` up, ``gauc, auc``.
            ``drift``
                - ``reference``: ``{name, from, until, rows: {natural, ad}, ready}`` (ms); ``ready`` False while it is being gathered;
                - ``evaluated_at``: event time of the last comparison, ms;
                - ``table``: one row for each thing compared, strongest first: ``what`` (``feature``, ``label``, ``prediction``,
                  ``behaviour``), ``name`` (feature, or arm), ``domain`` (``natural``, ``ad`` or ``both``), ``effect`` (1 = the
                  threshold at which it counts), ``psi, js, p_value, q_value`` (Benjamini-Hochberg), ``moved`` (bool),
                  ``since`` (ms, None unless moved), ``said`` (by how much, in words);
                - ``detectors``: ``{domain, arm, signal (log_loss, pcoc, ctr), detector, changes, last (ms or None), level}``.
            ``forgetting``
                ``periods``: ``{period, from, until, rows}`` of the probe slices; ``curves``: one for each (period, arm) with
                ``clock`` (list of ms), ``gauc``, ``log_loss`` and ``transfer`` (GAUC now minus GAUC when the period was last learned);
                ``staleness``: ``{arm, history ("all", "with", "without"), days: [low, high], rows, gauc}``.
            ``transfer``
                A-CTR against the control on ads: ``{rows, users, gauc: {value, low, high}, log_loss: {value, low, high},
                verdict}`` ("better", "worse", "undecided"), over the last ``days`` days.
            ``marks``
                ``{ts (ms), kind ("release", "month", "reference"), text}``, oldest first, the last 200.
            ``alerts``
                As :meth:`alerts`, as dictionaries.
        """
        with self._lock:
            self._work_off()
            clock = self.clock or 0
            windows = {
                w: {d: window.figures(clock) for d, window in by.items()} for w, by in self._windows.items()
            }
            self._rank_today(clock)
            return {
                "clock": self.clock,
                "rows": dict(self.rows),
                "training": {
                    "loss": dict(self._loss),
                    "rows_per_s": sum(self.rows.values()) / self._busy_s if self._busy_s else None,
                },
                "windows": windows,
                "series": {w: _aligned(by) for w, by in self._series.items()},
                "drift": self.drift.to_json() | {"detectors": self.detectors.to_json()},
                "forgetting": self.forgetting.to_json(),
                "transfer": self._transfer(),
                "marks": list(self._marks),
                "alerts": [a.to_json() for a in self.rules.raised()],
            }

    def alerts(self) -> list[Alert]:
        """Alerts now raised, oldest first."""
        with self._lock:
            return self.rules.raised()

    def take_events(self) -> list[Alert]:
        """Alerts raised or resolved since the last call, in order, each once; call :meth:`delivered` when they are handed on."""
        with self._lock:
            events, self._events = self._events, []
            self._in_flight = (self._in_flight + events)[-EVENTS:]
            return events

    def delivered(self) -> None:
        """What :meth:`take_events` gave has been handed on: a restart will not give it again."""
        with self._lock:
            if self._in_flight:
                self._in_flight = []
                self._keep_alerts()

    def flush(self) -> None:
        """Work off what is held; for the end of a log."""
        with self._lock:
            self._work_off()

    # -- over a restart

    def take_up(self, folder: Path, scores: ScoreLog | None = None, clock_ms: int = 0) -> None:
        """Go on from what a monitor kept in a folder, and keep everything there from now on. Before the first row.

        1. Alerts that are raised, events that nobody was told of, marks.
        2. Counts of windows and series, ids met so far; the drift reference; probe slices and their curves.
        3. From the score log: sums of the windows, the rows behind GAUC, the transfer figure. Only of natural rows that were not scored
           since the last :meth:`keep` counts are missing.

        The drift table and the detectors begin anew: until a day has been seen, alerts that rest on them stay as they are.

        Parameters
        ----------
        folder
            Made if absent.
        scores
            Rows scored so far, with those that recovery did again.
        clock_ms
            Event time reached.
        """
        with self._lock:
            kept = self._folder = MonitorFolder(folder)
            said, figures = kept.alerts(), kept.figures()
            clock = max(
                [
                    int(said.get("clock") or 0),
                    clock_ms,
                    *(int(figures.get(f"newest.{d}", 0)) for d in ARMS_OF),
                ]
            )
            self.clock = clock or None
            try:
                self._take_up_alerts(said, clock)
            except (KeyError, TypeError, ValueError) as error:  # of another version
                log.error("alerts of an earlier run do not fit (%r): they begin anew", error)
            self.forgetting = Forgetting(self.settings.probes, kept.probes)
            reference = None if self._given_reference else kept.reference(self.schema)
            if reference is not None:
                ready = bool(said.get("reference_ready")) or clock >= reference.until_ms
                self.drift.resume(reference, ready=ready)
            if figures and self._take_up_figures(figures, clock):
                self._newest = {d: int(figures[f"newest.{d}"]) for d in ARMS_OF}
            if scores is not None:
                self._refill(scores, clock)

    def keep(self) -> None:
        """Write what :meth:`take_up` reads, but for the score log. Costs some milliseconds for each million ids met."""
        with self._lock:
            if self._folder is None or self.clock is None:
                return
            self._work_off()
            figures = {f"newest.{d}": np.asarray(ts) for d, ts in self._newest.items()}
            for name, part in self._parts().items():
                figures |= {f"{name}.{k}": v for k, v in part.kept().items()}
            self._folder.save_figures(figures)
            self.forgetting.keep()
            if self.drift.reference is not None and not self._given_reference:
                self._folder.save_reference(self.drift.reference, ready=self.drift.ready)
            self._keep_alerts()

    def _parts(self) -> dict[str, DomainWindow | DomainSeries | Seen]:
        windows = {f"window.{w}.{d}": v for w, by in self._windows.items() for d, v in by.items()}
        series = {f"series.{w}.{d}": v for w, by in self._series.items() for d, v in by.items()}
        return {**windows, **series, "seen.users": self._seen[0], "seen.items": self._seen[1]}

    def _take_up_alerts(self, said: dict[str, Any], clock: int) -> None:
        self._marks.extend(said.get("marks", ()))
        self._events = [Alert(**e) for e in said.get("events", ())]
        self._events += self.rules.restore(said.get("states", {}), clock)
        self.detectors.restore(said.get("detectors", ()))

    def _take_up_figures(self, figures: dict[str, Any], clock: int) -> bool:
        try:
            for name, part in self._parts().items():
                arrays = {k: figures[f"{name}.{k}"] for k in part.kept()}
                part.restore(arrays, clock)
        except (KeyError, ValueError) as error:  # of another version
            log.error("figures of an earlier run do not fit (%s): windows and series begin anew", error)
            return False
        return True

    def _keep_alerts(self) -> None:
        if self._folder is None:
            return
        self._folder.save_alerts(
            {
                "clock": self.clock,
                "states": self.rules.to_json(),
                "events": [asdict(e) for e in self._in_flight + self._events],
                "marks": list(self._marks),
                "detectors": self.detectors.to_json(),
                "reference_ready": self.drift.ready,
            }
        )

    def _refill(self, scores: ScoreLog, clock: int) -> None:
        """Rows of the score log, a day at a time; those that windows and series have counted are told by event time."""
        known = dict(self._newest)
        today = clock // DAY_MS
        for day in range(today - max(self.settings.transfer_days, 1), today + 1):
            if day not in scores.sizes():
                continue
            rows = scores.read(first_day=day, last_day=day)
            for number, domain in enumerate(DOMAIN_NAMES):
                if domain == "natural" and day < today - 1:
                    continue  # no window of theirs goes back so far
                mine = np.flatnonzero(rows["domain"] == number)
                for i in range(0, len(mine), BLOCK_ROWS):
                    at = mine[i : i + BLOCK_ROWS]
                    counted = rows["ts"][at] <= known[domain]
                    for part, again in ((at[counted], True), (at[~counted], False)):
                        if len(part):
                            self._refill_block(domain, {k: v[part] for k, v in rows.items()}, clock, again)

    def _refill_block(self, domain: str, rows: dict[str, NDArray[Any]], clock: int, counted: bool) -> None:
        arms = ARMS_OF[domain]
        ts, user, label = rows["ts"], rows["user"], rows["label"].astype(np.float32)
        scores = {arm: rows[f"p_{arm}"] for arm in arms if f"p_{arm}" in rows}
        scored = Scored(ts, user, label, scores, arms)
        tally = Tally(TALLY_MS, ts, (label > 0, None, None, None, None, None), scored)
        if counted:
            tally.counts[:] = 0
        else:
            self._newest[domain] = max(self._newest[domain], int(ts.max()))
            for series in self._series.values():
                series[domain].add(tally)
        for by in self._windows.values():
            by[domain].add(tally, scored, clock)
        if domain == "ad" and all(arm in scores for arm in arms):
            both = np.flatnonzero(~np.isnan(scores["actr"]) & ~np.isnan(scores["ads_only"]))
            self.transfer.add(
                ts[both], user[both], label[both], scores["actr"][both], scores["ads_only"][both]
            )

    # -- blocks

    def _work_off(self) -> None:
        """Everything that was held, one block a domain, in event order; then whatever event time made due."""
        if not self._held:
            return
        held, self._held, self._held_rows = self._held, [], 0
        assert self.clock is not None
        for domain in ARMS_OF:
            mine = [h for h in held if h.kind == domain]
            if mine:
                self._block(domain, mine, self.clock)
        self._rank_days(self.clock)
        reference_was_ready = self.drift.ready
        compared = self.drift.advance(self.clock)
        if self.drift.ready and not reference_was_ready and self.drift.reference is not None:
            self._mark(self.drift.reference.until_ms, "reference", "drift reference complete")
        look = self.clock // RULES_EVERY_MS
        if compared or look > self._looked_at:
            self._looked_at = look
            if self.clock // DAY_MS != self._transfer_day:
                self._transfer_day, self._transfer_now = self.clock // DAY_MS, None
            events = self.rules.update(self.clock, self._measure)
            if events:
                self._events = (self._events + events)[-EVENTS:]
                self._keep_alerts()  # before anybody hears of them

    def _block(self, domain: str, held: list[_Held], clock: int) -> None:
        arms = ARMS_OF[domain]
        batch = held[0].batch if len(held) == 1 else Batch.concat([_plain(h.batch) for h in held])
        starts = np.cumsum([0, *(len(h.batch) for h in held[:-1])])
        at = np.concatenate([h.scored + s for h, s in zip(held, starts, strict=True)])
        scores = {arm: _joined(held, arm) for arm in arms if any(arm in h.scores for h in held)}
        late = _joined_masks([(h.late, len(h.batch)) for h in held])
        history = _joined_history(held)

        scored = Scored(batch.ts[at], batch.user[at], batch.label[at], scores, arms)
        columns = (
            batch.label > 0,
            late,
            self._seen[0].add(batch.user),
            self._seen[1].add(batch.item),
            None if history is None else history == 1,
            None if history is None else history >= 0,
        )
        tally = Tally(TALLY_MS, batch.ts, columns, scored)
        for by in self._windows.values():
            by[domain].add(tally, scored, clock)
        for series in self._series.values():
            series[domain].add(tally)

        main = scores.get(arms[0])
        known = None if main is None else ~np.isnan(main)
        if main is not None and known is not None and not known.all():
            self.drift.add(domain, batch, at[known], main[known])
        else:
            self.drift.add(domain, batch, at, main)
        for arm, p in scores.items():
            rows = np.flatnonzero(~np.isnan(p))
            self.detectors.add(
                domain, arm, scored.ts[rows], scored.label[rows], p[rows], self._hourly(domain)
            )
        if domain == "ad" and all(arm in scores for arm in arms):
            both = ~np.isnan(scores["actr"]) & ~np.isnan(scores["ads_only"])
            self.transfer.add(
                scored.ts[both], scored.user[both], scored.label[both],
                scores["actr"][both], scores["ads_only"][both],
            )  # fmt: skip
        self.forgetting.add(domain, batch, history)

    def _hourly(self, domain: str) -> NDArray[np.float64] | None:
        reference = self.drift.reference
        hours = None if reference is None or not self.drift.ready else reference.hours.get(domain)
        if hours is None:
            return None
        mean = hours[0].sum() / max(float(hours[1].sum()), 1.0)
        # A quiet hour leans on the mean: 200 rows of it.
        out: NDArray[np.float64] = (hours[0] + 200 * mean) / (hours[1] + 200)
        return np.clip(out, 1e-6, 1 - 1e-6)

    def _rank_days(self, clock: int) -> None:
        """GAUC and AUC of the hours and of the day that has passed, if one has."""
        day = clock // DAY_MS * DAY_MS
        if day > self._ranked_until:
            for name in ("1h", "1d"):
                self._rank(name, max(self._ranked_until, day - DAY_MS), day)
            self._ranked_until = self._hour_ranked = self._today_ranked = day

    def _rank_today(self, clock: int) -> None:
        """For a reader, the same of the day that goes on: the hours since the last look, the day so far now and then."""
        if clock > self._hour_ranked:
            self._rank("1h", self._hour_ranked // HOUR_MS * HOUR_MS, clock + 1)
            self._hour_ranked = clock
        if clock >= self._today_ranked + TODAY_EVERY_MS:
            self._rank("1d", self._ranked_until, clock + 1)
            self._today_ranked = clock

    def _rank(self, name: str, since: int, until: int) -> None:
        for domain in ARMS_OF:
            self._series[name][domain].rank(self._windows["1d"][domain].users, since, until)

    def _transfer(self) -> dict[str, Any]:
        """A figure over days: made anew when a day has passed or a twentieth of its rows has come since."""
        fresh = self.rows["ad"] - self._transfer_rows
        if self._transfer_now is None or 20 * fresh > self._transfer_now["rows"]:
            self._transfer_now, self._transfer_rows = self.transfer.to_json(), self.rows["ad"]
        return self._transfer_now

    # -- alerts

    def _mark(self, ts: int, kind: str, text: str) -> None:
        mark = {"ts": ts, "kind": kind, "text": text}
        if mark not in self._marks:  # after a restart the last release is told once more
            self._marks.append(mark)

    def _measure(self, rule: RuleSpec) -> Sequence[Measurement] | None:
        clock = self.clock or 0
        kind, _, what = rule.metric.partition(".")
        if kind == "drift":
            if what == "detectors":
                return of_detectors(rule, self.detectors.agreeing(clock, DAY_MS))
            if self.drift.evaluated_at is None:
                return None
            return of_drift(rule, what, self.drift.table, list(self._marks))
        if kind == "transfer":
            return of_transfer(rule, self._transfer())
        if kind == "release":
            return of_release(rule, self._last_release)
        if kind == "forgetting":
            return of_forgetting(rule, self.forgetting.worst())
        return of_window(rule, self._windows[rule.window], clock)


def _plain(batch: Batch) -> Batch:
    """Without the columns that not every batch has."""
    return Batch(batch.ts, batch.domain, batch.user, batch.item, batch.features, batch.dense, batch.label)


def _joined(held: list[_Held], arm: str) -> NDArray[np.float32]:
    return np.concatenate(
        [h.scores[arm] if arm in h.scores else np.full(len(h.scored), np.nan, np.float32) for h in held]
    )


def _joined_masks(parts: list[tuple[NDArray[np.bool_] | None, int]]) -> NDArray[np.bool_]:
    return np.concatenate([np.zeros(n, np.bool_) if m is None else m for m, n in parts])


def _joined_history(held: list[_Held]) -> NDArray[np.int8] | None:
    if all(h.history is None for h in held):
        return None
    return np.concatenate(
        [np.full(len(h.batch), -1, np.int8) if h.history is None else h.history.astype(np.int8) for h in held]
    )


def _aligned(by: dict[str, DomainSeries]) -> dict[str, Any]:
    """The series of both domains on one time axis."""
    found = {d: s.to_json() for d, s in by.items()}
    slots = sorted({s for axis, _ in found.values() for s in axis})
    length = next(iter(by.values())).slot_ms
    out: dict[str, Any] = {"t": [(s + 1) * length for s in slots]}
    for d, (axis, columns) in found.items():
        place = {s: i for i, s in enumerate(axis)}
        at = [place.get(s) for s in slots]

        def spread(values: list[Any], at: list[int | None] = at) -> list[Any]:
            return [None if i is None else values[i] for i in at]

        out[d] = {
            k: {arm: {n: spread(v) for n, v in f.items()} for arm, f in c.items()}
            if k == "arms"
            else spread(c)
            for k, c in columns.items()
        }
    return out
