import numpy as np
import pytest

from ecdctr.events.align import Aligner, Chunk
from ecdctr.events.batch import Batch
from ecdctr.streams.intake import AlignedIntake
from ecdctr.streams.settings import WorkerSettings

POLLED = 5_000


def chunk(first: int) -> Chunk:
    n = POLLED
    ids = np.zeros(n, np.uint64)
    batch = Batch(
        ts=first + np.arange(n, dtype=np.int64),
        domain=np.zeros(n, np.uint8),
        user=ids,
        item=ids,
        features=np.zeros((n, 1), np.int32),
        dense=np.zeros((n, 0), np.float32),
        label=np.zeros(n, np.float32),
    )
    return Chunk("n", 0, first, first + n, first + np.arange(n), batch)


def steps_of_a_full_buffer(batch: int, buffer_rows: int) -> list[int]:
    """Rows of the steps that one partition gives, fetched for as long as its buffer wants rows."""
    aligner = Aligner(
        {("n", 0): 0},
        natural_batch=batch,
        ad_batch=batch,
        max_wait_s=5,
        max_idle_s=5,
        buffer_rows=buffer_rows,
    )
    intake = AlignedIntake(aligner, buffer_rows, {"n": 0})
    while intake.wants("n", 0):
        aligner.add(chunk(aligner.position("n", 0) or 0))
    return [len(step.batch) for step in aligner.emit_steps()]


@pytest.mark.parametrize("batch", [128, 4_096, 65_536])
def test_a_full_buffer_holds_several_steps_whatever_their_size(batch):
    steps = steps_of_a_full_buffer(batch, WorkerSettings().buffer_for(batch))
    assert len(steps) >= 4
    assert set(steps) == {batch}


def test_a_configured_buffer_is_taken_as_it_is():
    assert WorkerSettings(buffer_rows=20_000).buffer_for(65_536) == 20_000
    assert steps_of_a_full_buffer(65_536, 20_000) == []
