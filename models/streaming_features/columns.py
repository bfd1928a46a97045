"""``StreamingColumns``: the columns of streaming features, and their values from the counts of a row's keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import HOUR_MS, duration_ms
from ecdctr.models.settings import StreamingFeatureSettings
from ecdctr.models.streaming_features.decayed_counts import DecayedCounts

__all__ = ["Kind", "StreamingColumns"]

Floats = NDArray[np.float64]

_MINUTE_MS = 60_000
BUCKETS = 64
"""Number of buckets of a column."""


class Kind(NamedTuple):
    """A kind of key: one key (``item``) or a pair of keys (``user*item``)."""

    name: str
    parts: tuple[str, ...]

    @property
    def is_pair(self) -> bool:
        return len(self.parts) == 2


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: its name, and the width and the offset of its buckets (bucket ``floor(x / step) + offset``, within 1 .. 64)."""

    name: str
    step: float
    offset: int


def _log_column(name: str) -> _Column:
    return _Column(name, 0.25, 1)


def _rate_column(name: str) -> _Column:
    return _Column(name, 0.2, BUCKETS // 2)


class StreamingColumns:
    """Names, order and values of the columns.

    For each key, such as ``user`` or ``item``, by domain:

    - ``ctr`` for each half-life: the log-odds of the smoothed click rate ``(c + s r) / (n + s)`` minus those of ``r``, where ``n``
      and ``c`` are decayed impressions and clicks, ``s`` is ``smoothing``, and ``r`` is the domain's click rate with the longest
      half-life, ``(C + 1) / (N + 2)``; ``n`` is at least ``c``, because a click that becomes
      known later (``visible_after``) is decayed less than its impression;
    - ``shown`` and ``clicked`` for each half-life: ``log(1 + n)``, ``log(1 + c)``;
    - ``since_shown``, ``since_clicked``: ``log(1 + minutes)`` since the last impression and the last click;

    and ``age``: ``log(1 + hours)`` since the key's first event. For each pair, over both domains: ``shown``, ``clicked`` (without
    decay), ``since_shown``, ``since_clicked``.

    Without events, rates and counts are 0, ages are 0, and the time since the last one is ``expire_after``, which is also the upper
    limit of these times.

    Parameters
    ----------
    settings
        The settings.

    Attributes
    ----------
    kinds
        Kinds of keys, single keys first.
    """

    def __init__(self, settings: StreamingFeatureSettings) -> None:
        self._settings = settings
        half_lives = sorted(duration_ms(text) for text in settings.half_lives)
        self._expire_ms = duration_ms(settings.expire_after)
        self._of_key, self._of_pair = DecayedCounts(half_lives), DecayedCounts((np.inf,))
        self.kinds = tuple(Kind(name, (name,)) for name in settings.keys) + tuple(
            Kind(name, tuple(name.split("*"))) for name in settings.pairs
        )
        self._names = [f"{h // HOUR_MS}h" if h % HOUR_MS == 0 else f"{h}ms" for h in half_lives]
        self._columns = [c for kind in self.kinds for c in self._columns_of(kind)]

    def counts(self, kind: Kind) -> DecayedCounts:
        """Layout of the counts of a kind of key."""
        return self._of_pair if kind.is_pair else self._of_key

    @property
    def of_domains(self) -> DecayedCounts:
        """Layout of the counts of the domains."""
        return self._of_key

    def _columns_of(self, kind: Kind) -> list[_Column]:
        begin = f"{kind.name}:"
        if kind.is_pair:
            return [_log_column(begin + n) for n in ("shown", "clicked", "since_shown", "since_clicked")]
        out = []
        for domain in DOMAIN_NAMES:
            for h in self._names:
                out.append(_rate_column(f"{begin}{domain}:ctr:{h}"))
                out += [_log_column(f"{begin}{domain}:{n}:{h}") for n in ("shown", "clicked")]
            out += [_log_column(f"{begin}{domain}:{n}") for n in ("since_shown", "since_clicked")]
        return [*out, _log_column(begin + "age")]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`values`."""
        return tuple(column.name for column in self._columns)

    def specs(self) -> tuple[FeatureSpec, ...]:
        """The columns as features: buckets first, then numbers, as far as ``settings.form`` selects them."""
        form, dim = self._settings.form, self._settings.bucket_dim
        out: list[FeatureSpec] = []
        if form in ("buckets", "both"):
            out += [
                FeatureSpec(name=f"streaming:{c.name}:bucket", buckets=BUCKETS, dim=dim)
                for c in self._columns
            ]
        if form in ("numbers", "both"):
            out += [FeatureSpec(name=f"streaming:{c.name}", kind="numeric") for c in self._columns]
        return tuple(out)

    def values(self, states: Sequence[Floats], domains: Floats, ts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Values of all columns, ``(n, C)``.

        Parameters
        ----------
        states
            For each kind of key the state of each row's key, ``(n, width)``.
        domains
            The state of the domains for each row, ``(n, width)``.
        ts
            Time of each row, ms.
        """
        at = ts.astype(np.float64)
        total = self._of_key.counts(domains, len(self._names) - 1, at)
        rates = []
        for shown, clicked in zip(total[:, ::2].T, total[:, 1::2].T, strict=True):
            rates.append((clicked + 1.0) / (np.maximum(shown, clicked) + 2.0))
        parts: list[Floats] = []
        for kind, state in zip(self.kinds, states, strict=True):
            parts += self._pair(state, at) if kind.is_pair else self._key(state, at, rates)
        return np.stack(parts, axis=1).astype(np.float32)

    def _key(self, state: Floats, ts: Floats, rates: Sequence[Floats]) -> list[Floats]:
        counts = [self._of_key.counts(state, i, ts) for i in range(len(self._names))]
        since = self._since(ts[:, None] - self._of_key.last(state))
        out: list[Floats] = []
        for domain, rate in enumerate(rates):
            for count in counts:
                shown, clicked = count[:, 2 * domain], count[:, 2 * domain + 1]
                out += [self._log_odds(shown, clicked, rate), np.log1p(shown), np.log1p(clicked)]
            out += [since[:, 2 * domain], since[:, 2 * domain + 1]]
        first = np.minimum(self._of_key.first(state), ts)
        return [*out, np.log1p((ts - first) / HOUR_MS)]

    def _log_odds(self, shown: Floats, clicked: Floats, rate: Floats) -> Floats:
        s = self._settings.smoothing
        others = np.maximum(shown - clicked, 0.0)
        out: Floats = np.log((clicked + s * rate) * (1.0 - rate) / ((others + s * (1.0 - rate)) * rate))
        return out

    def _pair(self, state: Floats, ts: Floats) -> list[Floats]:
        counts = self._of_pair.counts(state, 0, ts)
        last = self._of_pair.last(state)
        since = self._since(ts[:, None] - np.maximum(last[:, :2], last[:, 2:]))
        both = np.log1p(counts[:, :2] + counts[:, 2:])
        return [both[:, 0], both[:, 1], since[:, 0], since[:, 1]]

    def _since(self, ms: Floats) -> Floats:
        out: Floats = np.log1p(np.clip(ms, 0.0, self._expire_ms) / _MINUTE_MS)
        return out

    def features(self, values: NDArray[np.float32]) -> NDArray[np.int32]:
        """Buckets of the values, 1 .. 64, ``(n, C)``; ``(n, 0)`` if ``settings.form`` is ``numbers``."""
        if self._settings.form == "numbers":
            return np.empty((len(values), 0), np.int32)
        step = np.array([c.step for c in self._columns], np.float32)
        offset = np.array([c.offset for c in self._columns], np.float32)
        out: NDArray[np.int32] = np.clip(np.floor(values / step) + offset, 1, BUCKETS).astype(np.int32)
        return out

    def numbers(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Numeric features of the values, ``(n, C)``; ``(n, 0)`` if ``settings.form`` is ``buckets``."""
        return np.empty((len(values), 0), np.float32) if self._settings.form == "buckets" else values
