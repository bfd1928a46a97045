"""``RowNotes``: each note stays with its row, from the reader through the aligner to the engine."""

from __future__ import annotations

import numpy as np

from ecdctr.events.batch import AD, Batch
from ecdctr.replay.figures import USER_GAP_BOTH, gap_codes
from ecdctr.replay.play import RowNotes, StreamGaps
from ecdctr.replay.sources import steps_of


def rows(n):
    rng = np.random.default_rng(3)
    user = rng.integers(0, 40, n).astype(np.uint64)
    return Batch(
        np.sort(rng.integers(0, 10**9, n)), rng.integers(0, 2, n).astype(np.uint8), user, np.arange(n, dtype=np.uint64),
        np.zeros((n, 1), np.int32), np.zeros((n, 0), np.float32), np.zeros(n, np.float32),
    )  # fmt: skip


def test_notes_follow_their_rows_through_the_aligner():
    batch = rows(2_000)
    notes = RowNotes(gaps=StreamGaps())
    parts = [batch.take(part) for part in np.array_split(np.arange(2_000), 9)]
    steps = list(steps_of(notes.apply(parts), natural_batch=64, ad_batch=32))
    met = Batch.concat([step.batch for step in steps])
    assert len(met) == 2_000
    gaps = StreamGaps().observe(batch)
    wanted = np.where(batch.domain == AD, gap_codes(gaps), 0)
    np.testing.assert_array_equal(met.notes[USER_GAP_BOTH.column], wanted[met.item.astype(int)])
    assert len(np.unique(wanted)) > 2


def test_without_anything_to_note_rows_have_no_notes():
    assert RowNotes().add_to(rows(5)).notes is None
