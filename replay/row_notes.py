"""``RowNotes``: what a replay's score log keeps of a row beside its scores, for slices that scores do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.batch import Batch
from models.encode import Columns
from models.events import EventDecoder
from models.trainer import Trainer
from replay.feature_slices import FeatureSlice
from replay.slices import TPM

__all__ = ["RowNotes"]


class RowNotes:
    """Notes stand in the rows themselves, so a replay that is gone on with cuts and redoes them with the scores.

    Parameters
    ----------
    slices
        Features that were asked for.
    tpm
        Whether the models read TPM snapshots.

    Attributes
    ----------
    columns
        Columns of the score log, with their types.
    """

    def __init__(self, slices: Sequence[FeatureSlice] = (), *, tpm: bool = False) -> None:
        self.slices = tuple(slices)
        self.columns = {asked.column: asked.dtype for asked in slices}
        if tpm:
            self.columns[TPM.column] = "|u1"

    def watch(self, decoder: EventDecoder) -> None:
        """Have names noted where events are decoded."""
        if self.slices:
            decoder.watch = self._observe

    def _observe(self, columns: Columns) -> None:
        for asked in self.slices:
            asked.observe(columns)

    def of(self, trainer: Trainer, batch: Batch, scored: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
        """Notes on the scored rows of a batch that the trainer has just been given."""
        rows = batch if len(scored) == len(batch) else batch.take(scored)
        notes = {asked.column: asked.of(rows) for asked in self.slices}
        if TPM.column in self.columns:
            notes[TPM.column] = _tpm(trainer, rows)
        return notes


def _tpm(trainer: Trainer, rows: Batch) -> NDArray[np.uint8]:
    present = trainer.tpm_present(rows)
    if present is None:
        return np.full(len(rows), len(TPM.values) - 1, np.uint8)
    user, item = present
    return user + np.uint8(2) * item
