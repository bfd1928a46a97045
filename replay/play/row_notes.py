"""``RowNotes``: the columns that a replay notes for each row beside its scores, for slices that need more than scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD, Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.encode import TEXT_NOTE
from ecdctr.models.training import Trainer
from ecdctr.replay.figures import TPM, USER_GAP_BOTH, FeatureSlice, gap_codes
from ecdctr.replay.play.stream_gaps import StreamGaps

__all__ = ["RowNotes"]


class RowNotes:
    """Adds notes to the rows as they are read (:attr:`Batch.notes`); the engine writes them to the score log.

    The score log holds the notes beside the scores, so a resumed replay truncates and recomputes both together.

    Parameters
    ----------
    slices
        The requested features.
    tpm
        Whether the models read TPM snapshots.
    gaps
        Computes the time since each user's last row in either stream; None: that slice is left out.

    Attributes
    ----------
    columns
        Columns of the score log, with their types.
    """

    def __init__(
        self, slices: Sequence[FeatureSlice] = (), *, tpm: bool = False, gaps: StreamGaps | None = None
    ) -> None:
        self.slices, self._tpm, self._gaps = tuple(slices), tpm, gaps
        self.columns = {feature.column: feature.dtype for feature in slices}
        if gaps is not None:
            self.columns[USER_GAP_BOTH.column] = "|u1"
        if tpm:
            self.columns[TPM.column] = "|u1"

    def prepare(self, decoder: EventDecoder) -> None:
        """Make the decoder keep the text of the fields whose values the report names."""
        fields = (feature.text_field for feature in self.slices)
        decoder.text_notes = tuple(dict.fromkeys(field for field in fields if field is not None))

    def apply(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Add the notes to every batch; rows of both domains, in event order."""
        return map(self.add_to, batches)

    def add_to(self, batch: Batch) -> Batch:
        """The same rows with the notes that depend on the rows alone, in place of the text of their fields."""
        text = batch.notes or {}
        notes: dict[str, NDArray[Any]] = {}
        for feature in self.slices:
            if feature.text_field is not None:
                feature.observe(text[TEXT_NOTE + feature.text_field])
            notes[feature.column] = feature.values(batch)
        if self._gaps is not None:
            notes[USER_GAP_BOTH.column] = codes = np.zeros(len(batch), np.uint8)  # the slice covers ads only
            ads = batch.domain == AD
            codes[ads] = gap_codes(self._gaps.observe(batch)[ads])
        return batch.with_notes(notes or None)

    def at_scoring(self, trainer: Trainer) -> Callable[[Batch], dict[str, NDArray[Any]]] | None:
        """The notes that depend on the trainer's state when a row is scored, as :class:`Engine` takes them."""
        if not self._tpm:
            return None
        return lambda rows: {TPM.column: _tpm(trainer, rows)}


def _tpm(trainer: Trainer, rows: Batch) -> NDArray[np.uint8]:
    present = trainer.tpm_present(rows.ts, rows.user, rows.item)
    if present is None:
        return np.full(len(rows), len(TPM.values) - 1, np.uint8)
    user, item = present
    return user + np.uint8(2) * item
