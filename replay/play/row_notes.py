"""``RowNotes``: what a replay's score log keeps of a row beside its scores, for slices that scores do not tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD, Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.encode import Columns
from ecdctr.models.training import Trainer
from ecdctr.replay.figures import TPM, USER_GAP_BOTH, FeatureSlice, gap_codes
from ecdctr.replay.play.stream_gaps import StreamGaps

__all__ = ["RowNotes"]


class RowNotes:
    """Notes stand in the rows themselves, so a replay that is gone on with cuts and redoes them with the scores.

    Parameters
    ----------
    slices
        Features that were asked for.
    tpm
        Whether the models read TPM snapshots.
    gaps
        Watches both streams; None: nobody does.

    Attributes
    ----------
    columns
        Columns of the score log, with their types.
    """

    def __init__(
        self, slices: Sequence[FeatureSlice] = (), *, tpm: bool = False, gaps: StreamGaps | None = None
    ) -> None:
        self.slices, self.gaps = tuple(slices), gaps
        self.columns = {asked.column: asked.dtype for asked in slices}
        if gaps is not None:
            self.columns[USER_GAP_BOTH.column] = "|u1"
        if tpm:
            self.columns[TPM.column] = "|u1"

    def watch(self, decoder: EventDecoder) -> None:
        """Have names noted where events are decoded."""
        if self.slices:
            decoder.watch = self._observe

    def _observe(self, columns: Columns) -> None:
        for asked in self.slices:
            asked.observe(columns)

    def of(self, rows: Batch) -> dict[str, NDArray[Any]]:
        """What the rows themselves tell."""
        return {asked.column: asked.of(rows) for asked in self.slices}

    def fill(self, trainer: Trainer) -> Callable[[Mapping[str, Any]], dict[str, NDArray[Any]]] | None:
        """What the trainer's snapshots and earlier rows tell, of many rows at once: of a step's few it costs as much."""
        makers: dict[str, Callable[[Mapping[str, Any]], NDArray[Any]]] = {
            TPM.column: partial(_tpm, trainer),
            USER_GAP_BOTH.column: self._gap,
        }
        filled = {column: make for column, make in makers.items() if column in self.columns}
        if not filled:
            return None
        return lambda rows: {column: make(rows) for column, make in filled.items()}

    def _gap(self, rows: Mapping[str, Any]) -> NDArray[np.uint8]:
        assert self.gaps is not None
        codes = np.zeros(len(rows["ts"]), np.uint8)  # of natural rows nobody asks
        ads = rows["domain"] == AD
        codes[ads] = gap_codes(self.gaps.take(rows["user"][ads]))
        return codes


def _tpm(trainer: Trainer, rows: Mapping[str, Any]) -> NDArray[np.uint8]:
    present = trainer.tpm_present(rows["ts"], rows["user"], rows["item"])
    if present is None:
        return np.full(len(rows["ts"]), len(TPM.values) - 1, np.uint8)
    user, item = present
    return user + np.uint8(2) * item
