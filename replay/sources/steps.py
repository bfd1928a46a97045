"""Training steps of a log whose rows come in event order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ecdctr.events.align import Aligner, Chunk
from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.step import Step

__all__ = ["steps_of"]

# One lane a domain: its rows are in event order already, and row numbers are its offsets.
_LANES = {("natural", 0): NATURAL, ("ad", 0): AD}


def steps_of(batches: Iterable[Batch], *, natural_batch: int, ad_batch: int) -> Iterator[Step]:
    """Cut rows that come in event order into training steps.

    Parameters
    ----------
    batches
        Rows of both domains, by ``ts``.
    natural_batch, ad_batch
        Rows of a step, by domain.

    Yields
    ------
    Step
        Rows of one domain. ``parts`` are row numbers, counted separately for each domain.
    """
    aligner = Aligner(_LANES, natural_batch=natural_batch, ad_batch=ad_batch)
    position = dict.fromkeys(_LANES, 0)
    for batch in batches:
        for key, domain in _LANES.items():
            rows = np.flatnonzero(batch.domain == domain)
            if len(rows):
                first = position[key]
                offsets = np.arange(first, first + len(rows), dtype=np.int64)
                position[key] += len(rows)
                aligner.add(Chunk(*key, first, position[key], offsets, batch.take(rows)))
        aligner.advance(int(batch.ts.max()))
        yield from aligner.emit_steps()
    yield from aligner.emit_steps(final=True)
