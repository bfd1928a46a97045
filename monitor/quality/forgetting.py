"""``Forgetting``: scores rows of earlier periods again at checkpoints; GAUC by the time since a user's rows were last learned.

A probe slice contains all rows of a sample of users in one period of event time. It is scored at the first checkpoint after the
period, and again at later ones; ``transfer`` is GAUC now minus GAUC at the first time (backward transfer: Lopez-Paz and Ranzato,
"Gradient episodic memory for continual learning", NeurIPS 2017). Below 0 the model has forgotten.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import DOMAIN_NAMES, Batch
from ecdctr.events.time import DAY_MS, duration_ms
from ecdctr.monitor.quality.results import ForgettingFigures, ProbeCurve, StalenessFigure
from ecdctr.monitor.settings import ProbeSettings
from ecdctr.replay.metrics import gauc, log_loss
from ecdctr.state.errors import StateError
from ecdctr.state.hashing import mix64
from ecdctr.state.probes import ProbeStore

__all__ = ["ARMS_OF", "STALENESS_DAYS", "Forgetting", "Predict"]

log = logging.getLogger("ecdctr.monitor")

Predict = Callable[[Batch, str], NDArray[np.float32]]
"""``predict(batch, arm)``: click probabilities of the rows, shape ``(n,)``; the model does not change."""

ARMS_OF = {"natural": ("cpm",), "ad": ("actr", "ads_only")}
STALENESS_DAYS = (0, 1, 3, 7, 14, 30)
POINTS = 200
"""Largest number of points per curve; when it is exceeded, every second point between the first and the last is removed."""

_SALT = np.uint64(0x3B9AC6E15F7D2084)


@dataclass(slots=True)
class _OpenSlice:
    """Rows of the current period."""

    number: int
    parts: list[tuple[Batch, NDArray[np.int8]]] = field(default_factory=list)
    rows: int = 0
    share: float = 1.0  # share of users (by hash) whose rows are kept


@dataclass(slots=True)
class _Slice:
    number: int
    domain: str
    batch: Batch
    history: NDArray[np.int8]  # TPM vectors of the row's user: 1 yes, 0 no, -1 unknown
    first: dict[str, float] = field(default_factory=dict)
    share: float = 1.0  # share of users (by hash) whose rows are kept


@dataclass(slots=True)
class _Curve:
    clock: list[int] = field(default_factory=list)
    gauc: list[float] = field(default_factory=list)
    log_loss: list[float] = field(default_factory=list)
    transfer: list[float] = field(default_factory=list)

    def append(self, clock: int, value: float, loss: float, change: float) -> None:
        self.clock.append(clock)
        self.gauc.append(value)
        self.log_loss.append(loss)
        self.transfer.append(change)
        if len(self.clock) > POINTS:
            del self.clock[1:-1:2], self.gauc[1:-1:2], self.log_loss[1:-1:2], self.transfer[1:-1:2]

    def to_columns(self) -> dict[str, NDArray[Any]]:
        return {
            "clock": np.asarray(self.clock, np.int64),
            **{k: np.asarray(getattr(self, k), np.float64) for k in ("gauc", "log_loss", "transfer")},
        }

    def to_json(self, period: str, domain: str, arm: str) -> ProbeCurve:
        return {
            "period": period,
            "domain": domain,
            "arm": arm,
            "clock": list(self.clock),
            "gauc": [_finite(v) for v in self.gauc],
            "log_loss": [_finite(v) for v in self.log_loss],
            "transfer": [_finite(v) for v in self.transfer],
        }


class Forgetting:
    """Collects probe slices, scores them, and stores them with their curves.

    Parameters
    ----------
    settings
        Length of a period, number of periods that are kept, maximum number of rows of a slice.
    store
        Where slices are stored; slices that it contains already are loaded.
    """

    def __init__(self, settings: ProbeSettings, store: ProbeStore | None = None) -> None:
        self.settings = settings
        self.store = store or ProbeStore(None)
        self._period_ms = duration_ms(settings.period)
        self._open: dict[str, _OpenSlice] = {}
        self._slices: list[_Slice] = []
        self._curves: dict[tuple[str, int, str], _Curve] = {}
        self._staleness: list[StalenessFigure] = []
        self._users: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._last: NDArray[np.int64] = np.empty(0, np.int64)
        self._largest_share = 1.0
        for name in self.store.names():
            self._load_slice(name)
        self._track_users(self._slices)
        self._load_open_slices()
        self._load_curves()

    # -- stored state

    def _load_slice(self, name: str) -> None:
        domain, _, number = name.rpartition("-")
        if domain not in DOMAIN_NAMES or not number.isdigit():
            return
        columns = self._get(name)
        if columns is None:
            return
        history = columns.pop("history").astype(np.int8)
        first = {k.removeprefix("first."): float(columns.pop(k)) for k in list(columns) if "." in k}
        share = float(columns.pop("share", 1.0))
        self._slices.append(_Slice(int(number), domain, Batch(**columns), history, first, share))

    def save(self) -> None:
        """Store open slices, curves, and the time at which a row of each tracked user was last learned.

        A finished slice is stored when its period ends.
        """
        columns: dict[str, NDArray[Any]] = {"users": self._users, "last": self._last}
        for (domain, number, arm), curve in self._curves.items():
            for name, values in curve.to_columns().items():
                columns[f"{domain}/{number}/{arm}/{name}"] = values
        self._put("curves", columns)
        for domain, open_slice in self._open.items():
            if open_slice.parts:
                self._put(
                    f"open-{domain}",
                    self._columns_of(open_slice)
                    | {"number": np.asarray(open_slice.number), "share": np.asarray(open_slice.share)},
                )

    def _load_open_slices(self) -> None:
        names = self.store.names()
        for domain in DOMAIN_NAMES:
            found = self._get(f"open-{domain}") if f"open-{domain}" in names else None
            if found is not None:
                period, share = int(found.pop("number")), float(found.pop("share"))
                history = found.pop("history")
                batch = Batch(**found)
                self._open[domain] = _OpenSlice(period, [(batch, history)], len(batch), share)

    def _load_curves(self) -> None:
        found = self._get("curves") if "curves" in self.store.names() else None
        if found is None:
            return
        users, last = found.pop("users"), found.pop("last")
        at = np.searchsorted(self._users, users)
        at[at == len(self._users)] = 0
        tracked = self._users[at] == users if len(self._users) else np.zeros(len(users), np.bool_)
        np.maximum.at(self._last, at[tracked], last[tracked])
        slices = {(s.domain, s.number) for s in self._slices}
        for name, values in found.items():
            domain, number, arm, column = name.split("/")
            if (domain, int(number)) in slices:
                curve = self._curves.setdefault((domain, int(number), arm), _Curve())
                setattr(curve, column, values.tolist())

    def _get(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(self.store.get(name))
        except StateError as error:
            log.error("%s", error)
            return None

    # -- collecting rows

    def add(self, domain: str, batch: Batch, has_history: NDArray[np.int8] | None = None) -> None:
        """Add rows that are learned, all of one domain.

        Parameters
        ----------
        domain
            ``natural`` or ``ad``.
        batch
            The rows.
        has_history
            Whether each row's user had TPM vectors: 1, 0, or -1 for unknown, shape ``(n,)``; None: unknown for all.
        """
        if not len(batch):
            return
        period = batch.ts // self._period_ms
        history = np.full(len(batch), -1, np.int8) if has_history is None else has_history
        for number in range(int(period.min()), int(period.max()) + 1):
            open_slice = self._open.get(domain)
            if open_slice is None or number > open_slice.number:
                self._close(domain)
                open_slice = self._open[domain] = _OpenSlice(number)
            if number < open_slice.number:
                continue
            rows = np.flatnonzero(period == number)
            if open_slice.share < 1:
                rows = rows[_in_share(batch.user[rows], open_slice.share)]
            if len(rows):
                open_slice.parts.append((Batch(**batch.take(rows).columns()), history[rows]))
                open_slice.rows += len(rows)
            if open_slice.rows > 2 * self.settings.rows:
                self._thin(open_slice)
        self._mark_learned(batch)  # last, because a period that has just ended adds users to track

    def _thin(self, open_slice: _OpenSlice) -> None:
        """Halve the share of users until the slice fits into ``rows``."""
        while open_slice.rows > self.settings.rows and open_slice.share > 1e-9:
            open_slice.share /= 2
            masks = [_in_share(b.user, open_slice.share) for b, _ in open_slice.parts]
            open_slice.parts = [
                (b.take(m), h[m]) for (b, h), m in zip(open_slice.parts, masks, strict=True) if m.any()
            ]
            open_slice.rows = sum(len(b) for b, _ in open_slice.parts)

    def _close(self, domain: str) -> None:
        open_slice = self._open.pop(domain, None)
        if open_slice is None or not open_slice.parts:
            return
        self._thin(open_slice)
        if not open_slice.parts:
            return
        columns: dict[str, Any] = self._columns_of(open_slice)
        history = columns.pop("history")
        s = _Slice(open_slice.number, domain, Batch(**columns), history, share=open_slice.share)
        self._slices.append(s)
        self._store_slice(s)
        of_domain = sorted((s for s in self._slices if s.domain == domain), key=lambda s: s.number)
        for old in of_domain[: -self.settings.periods]:
            self._slices.remove(old)
            self.store.drop(f"{domain}-{old.number}")
            for arm in ARMS_OF[domain]:
                self._curves.pop((domain, old.number, arm), None)
        self._track_users([s])

    def _store_slice(self, s: _Slice) -> None:
        columns: dict[str, NDArray[Any]] = s.batch.columns()
        columns |= {"history": s.history, "share": np.asarray(s.share)}
        columns |= {f"first.{arm}": np.asarray(v) for arm, v in s.first.items()}
        self._put(f"{s.domain}-{s.number}", columns)

    def _put(self, name: str, columns: dict[str, NDArray[Any]]) -> None:
        try:
            self.store.put(name, columns)
        except StateError as error:
            log.error("%s: %s is kept in memory only", error, name)

    @staticmethod
    def _columns_of(open_slice: _OpenSlice) -> dict[str, NDArray[Any]]:
        columns: dict[str, NDArray[Any]] = Batch.concat([b for b, _ in open_slice.parts]).columns()
        return columns | {"history": np.concatenate([h for _, h in open_slice.parts])}

    # -- time since each user was last learned

    def _track_users(self, new: Sequence[_Slice]) -> None:
        """Track when a row of each user of a slice was last learned; ``new``: slices whose users are not tracked yet."""
        before, last = self._users, self._last
        self._largest_share = max((s.share for s in self._slices), default=1.0)
        self._users = np.unique(np.concatenate([before[:0], *(s.batch.user for s in self._slices)]))
        self._last = np.zeros(len(self._users), np.int64)
        if len(before):
            at = np.searchsorted(before, self._users)
            at[at == len(before)] = 0
            self._last = np.where(before[at] == self._users, last[at], 0)
        for s in new:
            np.maximum.at(self._last, np.searchsorted(self._users, s.batch.user), s.batch.ts)

    def _mark_learned(self, batch: Batch) -> None:
        if not len(self._users):
            return
        user, ts = batch.user, batch.ts
        if self._largest_share < 1:
            rows = _in_share(user, self._largest_share)
            user, ts = user[rows], ts[rows]
        at = np.searchsorted(self._users, user)
        at[at == len(self._users)] = 0
        tracked = self._users[at] == user
        np.maximum.at(self._last, at[tracked], ts[tracked])

    # -- scoring

    def score(self, predict: Predict, clock_ms: int) -> None:
        """Score all slices with the current model.

        1. Each slice by each arm of its domain: GAUC, loss, and the change of GAUC since the slice was first scored.
        2. All rows of an arm together, by days since a row of the user was last learned, with and without TPM vectors.
        """
        by_arm: dict[str, list[tuple[_Slice, NDArray[np.float32]]]] = {}
        for s in sorted(self._slices, key=lambda s: (s.number, DOMAIN_NAMES.index(s.domain))):
            is_new = not s.first
            for arm in ARMS_OF[s.domain]:
                p = predict(s.batch, arm)
                value = gauc(s.batch.label, p, s.batch.user).value
                first = s.first.setdefault(arm, value)
                curve = self._curves.setdefault((s.domain, s.number, arm), _Curve())
                curve.append(clock_ms, value, log_loss(s.batch.label, p), value - first)
                by_arm.setdefault(arm, []).append((s, p))
            if is_new:
                self._store_slice(s)
        self._staleness = [
            line for arm, parts in by_arm.items() for line in self._by_age(arm, parts, clock_ms)
        ]

    def _by_age(
        self, arm: str, parts: list[tuple[_Slice, NDArray[np.float32]]], clock_ms: int
    ) -> list[StalenessFigure]:
        p = np.concatenate([q for _, q in parts])
        user, label = (
            np.concatenate([getattr(s.batch, name) for s, _ in parts]) for name in ("user", "label")
        )
        history = np.concatenate([s.history for s, _ in parts])
        days = (clock_ms - self._last[np.searchsorted(self._users, user)]) / DAY_MS
        out: list[StalenessFigure] = []
        for low, high in zip(STALENESS_DAYS, [*STALENESS_DAYS[1:], None], strict=True):
            inside = (days >= low) if high is None else (days >= low) & (days < high)
            groups: tuple[tuple[Literal["all", "with", "without"], NDArray[np.bool_]], ...] = (
                ("all", inside),
                ("with", inside & (history == 1)),
                ("without", inside & (history == 0)),
            )
            for name, rows in groups:
                n = int(rows.sum())
                if not n:
                    continue
                value = _finite(gauc(label[rows], p[rows], user[rows]).value)
                out.append({"arm": arm, "history": name, "days": (low, high), "rows": n, "gauc": value})
        return out

    def worst(self) -> dict[str, tuple[float, str]]:
        """By arm: the lowest current transfer of all slices, and the period of that slice."""
        out: dict[str, tuple[float, str]] = {}
        for (_, number, arm), curve in self._curves.items():
            value = curve.transfer[-1] if curve.transfer else math.nan
            if math.isfinite(value) and (arm not in out or value < out[arm][0]):
                out[arm] = (value, self._name(number))
        return out

    def _name(self, number: int) -> str:
        return datetime.fromtimestamp(number * self._period_ms / 1000, UTC).strftime("%Y-%m-%d")

    def to_json(self) -> ForgettingFigures:
        """The section ``forgetting`` of ``Monitor.snapshot``."""
        slices = sorted(self._slices, key=lambda s: (s.number, s.domain))
        return {
            "periods": [
                {
                    "period": self._name(s.number),
                    "domain": s.domain,
                    "from": s.number * self._period_ms,
                    "until": (s.number + 1) * self._period_ms,
                    "rows": len(s.batch),
                }
                for s in slices
            ],
            "curves": [
                curve.to_json(self._name(number), domain, arm)
                for (domain, number, arm), curve in sorted(self._curves.items())
            ],
            "staleness": self._staleness,
        }


def _in_share(user: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    return np.asarray(mix64(user ^ _SALT) < np.uint64(min(int(share * 2.0**64), 2**64 - 1)))


def _finite(v: float) -> float | None:
    return float(v) if math.isfinite(v) else None
