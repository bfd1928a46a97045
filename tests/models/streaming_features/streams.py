"""Random streams of steps, and a plain loop that computes every column from the list of all events."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import DAY_MS, HOUR_MS, duration_ms
from ecdctr.models.settings import StreamingFeatureSettings
from ecdctr.models.streaming_features import StreamingFeatures

START = 1_767_225_600_000  # 2026-01-01
SCHEMA = FeatureSchema(
    [
        FeatureSpec(name="user", field="user_id", buckets=60),
        FeatureSpec(name="item", field="item_id", buckets=40),
        FeatureSpec(name="site", buckets=5),
        FeatureSpec(name="price", kind="numeric"),
    ],
    dim=4,
)


def settings(**changes) -> StreamingFeatureSettings:
    return StreamingFeatureSettings(mode="auto", **changes)


def rows(rng, n: int, domain: int, ts: np.ndarray, users: int = 12, items: int = 8) -> Batch:
    user, item = rng.integers(1, users + 1, n), rng.integers(1, items + 1, n)
    return Batch(
        ts=np.sort(ts).astype(np.int64),
        domain=np.full(n, domain, np.uint8),
        user=user.astype(np.uint64),
        item=item.astype(np.uint64) + np.uint64(1000 * domain * (rng.random() < 0.3)),
        features=np.stack([user, item, rng.integers(0, 6, n)], axis=1).astype(np.int32),
        dense=rng.normal(size=(n, 1)).astype(np.float32),
        label=(rng.random(n) < 0.3).astype(np.float32),
    )


def aligned_stream(
    seed: int, intervals: int, *, length: int = HOUR_MS, resolution: int = 60_000
) -> list[Batch]:
    """Steps in the order of the aligner: the ad steps of an interval of event time before its natural step.

    Times are rounded to ``resolution``, so that many rows of both domains share theirs.
    """
    rng = np.random.default_rng(seed)
    out = []
    for k in range(intervals):
        begin = START + k * length
        for part in range(int(rng.integers(0, 3))):
            n, width = int(rng.integers(1, 20)), length // 3
            ts = begin + part * width + rng.integers(0, width, n) // resolution * resolution
            out.append(rows(rng, n, AD, ts))
        n = int(rng.integers(5, 60))
        out.append(rows(rng, n, NATURAL, begin + rng.integers(0, length, n) // resolution * resolution))
    return out


def disordered_stream(seed: int, steps: int) -> list[Batch]:
    """Steps in which event times go back and forth."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(steps):
        n = int(rng.integers(1, 40))
        ts = START + k * HOUR_MS // 2 + rng.integers(-2 * HOUR_MS, HOUR_MS, n) // 60_000 * 60_000
        out.append(rows(rng, n, int(rng.integers(0, 2)), ts))
    return out


def play(features: StreamingFeatures, steps: list[Batch]) -> list[np.ndarray]:
    """Values of the rows of each step, computed as the trainer does."""
    out = []
    for batch in steps:
        out.append(features.values(batch, learned=True))
        features.observe(batch)
    return out


@dataclass
class _Event:
    ts: int
    keys: tuple
    domain: int
    click: bool


class Loop:
    """The same columns by a plain loop over all events: ``user``, ``item``, ``user*item``, without any table."""

    def __init__(self, s: StreamingFeatureSettings) -> None:
        self.s = s
        self.half_lives = sorted(duration_ms(h) for h in s.half_lives)
        self.visible_ms, self.expire_ms = duration_ms(s.visible_after), duration_ms(s.expire_after)
        self.events: list[_Event] = []

    def add(self, batch: Batch) -> None:
        for i in range(len(batch)):
            u, x, ts, d = int(batch.user[i]), int(batch.item[i]), int(batch.ts[i]), int(batch.domain[i])
            keys = (("user", u), ("item", x), ("pair", u, x))
            self.events.append(_Event(ts, keys, d, False))
            if batch.label[i]:
                self.events.append(_Event(ts + self.visible_ms, keys, d, True))

    def values(self, user: int, item: int, ts: int, before: int) -> list[float]:
        """The columns of a row at ``ts`` that sees the events before ``before``."""
        seen = [e for e in self.events if e.ts < before]
        rates = []
        for d in (NATURAL, AD):
            shown = self._count(seen, d, False, self.half_lives[-1], ts)
            clicked = self._count(seen, d, True, self.half_lives[-1], ts)
            rates.append((clicked + 1) / (max(shown, clicked) + 2))
        out: list[float] = []
        for key in (("user", user), ("item", item)):
            mine = [e for e in seen if key in e.keys]
            for d in (NATURAL, AD):
                for h in self.half_lives:
                    n, c = self._count(mine, d, False, h, ts), self._count(mine, d, True, h, ts)
                    r, s = rates[d], self.s.smoothing
                    odds = (c + s * r) / (max(n - c, 0.0) + s * (1 - r))
                    out += [math.log(odds) - math.log(r / (1 - r)), math.log1p(n), math.log1p(c)]
                out += [self._since(mine, (d,), click, ts) for click in (False, True)]
            out.append(math.log1p((ts - min((e.ts for e in mine), default=ts)) / HOUR_MS))
        mine = [e for e in seen if ("pair", user, item) in e.keys]
        out += [math.log1p(sum(e.click == click for e in mine)) for click in (False, True)]
        return out + [self._since(mine, (NATURAL, AD), click, ts) for click in (False, True)]

    @staticmethod
    def _count(events, domain, click, half_life, ts):
        return sum(
            2.0 ** (-(ts - e.ts) / half_life) for e in events if e.domain == domain and e.click == click
        )

    def _since(self, events, domains, click, ts):
        last = [e.ts for e in events if e.domain in domains and e.click == click]
        ms = ts - max(last) if last else self.expire_ms
        return math.log1p(min(ms, self.expire_ms) / 60_000)


__all__ = [
    "DAY_MS",
    "HOUR_MS",
    "SCHEMA",
    "START",
    "Loop",
    "aligned_stream",
    "disordered_stream",
    "play",
    "rows",
    "settings",
]
