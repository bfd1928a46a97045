"""A marketplace whose true click probabilities are known, so that the best possible GAUC is known too.

Users have long-term tastes, monthly interests that vanish and return, and weeks in which they stay away;
items drift from day to day and come and go by fortnight. Ads are a twentieth of the natural volume, shifted in taste,
item bias, position and prior, so natural clicks help to predict ads but do not suffice.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.events.batch import AD, NATURAL
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import DAY_MS
from ecdctr.state.errors import ConfigError

__all__ = ["Simulator"]

FRAME_ROWS = 65_536

Floats = NDArray[np.float64]

# One family of random streams each; a stream is named by (seed, family, index), so any day can be made alone.
_WORLD, _DRIFT, _PRESENCE, _FORTNIGHT, _DAY, _DELAY = range(6)

_SLOT_EFFECT = np.linspace(0.5, -0.5, 10)
_HOUR_EFFECT = 0.3 * np.sin(2 * np.pi * np.arange(24) / 24)


@dataclass(slots=True)
class _Walk:
    """A chain of states, one a step; asking for an earlier step restarts it."""

    first: Callable[[], NDArray[Any]]
    following: Callable[[NDArray[Any], int], NDArray[Any]]
    step: int = -1
    state: NDArray[Any] = field(default_factory=lambda: np.empty(0))

    def at(self, step: int) -> NDArray[Any]:
        if self.step < 0 or step < self.step:
            self.step, self.state = 0, self.first()
        while self.step < step:
            self.step += 1
            self.state = self.following(self.state, self.step)
        return self.state


@dataclass(frozen=True, slots=True)
class _World:
    """The constant parameters. Shapes: users (U,), items (I,), tastes (U, dim), item vectors (I, dim)."""

    category: NDArray[np.int64]
    item_vector: Floats
    taste: tuple[Floats, Floats]
    interest: Floats  # (2, U, dim): the two alternating interests
    phase: NDArray[np.int64]
    item_bias: tuple[Floats, Floats]
    user_bias: Floats
    activity: Floats
    popularity: tuple[Floats, Floats]


class Simulator:
    """Event frames of a simulated marketplace; any day can be generated alone.

    A click is drawn with probability ``sigmoid(z)`` (column ``oracle``), where in month ``m``::

        natural  z = -2.2 +    b_i       +    b_u + g_i(t) + 1.6 P_um . q_i / sqrt(dim) + slot + hour - 0.5 x
        ad       z = -3.0 + .8 b_i + a_i + .8 b_u + g_i(t) + 1.6 P_um . q_i / sqrt(dim) + slot + hour - 0.5 x

        q_i  = sqrt(.75) c_category + .5 N(0, I)           P_um = .8 p_u + .6 r_u,((m + phase_u) mod 2)
        g_i  daily AR(1), rho .9, sd .4                    ads: p_u replaced by .8 p_u + .6 N(0, I)
        slot linspace(.5, -.5, 10): natural 0-9, ads 1-3   x: natural N(0, 1), ads N(1.5, sd .6)

    Standard deviations: b_i .5, b_u .4, a_i .6. Items are shown by popularity (Gamma(.6) + .02, one draw a
    domain; 40 % of them are advertised) while they are on (probability .7 a fortnight). Users are on by week (stationary .2,
    stay .65), then on any day with probability .5, and appear by activity (Gamma(1) + .05).

    Parameters
    ----------
    seed
        The same parameters and seed give the same rows, independently of which days are generated and in which order.
    days
        Number of days. The days before ``live_from`` are history: natural rows only, used by TPM only.
    live_from
        First day with ads; default three quarters of ``days``.
    users, items, categories, dim
        Sizes of the world.
    history_per_day, natural_per_day, ads_per_day
        Rows of a history day, and natural and ad rows of a live day.
    month_days
        Days of a month; the two interests of a user alternate by month.
    start
        UTC date of day 0.
    draw
        Another number gives other rows of the same world, for example held-out rows.

    Examples
    --------
    >>> sim = Simulator(seed=1, days=8, users=100, items=50, natural_per_day=200, ads_per_day=10)
    >>> frame = sim.day(6)
    >>> frame.height, frame["ts"].is_sorted(), frame["event_id"].n_unique()
    (210, True, 210)
    >>> frame.columns
    ['domain', 'event_id', 'ts', 'user_id', 'item_id', 'label', 'category', 'slot', 'x', 'oracle']
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        days: int = 120,
        live_from: int | None = None,
        users: int = 4_000,
        items: int = 1_000,
        categories: int = 12,
        dim: int = 4,
        history_per_day: int = 8_889,
        natural_per_day: int = 40_000,
        ads_per_day: int = 2_000,
        month_days: int = 30,
        start: str = "2026-01-01",
        draw: int = 0,
    ) -> None:
        self.draw = draw
        self.seed, self.days, self.users, self.items = seed, days, users, items
        self.live_from = days * 3 // 4 if live_from is None else live_from
        self.categories, self.dim, self.month_days = categories, dim, month_days
        self.history_per_day, self.natural_per_day, self.ads_per_day = (
            history_per_day,
            natural_per_day,
            ads_per_day,
        )
        self._check()
        try:
            origin = dt.datetime.fromisoformat(start).replace(tzinfo=dt.UTC)
        except ValueError as e:
            raise ConfigError(f"simulator: start={start!r} is not a date; write it as 2026-01-01") from e
        self.start = origin.date().isoformat()
        self.start_ms = int(origin.timestamp() * 1000)
        self._world = self._make_world()
        self._drift = _Walk(
            lambda: self._rng(_DRIFT, 0).normal(0, 0.4, items),
            lambda g, day: 0.9 * g + self._rng(_DRIFT, day).normal(0, 0.4 * np.sqrt(1 - 0.81), items),
        )
        self._presence = _Walk(lambda: self._rng(_PRESENCE, 0).random(users) < 0.2, self._next_week)

    @property
    def name(self) -> str:
        """Its name in reports."""
        return f"simulator (seed {self.seed}, {self.days} days, {self.users:,} users, {self.items:,} items)"

    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """The features that its events carry; with enough buckets that ids rarely collide."""
        return (
            FeatureSpec(name="user", field="user_id", buckets=max(1 << 12, 64 * self.users), tpm=True),
            FeatureSpec(name="item", field="item_id", buckets=max(1 << 12, 64 * self.items), tpm=True),
            FeatureSpec(name="category", buckets=max(1 << 10, 64 * self.categories), tpm=True),
            FeatureSpec(name="slot", buckets=1 << 10),
            FeatureSpec(name="hour", field="@hour", buckets=24),
            FeatureSpec(name="x", kind="numeric"),
        )

    @property
    def extra_fields(self) -> tuple[str, ...]:
        """Columns other than the features."""
        return ("oracle",)

    def count(self) -> int:
        """Number of rows of :meth:`frames`."""
        return (self.days - self.live_from) * (self.natural_per_day + self.ads_per_day)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The live days in event order, both domains, at most 65,536 rows a frame."""
        return self._frames(self.live_from, self.days)

    def history(self) -> Iterator[pl.DataFrame]:
        """The days before ``live_from``, natural rows only: the training data of TPM."""
        return self._frames(0, self.live_from)

    def day(self, day: int) -> pl.DataFrame:
        """All rows of one day (0 .. ``days`` - 1), ``ts`` rising."""
        if not 0 <= day < self.days:
            raise ValueError(f"day {day} is outside 0..{self.days - 1}")
        rng, world = self._rng(_DAY, self.draw << 20 | day), self._world
        live = day >= self.live_from
        ads = self.ads_per_day if live else 0
        n = ads + (self.natural_per_day if live else self.history_per_day)

        ts = self.start_ms + day * DAY_MS + np.sort(rng.integers(0, DAY_MS, n))
        domain = np.full(n, NATURAL, np.uint8)
        domain[rng.permutation(n)[:ads]] = AD
        ad = domain == AD
        user = _draw(rng, n, world.activity, self._presence.at(day // 7) & (rng.random(self.users) < 0.5))
        item = np.empty(n, np.int64)
        on = self._rng(_FORTNIGHT, day // 14).random(self.items) < 0.7
        for d in (NATURAL, AD):
            rows = domain == d
            item[rows] = _draw(rng, int(rows.sum()), world.popularity[d], on)
        slot = np.where(ad, rng.integers(1, 4, n), rng.integers(0, 10, n))
        x = rng.normal(size=n)
        x = np.where(ad, 1.5 + 0.6 * x, x)

        hour = (ts - self.start_ms) // 3_600_000 % 24
        z = self._taste_match(day, ad, user, item) + self._drift.at(day)[item]
        z += _SLOT_EFFECT[slot] + _HOUR_EFFECT[hour] - 0.5 * x
        z += np.where(ad, -3.0 + world.item_bias[AD][item], -2.2 + world.item_bias[NATURAL][item])
        z += np.where(ad, 0.8, 1.0) * world.user_bias[user]
        oracle = 1.0 / (1.0 + np.exp(-z))
        name = f"s{self.seed}-{day}" if not self.draw else f"s{self.seed}.{self.draw}-{day}"
        return pl.DataFrame(
            {
                "domain": domain,
                "event_id": pl.select(pl.format(f"{name}-{{}}", pl.int_range(n))).to_series(),
                "ts": ts,
                "user_id": user,
                "item_id": item,
                "label": (rng.random(n) < oracle).astype(np.uint8),
                "category": world.category[item],
                "slot": slot,
                "x": x,
                "oracle": oracle,
            }
        )

    def day_apart(self, day: int, mean_delay_ms: int = 60_000) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows of :meth:`day` as impressions and clicks that are logged apart.

        The delay of a click is exponential: a window ``w`` catches the share ``1 - exp(-w / mean_delay_ms)`` of the clicks.

        Returns
        -------
        tuple
            The impressions, with ``impression_id`` instead of ``event_id`` and without label; the clicks with ``impression_id`` and the ``ts``
            of the click, which may be on the next day. Both by ``ts``.
        """
        rows = self.day(day).rename({"event_id": "impression_id"})
        delay = self._rng(_DELAY, self.draw << 20 | day).exponential(mean_delay_ms, len(rows))
        clicks = rows.select("impression_id", pl.col("ts") + pl.Series(np.round(delay).astype(np.int64)))
        clicks = clicks.filter(rows["label"] == 1)
        return rows.drop("label"), clicks.sort("ts", maintain_order=True)

    def _frames(self, first: int, end: int) -> Iterator[pl.DataFrame]:
        for day in range(first, end):
            yield from self.day(day).iter_slices(FRAME_ROWS)

    def _taste_match(
        self, day: int, ad: NDArray[np.bool_], user: NDArray[np.int64], item: NDArray[np.int64]
    ) -> Floats:
        """``1.6 P_um . q_i / sqrt(dim)`` of each row."""
        world = self._world
        turn = (day // self.month_days + world.phase) % 2
        interest = 0.6 * world.interest[turn, np.arange(self.users)]
        tastes = np.concatenate([0.8 * world.taste[d] + interest for d in (NATURAL, AD)])
        rows = tastes[np.where(ad, user + self.users, user)]
        match: Floats = np.einsum("nd,nd->n", rows, world.item_vector[item])
        return match * (1.6 / math.sqrt(self.dim))

    def _next_week(self, on: NDArray[Any], week: int) -> NDArray[Any]:
        # A return probability of .0875 keeps a fifth of the users present: .2 * .65 + .8 * .0875 = .2
        return self._rng(_PRESENCE, week).random(self.users) < np.where(on, 0.65, 0.0875)

    def _make_world(self) -> _World:
        rng, u, i = self._rng(_WORLD, 0), self.users, self.items
        category = rng.integers(0, self.categories, i)
        centre = rng.normal(size=(self.categories, self.dim))
        taste = rng.normal(size=(u, self.dim))
        bias = rng.normal(0, 0.5, i)
        advertised = np.zeros(i)
        advertised[rng.permutation(i)[: max(1, round(0.4 * i))]] = 1.0
        return _World(
            category=category,
            item_vector=np.sqrt(0.75) * centre[category] + 0.5 * rng.normal(size=(i, self.dim)),
            taste=(taste, 0.8 * taste + 0.6 * rng.normal(size=(u, self.dim))),
            interest=rng.normal(size=(2, u, self.dim)),
            phase=rng.integers(0, 2, u),
            item_bias=(bias, 0.8 * bias + rng.normal(0, 0.6, i)),
            user_bias=rng.normal(0, 0.4, u),
            activity=rng.gamma(1.0, size=u) + 0.05,
            popularity=(rng.gamma(0.6, size=i) + 0.02, advertised * (rng.gamma(0.6, size=i) + 0.02)),
        )

    def _rng(self, family: int, index: int) -> np.random.Generator:
        key = np.array([self.seed, family << 32 | index], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def _check(self) -> None:
        least = dict.fromkeys(
            ("seed", "live_from", "history_per_day", "natural_per_day", "ads_per_day", "draw"), 0
        )
        for name in ("days", "users", "items", "categories", "dim", "month_days", *least):
            value = getattr(self, name)
            if value < least.get(name, 1):
                raise ConfigError(f"simulator: {name}={value} is below {least.get(name, 1)}")
        if self.live_from > self.days:
            raise ConfigError(f"simulator: live_from={self.live_from} is after the last of {self.days} days")


def _draw(rng: np.random.Generator, n: int, weight: Floats, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """``n`` indices by weight among the allowed ones; among all if no allowed one has weight (tiny worlds)."""
    sums = np.cumsum(weight * allowed)
    if sums[-1] <= 0:
        sums = np.cumsum(weight)
    # Rounding may put a draw at the end of the sums, after the last index that has weight.
    last = int(np.searchsorted(sums, sums[-1]))
    found: NDArray[np.int64] = np.searchsorted(sums, rng.random(n) * sums[-1], side="right")
    found[found > last] = last
    return found
