"""What a journal on disk syncs, and that an append that fails leaves every earlier line in place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ecdctr.state.errors import StateError
from ecdctr.state.journals import EntryKind, Journal, JournalEntry, disk
from tests.support.disks import files_up_to


def entry(step: int) -> JournalEntry:
    return JournalEntry(step, EntryKind.AD, clock=step)


def steps(folder: Path) -> list[int]:
    return [e.step for e in Journal(folder, read_only=True).entries()]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files and folders that the journal syncs, in order; ``line``: an appended line."""
    calls: list[str] = []
    for name, real in (("fsync_file", disk.fsync_file), ("fsync_dir", disk.fsync_dir)):
        monkeypatch.setattr(disk, name, lambda path, real=real: [calls.append(path.name), real(path)])
    real_sync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: [calls.append("line"), real_sync(fd)])
    return calls


def test_sync_reaches_every_file_with_lines_that_are_not_synced(tmp_path: Path, synced: list[str]) -> None:
    folder = tmp_path / "journal"
    journal = Journal(folder)
    for step in range(6):
        journal.append(entry(step))
        if step in (1, 3):
            journal.rotate()
    assert synced == []
    journal.sync()
    files = [f"journal-{step:012d}.log" for step in (0, 2, 4)]
    assert synced == [*files, "journal"]
    synced.clear()
    journal.append(entry(6))
    journal.sync()
    assert synced == [files[-1], "journal"], "older files have been synced before"
    journal.close()


def test_a_file_that_was_removed_before_it_is_synced_is_no_error(tmp_path: Path, synced: list[str]) -> None:
    folder = tmp_path / "journal"
    journal = Journal(folder)
    for step in range(2):
        journal.append(entry(step))
        journal.rotate()
    journal.append(entry(2))
    journal.drop_before(1)
    journal.sync()
    assert synced[-2:] == ["journal-000000000002.log", "journal"]
    journal.close()


def test_with_fsync_each_line_is_synced_and_the_name_of_each_file(tmp_path: Path, synced: list[str]) -> None:
    folder = tmp_path / "journal"
    journal = Journal(folder, fsync=True)
    for step in range(3):
        journal.append(entry(step))
        if step == 1:
            journal.rotate()
    assert synced == ["journal", "line", "line", "journal", "line"]
    journal.close()


def test_a_full_disk_loses_no_line_of_a_journal_that_was_opened_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(4):
        journal.append(entry(step))
        if step == 1:
            journal.rotate()
    journal.close()
    journal = Journal(tmp_path)
    newest = max(tmp_path.iterdir())
    before = newest.read_bytes()
    with files_up_to(len(before) + 20), pytest.raises(StateError, match="step 4 could not be"):
        journal.append(entry(4))
    assert newest.read_bytes() == before
    journal.rotate()
    with files_up_to(20), pytest.raises(StateError, match="step 4 could not be"):
        journal.append(entry(4))
    journal.append(entry(4))
    journal.close()
    assert steps(tmp_path) == [0, 1, 2, 3, 4]


def test_a_file_that_cannot_be_created_is_an_error_and_the_step_can_be_appended_later(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    journal = Journal(folder)
    shutil.rmtree(folder)
    with pytest.raises(StateError, match=r"journal-000000000005\.log cannot be created: No such file"):
        journal.append(entry(5))
    folder.mkdir()
    journal.append(entry(5))
    journal.close()
    assert steps(folder) == [5]
