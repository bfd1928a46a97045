"""The recent past of the process by wall clock: rows a second, lag, dead letters, freshness."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

__all__ = ["LiveSeries"]


class LiveSeries:
    """A bounded ring of samples; columns come and go (a reason of dead letters is met late).

    Parameters
    ----------
    length
        Samples kept.
    every_s
        Seconds between two kept samples; those that come sooner are dropped.

    Examples
    --------
    >>> live = LiveSeries(length=2, every_s=1)
    >>> for t in range(3): _ = live.sample(t, {"rows": 10.0 * t})
    >>> live.to_json()
    {'t': [1, 2], 'rows': [10.0, 20.0]}
    """

    def __init__(self, length: int = 900, every_s: float = 2.0) -> None:
        self._every_s = every_s
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, dict[str, float]]] = deque(maxlen=length)

    def sample(self, t: float, values: Mapping[str, float]) -> bool:
        """Keep what is measured at ``t`` (seconds since the epoch); False: too soon after the last one."""
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
