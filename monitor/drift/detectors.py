"""Sequential change detectors on log loss, PCOC and CTR: river's ADWIN, Page-Hinkley and KSWIN, each point is a mean of many rows.

A point is a studentised mean over :data:`POINT_ROWS` scored rows. CTR is compared with the reference's CTR of the same hour, log loss
with its expectation under the prediction, and PCOC enters as the residual, so that the daily cycle of a stream is not reported
as drift every evening. Points are scaled to [0, 1] (8 standard deviations either way), which ADWIN's bound requires.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.time import HOUR_MS
from ecdctr.models.probability import LOGIT_CLIP, fast_logit
from ecdctr.monitor.drift.results import DetectorState

__all__ = ["MAKERS", "POINT_ROWS", "Detectors"]

POINT_ROWS = 1024
SIGNALS = ("log_loss", "pcoc", "ctr")


def _drift() -> Any:
    """The module of river, which takes a second to import: a worker needs it only after :data:`POINT_ROWS` scored rows."""
    from river import drift

    return drift


# KSWIN and Page-Hinkley are tuned to one false alarm in tens of thousands of points; river's defaults suit short examples.
MAKERS: dict[str, Callable[[], Any]] = {
    "adwin": lambda: _drift().ADWIN(delta=1e-4, clock=4),
    "page_hinkley": lambda: _drift().PageHinkley(min_instances=30, delta=0.05, threshold=3.0, alpha=1.0),
    "kswin": lambda: _drift().KSWIN(alpha=1e-6, window_size=100, stat_size=30, seed=0),
}


@dataclass(slots=True)
class _Track:
    detector: Any
    changes: int = 0
    last_ms: int | None = None
    level: float = 0.0


@dataclass(slots=True)
class _Stream:
    """Sums of the current point, and the detectors of one (domain, arm)."""

    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(7))
    tracks: dict[tuple[str, str], _Track] = field(default_factory=dict)


class Detectors:
    """Detectors of each (domain, arm), updated with blocks of scored rows.

    Parameters
    ----------
    point_rows
        Number of rows per point.
    """

    def __init__(self, point_rows: int = POINT_ROWS) -> None:
        self.point_rows = point_rows
        self._streams: dict[tuple[str, str], _Stream] = {}

    def add(
        self,
        domain: str,
        arm: str,
        ts: NDArray[np.int64],
        y: NDArray[np.float32],
        p: NDArray[np.float32],
        hourly_ctr: NDArray[np.float64] | None,
    ) -> None:
        """Add scored rows in event order; ``hourly_ctr``: CTR of the reference by hour of the day, shape ``(24,)``; None: unknown."""
        if not len(y):
            return
        s = self._streams.setdefault((domain, arm), _Stream())
        q = np.clip(p.astype(np.float64), LOGIT_CLIP, 1 - LOGIT_CLIP)
        z, var = fast_logit(q), q * (1 - q)
        residual = y - q
        columns = [np.ones(len(y)), residual, var, -residual * z, var * z * z]
        if hourly_ctr is not None:
            c = hourly_ctr[ts // HOUR_MS % 24]
            columns += [y - c, c * (1 - c)]
        else:
            columns += [np.zeros(len(y))] * 2
        values = np.stack(columns, 1)
        first = 0
        while first < len(y):
            missing = self.point_rows - int(s.sums[0])
            part = values[first : first + missing]
            s.sums += part.sum(0)
            first += len(part)
            if s.sums[0] >= self.point_rows:
                self._point(s, int(ts[first - 1]), hourly_ctr is not None)
                s.sums[:] = 0

    def _point(self, s: _Stream, ts: int, has_ctr: bool) -> None:
        _, residual, var, excess, excess_var, ctr, ctr_var = s.sums
        signals = {
            "pcoc": residual / max(var, 1e-9) ** 0.5,
            "log_loss": excess / max(excess_var, 1e-9) ** 0.5,
        }
        if has_ctr:
            signals["ctr"] = ctr / max(ctr_var, 1e-9) ** 0.5
        for signal, value in signals.items():
            x = min(max((value + 8) / 16, 0.0), 1.0)
            for name, make in MAKERS.items():
                track = s.tracks.get((signal, name))
                if track is None:
                    track = s.tracks[signal, name] = _Track(make())
                track.level = float(value)
                track.detector.update(x)
                if track.detector.drift_detected:
                    track.changes += 1
                    track.last_ms = ts

    def agreeing(self, now_ms: int, span_ms: int) -> dict[tuple[str, str, str], int]:
        """(domain, arm, signal) -> number of detectors that found a change in the last ``span_ms``."""
        out: dict[tuple[str, str, str], int] = {}
        for (domain, arm), s in self._streams.items():
            for (signal, _), track in s.tracks.items():
                if track.last_ms is not None and track.last_ms > now_ms - span_ms:
                    key = (domain, arm, signal)
                    out[key] = out.get(key, 0) + 1
        return out

    def restore(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Restore the changes recorded by :meth:`to_json`; the detectors themselves are reset."""
        for line in lines:
            make = MAKERS.get(line["detector"])
            if make is not None and line["signal"] in SIGNALS:
                s = self._streams.setdefault((line["domain"], line["arm"]), _Stream())
                s.tracks[line["signal"], line["detector"]] = _Track(
                    make(), line["changes"], line["last"], line["level"]
                )

    def to_json(self) -> list[DetectorState]:
        """One entry per detector."""
        return [
            {
                "domain": domain,
                "arm": arm,
                "signal": signal,
                "detector": name,
                "changes": t.changes,
                "last": t.last_ms,
                "level": t.level,
            }
            for (domain, arm), s in self._streams.items()
            for (signal, name), t in s.tracks.items()
        ]
