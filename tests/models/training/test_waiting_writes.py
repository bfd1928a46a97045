"""Writes that wait while the disk is full."""

import pytest

from ecdctr.models.training import waiting_writes
from ecdctr.models.training.progress import Progress
from ecdctr.models.training.waiting_writes import WaitingWrites


def full_disk(attempts: int, seen: list):
    def write():
        seen.append(1)
        if len(seen) <= attempts:
            raise OSError("no space left on device")

    return write


def test_a_write_waits_until_there_is_space(monkeypatch):
    progress, seen, said = Progress(), [], []
    monkeypatch.setattr(waiting_writes.time, "sleep", lambda _: said.append(progress.last_error))
    WaitingWrites(progress).run("journal: step 3", full_disk(2, seen))
    assert len(seen) == 3
    assert said == ["journal: step 3: no space left on device"] * 2
    assert progress.last_error is None


def test_a_stop_lets_a_write_fail_that_would_wait(monkeypatch):
    writes = WaitingWrites(Progress())
    monkeypatch.setattr(waiting_writes.time, "sleep", lambda _: writes.stop_waiting())
    with pytest.raises(OSError, match="no space"):
        writes.run("score log", full_disk(9, seen := []))
    assert len(seen) == 2
    writes.run("score log", lambda: None)
