"""All windows and series of both domains, with the Bloom filters of users and items that they need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.time import DAY_MS, HOUR_MS
from ecdctr.monitor.quality.bloom import BloomFilter
from ecdctr.monitor.quality.forgetting import ARMS_OF
from ecdctr.monitor.quality.results import DomainSeriesFigures, SeriesFigures, WindowFigures
from ecdctr.monitor.quality.series import SERIES, DomainSeries
from ecdctr.monitor.quality.windows import WINDOWS, DomainWindow, Scored, Tally
from ecdctr.monitor.steps import RowBlock

__all__ = ["QualityFigures"]

TALLY_MS = 60_000
"""Length of a slot in which rows are counted; the slots of all windows and series are whole multiples of it."""

RERANK_DAY_MS = 4 * HOUR_MS
"""Event time after which GAUC and AUC of the current day are computed again."""


class _Stored(Protocol):
    def to_arrays(self) -> dict[str, NDArray[Any]]: ...

    def restore(self, arrays: Mapping[str, NDArray[Any]], clock_ms: int) -> None: ...


class QualityFigures:
    """Adds rows to all windows and series, and computes GAUC and AUC of past hours and days.

    Parameters
    ----------
    gauc_rows
        ``capacity`` of the :class:`~ecdctr.monitor.quality.windows.UserRows` of each window.

    Attributes
    ----------
    windows
        By window and domain.
    newest
        By domain: latest event time of a row that was added, ms; -1 before the first.
    """

    def __init__(self, gauc_rows: int) -> None:
        self.windows = {
            w: {d: DomainWindow(w, arms, gauc_rows) for d, arms in ARMS_OF.items()} for w in WINDOWS
        }
        self.newest = dict.fromkeys(ARMS_OF, -1)
        self._series = {w: {d: DomainSeries(w, arms) for d, arms in ARMS_OF.items()} for w in SERIES}
        self._users, self._items = BloomFilter(), BloomFilter()
        self._days_ranked_until = self._hours_ranked_until = self._today_ranked_at = 0

    def add(self, domain: str, block: RowBlock, clock_ms: int) -> Scored:
        """Add a block; returns its predicted rows with their losses and bins."""
        batch, at = block.batch, block.scored
        scored = Scored(batch.ts[at], batch.user[at], batch.label[at], block.scores, ARMS_OF[domain])
        columns = (
            batch.label > 0,
            block.late,
            self._users.add(batch.user),
            self._items.add(batch.item),
            None if block.history is None else block.history == 1,
            None if block.history is None else block.history >= 0,
        )
        tally = Tally(TALLY_MS, batch.ts, columns, scored)
        for by_domain in self.windows.values():
            by_domain[domain].add(tally, scored, clock_ms)
        for series in self._series.values():
            series[domain].add(tally)
        return scored

    def add_logged(
        self, domain: str, rows: Mapping[str, NDArray[Any]], clock_ms: int, *, counted: bool
    ) -> None:
        """Add rows of the score log after a restart.

        Parameters
        ----------
        rows
            Columns of the score log, all of one domain.
        counted
            Whether the restored counts include these rows already. If so, only the sums of windows and the rows for GAUC, which are not
            stored, are rebuilt.
        """
        ts, user, label = rows["ts"], rows["user"], rows["label"].astype(np.float32)
        scores = {arm: rows[f"p_{arm}"] for arm in ARMS_OF[domain] if f"p_{arm}" in rows}
        scored = Scored(ts, user, label, scores, ARMS_OF[domain])
        tally = Tally(TALLY_MS, ts, (label > 0, None, None, None, None, None), scored)
        if counted:
            tally.counts[:] = 0
        else:
            self.newest[domain] = max(self.newest[domain], int(ts.max()))
            for series in self._series.values():
                series[domain].add(tally)
        for by_domain in self.windows.values():
            by_domain[domain].add(tally, scored, clock_ms)

    # -- GAUC and AUC of series

    def rank_past_days(self, clock_ms: int) -> None:
        """If a day has ended, compute GAUC and AUC of this day and of its hours."""
        day = clock_ms // DAY_MS * DAY_MS
        if day > self._days_ranked_until:
            for name in ("1h", "1d"):
                self._rank(name, max(self._days_ranked_until, day - DAY_MS), day)
            self._days_ranked_until = self._hours_ranked_until = self._today_ranked_at = day

    def rank_today(self, clock_ms: int) -> None:
        """Compute GAUC and AUC of the hours since the last call, and every :data:`RERANK_DAY_MS` those of the current day so far."""
        if clock_ms > self._hours_ranked_until:
            self._rank("1h", self._hours_ranked_until // HOUR_MS * HOUR_MS, clock_ms + 1)
            self._hours_ranked_until = clock_ms
        if clock_ms >= self._today_ranked_at + RERANK_DAY_MS:
            self._rank("1d", self._days_ranked_until, clock_ms + 1)
            self._today_ranked_at = clock_ms

    def _rank(self, name: str, since_ms: int, until_ms: int) -> None:
        for domain in ARMS_OF:
            self._series[name][domain].rank(self.windows["1d"][domain].users, since_ms, until_ms)

    # -- results

    def window_figures(self, clock_ms: int) -> dict[str, dict[str, WindowFigures]]:
        """Metrics by window and domain."""
        return {
            w: {d: window.figures(clock_ms) for d, window in by_domain.items()}
            for w, by_domain in self.windows.items()
        }

    def series_figures(self) -> dict[str, SeriesFigures]:
        """Series by length of a slot."""
        return {w: _on_one_axis(by_domain) for w, by_domain in self._series.items()}

    # -- restart

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything that cannot be rebuilt from the score log, for :meth:`restore`."""
        arrays: dict[str, NDArray[Any]] = {f"newest.{d}": np.asarray(ts) for d, ts in self.newest.items()}
        for name, part in self._parts().items():
            arrays |= {f"{name}.{k}": v for k, v in part.to_arrays().items()}
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]], clock_ms: int) -> None:
        """Replace all counts by those of :meth:`to_arrays`.

        Raises
        ------
        KeyError, ValueError
            The arrays were written by another version.
        """
        for name, part in self._parts().items():
            part.restore({k: arrays[f"{name}.{k}"] for k in part.to_arrays()}, clock_ms)
        self.newest = {d: int(arrays[f"newest.{d}"]) for d in ARMS_OF}

    def _parts(self) -> dict[str, _Stored]:
        # These names are part of the file format.
        windows = {f"window.{w}.{d}": v for w, by in self.windows.items() for d, v in by.items()}
        series = {f"series.{w}.{d}": v for w, by in self._series.items() for d, v in by.items()}
        return {**windows, **series, "seen.users": self._users, "seen.items": self._items}


def _on_one_axis(by_domain: Mapping[str, DomainSeries]) -> SeriesFigures:
    """The series of both domains on one time axis."""
    found = {d: s.to_json() for d, s in by_domain.items()}
    slots = sorted({s for axis, _ in found.values() for s in axis})
    length = next(iter(by_domain.values())).slot_ms

    def aligned(axis: list[int], columns: DomainSeriesFigures) -> DomainSeriesFigures:
        place = {s: i for i, s in enumerate(axis)}
        at = [place.get(s) for s in slots]

        def spread(values: list[Any]) -> list[Any]:
            return [None if i is None else values[i] for i in at]

        return {
            "rows": spread(columns["rows"]),
            "ctr": spread(columns["ctr"]),
            "late": spread(columns["late"]),
            "arms": {
                arm: {
                    "rows": spread(c["rows"]),
                    "log_loss": spread(c["log_loss"]),
                    "ne": spread(c["ne"]),
                    "pcoc": spread(c["pcoc"]),
                    "gauc": spread(c["gauc"]),
                    "auc": spread(c["auc"]),
                }
                for arm, c in columns["arms"].items()
            },
        }

    return {
        "t": [(s + 1) * length for s in slots],
        "natural": aligned(*found["natural"]),
        "ad": aligned(*found["ad"]),
    }
