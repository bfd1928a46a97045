"""Restores the metrics that are computed from scored rows; these are read again from the score log instead of being stored twice."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.time import DAY_MS
from ecdctr.monitor.quality import ARMS_OF, QualityFigures, TransferWatch

__all__ = ["ScoredRows", "read_score_log"]

BLOCK_ROWS = 32_768


class ScoredRows(Protocol):
    """The methods of :class:`ecdctr.state.row_logs.ScoreLog` that are needed here."""

    def sizes(self) -> dict[int, int]:
        """Rows of each event day."""
        ...

    def read(self, *, first_day: int, last_day: int) -> dict[str, NDArray[Any]]:
        """Columns of the rows of some event days."""
        ...


def read_score_log(
    scores: ScoredRows, quality: QualityFigures, transfer: TransferWatch, transfer_days: int, clock_ms: int
) -> None:
    """Rebuild sums of windows, the rows for GAUC and the transfer comparison, one day at a time.

    The restored counts of windows and series include a row if its event time is not after the latest one that was counted.

    Parameters
    ----------
    scores
        Rows scored so far.
    quality, transfer
        Changed in place; counts of ``quality`` have been restored before.
    transfer_days
        Days that the transfer comparison covers.
    clock_ms
        Event time reached.
    """
    counted_until = dict(quality.newest)
    today = clock_ms // DAY_MS
    for day in range(today - max(transfer_days, 1), today + 1):
        if day not in scores.sizes():
            continue
        rows = scores.read(first_day=day, last_day=day)
        for number, domain in enumerate(DOMAIN_NAMES):
            if domain == "natural" and day < today - 1:
                continue  # no window of natural rows goes back that far
            of_domain = np.flatnonzero(rows["domain"] == number)
            for i in range(0, len(of_domain), BLOCK_ROWS):
                at = of_domain[i : i + BLOCK_ROWS]
                counted = rows["ts"][at] <= counted_until[domain]
                for part, is_counted in ((at[counted], True), (at[~counted], False)):
                    if len(part):
                        block = {name: column[part] for name, column in rows.items()}
                        quality.add_logged(domain, block, clock_ms, counted=is_counted)
                        if domain == "ad":
                            _add_transfer(transfer, block)


def _add_transfer(transfer: TransferWatch, rows: dict[str, NDArray[Any]]) -> None:
    if not all(f"p_{arm}" in rows for arm in ARMS_OF["ad"]):
        return
    actr, control = (rows[f"p_{arm}"] for arm in ("actr", "ads_only"))
    both = np.flatnonzero(~np.isnan(actr) & ~np.isnan(control))
    label = rows["label"].astype(np.float32)
    transfer.add(rows["ts"][both], rows["user"][both], label[both], actr[both], control[both])
