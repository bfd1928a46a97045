"""Forgetting: rows of earlier periods scored again by every checkpoint, and ranking by how stale an id has become.

A slice holds all rows of a fixed sample of users in one period of event time. When the period is over, the slice is scored at
once, and again at each checkpoint; ``transfer`` is GAUC now minus GAUC then (backward transfer: Lopez-Paz and Ranzato,
"Gradient episodic memory for continual learning", NeurIPS 2017). Below 0: forgotten.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import DOMAIN_NAMES, Batch
from ecdctr.events.time import DAY_MS, duration_ms
from ecdctr.monitor.settings import ProbeSettings
from ecdctr.replay.metrics import gauc, log_loss
from ecdctr.state.errors import StateError
from ecdctr.state.hashing import mix64
from ecdctr.state.probes import ProbeStore

__all__ = ["ARMS_OF", "STALENESS_DAYS", "Forgetting", "Predict"]

log = logging.getLogger("ecdctr.monitor")

Predict = Callable[[Batch, str], NDArray[np.float32]]
"""``predict(batch, arm)``: click probabilities of any rows; nothing is learned."""

ARMS_OF = {"natural": ("cpm",), "ad": ("actr", "ads_only")}
STALENESS_DAYS = (0, 1, 3, 7, 14, 30)
POINTS = 200
"""Points kept a curve; older ones are thinned out, the first and the last stay."""

_SALT = np.uint64(0x3B9AC6E15F7D2084)


@dataclass(slots=True)
class _Gathering:
    """Rows of the period that is going on."""

    number: int
    parts: list[tuple[Batch, NDArray[np.int8]]] = field(default_factory=list)
    rows: int = 0
    share: float = 1.0


@dataclass(slots=True)
class _Slice:
    number: int
    domain: str
    batch: Batch
    history: NDArray[np.int8]  # 1 with, 0 without, -1 unknown
    first: dict[str, float] = field(default_factory=dict)
    share: float = 1.0


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

    def to_json(self) -> dict[str, Any]:
        numbers = {"gauc": self.gauc, "log_loss": self.log_loss, "transfer": self.transfer}
        return {
            "clock": list(self.clock),
            **{k: [_finite(v) for v in values] for k, values in numbers.items()},
        }


class Forgetting:
    """Keeps probe slices and their curves.

    Parameters
    ----------
    settings
        Length of a period, how many, rows of a slice.
    store
        Where slices are kept; those found there are taken up.
    """

    def __init__(self, settings: ProbeSettings, store: ProbeStore | None = None) -> None:
        self.settings = settings
        self.store = store or ProbeStore(None)
        self._period_ms = duration_ms(settings.period)
        self._gathering: dict[str, _Gathering] = {}
        self._slices: list[_Slice] = []
        self._curves: dict[tuple[str, int, str], _Curve] = {}
        self._staleness: list[dict[str, Any]] = []
        self._users: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._last: NDArray[np.int64] = np.empty(0, np.int64)
        for name in self.store.names():
            self._take_up(name)
        self._follow(self._slices)
        self._take_up_rest()

    def _take_up(self, name: str) -> None:
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

    # -- over a restart

    def keep(self) -> None:
        """Keep what has changed since slices were kept: the periods that go on, curves, and when users were last learned."""
        columns: dict[str, NDArray[Any]] = {"users": self._users, "last": self._last}
        for (domain, number, arm), curve in self._curves.items():
            for name, values in curve.to_columns().items():
                columns[f"{domain}/{number}/{arm}/{name}"] = values
        self._put("curves", columns)
        for domain, g in self._gathering.items():
            if g.parts:
                self._put(
                    f"open-{domain}",
                    self._columns_of(g) | {"number": np.asarray(g.number), "share": np.asarray(g.share)},
                )

    def _take_up_rest(self) -> None:
        names = self.store.names()
        for domain in DOMAIN_NAMES:
            found = self._get(f"open-{domain}") if f"open-{domain}" in names else None
            if found is not None:
                period, share = int(found.pop("number")), float(found.pop("share"))
                history = found.pop("history")
                batch = Batch(**found)
                self._gathering[domain] = _Gathering(period, [(batch, history)], len(batch), share)
        found = self._get("curves") if "curves" in names else None
        if found is None:
            return
        users, last = found.pop("users"), found.pop("last")
        at = np.searchsorted(self._users, users)
        at[at == len(self._users)] = 0
        met = self._users[at] == users if len(self._users) else np.zeros(len(users), np.bool_)
        np.maximum.at(self._last, at[met], last[met])
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

    # -- gathering

    def add(self, domain: str, batch: Batch, has_history: NDArray[np.int8] | None = None) -> None:
        """Rows that are being learned, of one domain. ``has_history``: 1, 0, or -1 for unknown."""
        if not len(batch):
            return
        period = batch.ts // self._period_ms
        history = np.full(len(batch), -1, np.int8) if has_history is None else has_history
        for number in range(int(period.min()), int(period.max()) + 1):
            g = self._gathering.get(domain)
            if g is None or number > g.number:
                self._close(domain)
                g = self._gathering[domain] = _Gathering(number)
            if number < g.number:
                continue
            rows = np.flatnonzero(period == number)
            if g.share < 1:
                rows = rows[_in_share(batch.user[rows], g.share)]
            if len(rows):
                g.parts.append((_plain(batch.take(rows)), history[rows]))
                g.rows += len(rows)
            if g.rows > 2 * self.settings.rows:
                self._thin(g)
        self._mark_learned(batch)  # last: a period that has just ended has users to follow

    def _thin(self, g: _Gathering) -> None:
        """Halve the share of users until the slice is small enough."""
        while g.rows > self.settings.rows and g.share > 1e-9:
            g.share /= 2
            kept = [(b, h, _in_share(b.user, g.share)) for b, h in g.parts]
            g.parts = [(b.take(m), h[m]) for b, h, m in kept if m.any()]
            g.rows = sum(len(b) for b, _ in g.parts)

    def _close(self, domain: str) -> None:
        g = self._gathering.pop(domain, None)
        if g is None or not g.parts:
            return
        self._thin(g)
        if not g.parts:
            return
        columns: dict[str, Any] = self._columns_of(g)
        history = columns.pop("history")
        s = _Slice(g.number, domain, Batch(**columns), history, share=g.share)
        self._slices.append(s)
        self._keep(s)
        mine = sorted((s for s in self._slices if s.domain == domain), key=lambda s: s.number)
        for old in mine[: -self.settings.periods]:
            self._slices.remove(old)
            self.store.drop(f"{domain}-{old.number}")
            for arm in ARMS_OF[domain]:
                self._curves.pop((domain, old.number, arm), None)
        self._follow([s])

    def _keep(self, s: _Slice) -> None:
        columns: dict[str, NDArray[Any]] = s.batch.columns()
        columns |= {"history": s.history, "share": np.asarray(s.share)}
        columns |= {f"first.{arm}": np.asarray(v) for arm, v in s.first.items()}
        self._put(f"{s.domain}-{s.number}", columns)

    def _put(self, name: str, columns: dict[str, NDArray[Any]]) -> None:
        try:
            self.store.put(name, columns)
        except StateError as error:
            log.error("%s: it is kept in memory only", error)

    @staticmethod
    def _columns_of(g: _Gathering) -> dict[str, NDArray[Any]]:
        columns: dict[str, NDArray[Any]] = Batch.concat([b for b, _ in g.parts]).columns()
        return columns | {"history": np.concatenate([h for _, h in g.parts])}

    # -- staleness of ids

    def _follow(self, fresh: Sequence[_Slice]) -> None:
        """Remember when each user of a slice was last learned; ``fresh``: slices not followed so far."""
        before, last = self._users, self._last
        self._widest = max((s.share for s in self._slices), default=1.0)
        self._users = np.unique(np.concatenate([before[:0], *(s.batch.user for s in self._slices)]))
        self._last = np.zeros(len(self._users), np.int64)
        if len(before):
            at = np.searchsorted(before, self._users)
            at[at == len(before)] = 0
            self._last = np.where(before[at] == self._users, last[at], 0)
        for s in fresh:
            np.maximum.at(self._last, np.searchsorted(self._users, s.batch.user), s.batch.ts)

    def _mark_learned(self, batch: Batch) -> None:
        if not len(self._users):
            return
        user, ts = batch.user, batch.ts
        if self._widest < 1:
            rows = _in_share(user, self._widest)
            user, ts = user[rows], ts[rows]
        at = np.searchsorted(self._users, user)
        at[at == len(self._users)] = 0
        met = self._users[at] == user
        np.maximum.at(self._last, at[met], ts[met])

    # -- scoring

    def score(self, predict: Predict, clock_ms: int) -> None:
        """Score all slices with the model as it is now.

        1. Each slice by each arm of its domain: GAUC, loss, and the change since its first time.
        2. All rows of an arm together, by days since their user was last learned, with and without TPM vectors.
        """
        together: dict[str, list[tuple[_Slice, NDArray[np.float32]]]] = {}
        for s in sorted(self._slices, key=lambda s: (s.number, DOMAIN_NAMES.index(s.domain))):
            fresh = not s.first
            for arm in ARMS_OF[s.domain]:
                p = predict(s.batch, arm)
                value = gauc(s.batch.label, p, s.batch.user).value
                then = s.first.setdefault(arm, value)
                curve = self._curves.setdefault((s.domain, s.number, arm), _Curve())
                curve.append(clock_ms, value, log_loss(s.batch.label, p), value - then)
                together.setdefault(arm, []).append((s, p))
            if fresh:
                self._keep(s)
        self._staleness = [
            line for arm, parts in together.items() for line in self._by_age(arm, parts, clock_ms)
        ]

    def _by_age(
        self, arm: str, parts: list[tuple[_Slice, NDArray[np.float32]]], clock_ms: int
    ) -> list[dict[str, Any]]:
        p = np.concatenate([q for _, q in parts])
        user, label = (
            np.concatenate([getattr(s.batch, name) for s, _ in parts]) for name in ("user", "label")
        )
        history = np.concatenate([s.history for s, _ in parts])
        days = (clock_ms - self._last[np.searchsorted(self._users, user)]) / DAY_MS
        out = []
        for low, high in zip(STALENESS_DAYS, [*STALENESS_DAYS[1:], None], strict=True):
            inside = (days >= low) if high is None else (days >= low) & (days < high)
            for name, rows in (
                ("all", inside),
                ("with", inside & (history == 1)),
                ("without", inside & (history == 0)),
            ):
                n = int(rows.sum())
                if not n:
                    continue
                found = gauc(label[rows], p[rows], user[rows])
                line = {"arm": arm, "history": name, "days": [low, high], "rows": n}
                out.append(line | {"gauc": _finite(found.value)})
        return out

    def worst(self) -> dict[str, tuple[float, str]]:
        """By arm: the lowest transfer of any slice now, and the period it belongs to."""
        out: dict[str, tuple[float, str]] = {}
        for (_, number, arm), curve in self._curves.items():
            value = curve.transfer[-1] if curve.transfer else math.nan
            if math.isfinite(value) and (arm not in out or value < out[arm][0]):
                out[arm] = (value, self._name(number))
        return out

    def _name(self, number: int) -> str:
        return datetime.fromtimestamp(number * self._period_ms / 1000, UTC).strftime("%Y-%m-%d")

    def to_json(self) -> dict[str, Any]:
        """``forgetting`` of the snapshot."""
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
                {"period": self._name(number), "domain": domain, "arm": arm, **curve.to_json()}
                for (domain, number, arm), curve in sorted(self._curves.items())
            ],
            "staleness": self._staleness,
        }


def _in_share(user: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    return np.asarray(mix64(user ^ _SALT) < np.uint64(min(int(share * 2.0**64), 2**64 - 1)))


def _plain(batch: Batch) -> Batch:
    return Batch(**batch.columns())


def _finite(v: float) -> float | None:
    return float(v) if math.isfinite(v) else None
