"""Recent values of the process by wall clock: rows per second, lag, dead letters, freshness."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

__all__ = ["RecentSeries"]


class RecentSeries:
    """A ring buffer of samples. A column may start later than others, for example that of a new reason for dead letters.

    Parameters
    ----------
    length
        Number of samples retained.
    every_s
        Seconds between two samples; samples that arrive sooner are dropped.

    Examples
    --------
    >>> recent = RecentSeries(length=2, every_s=1)
    >>> for t in range(3): _ = recent.sample(t, {"rows": 10.0 * t})
    >>> recent.to_json()
    {'t': [1, 2], 'rows': [10.0, 20.0]}
    """

    def __init__(self, length: int = 900, every_s: float = 2.0) -> None:
        self._every_s = every_s
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, dict[str, float]]] = deque(maxlen=length)

    def sample(self, t: float, values: Mapping[str, float]) -> bool:
        """Add the values at ``t`` (seconds since the epoch); False: too soon after the last sample, nothing was added."""
        with self._lock:
            if self._samples and 0 <= t - self._samples[-1][0] < self._every_s * 0.999:
                return False
            self._samples.append((t, dict(values)))
        return True

    def to_json(self) -> dict[str, list[Any]]:
        """Columns of equal length; None where a column had no value."""
        with self._lock:
            samples = list(self._samples)
        names = sorted({name for _, values in samples for name in values})
        out: dict[str, list[Any]] = {"t": [t for t, _ in samples]}
        for name in names:
            out[name] = [_finite(values.get(name)) for _, values in samples]
        return out


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
