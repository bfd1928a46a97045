"""What stands in the place of a file or folder of the state: named in a sentence, never followed, never removed."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ecdctr import factory
from ecdctr.settings import load_settings
from ecdctr.state.checkpoints import CheckpointStore
from ecdctr.state.errors import FormatError, StateError
from ecdctr.state.files import checksum, json_with_checksum, read_json, read_json_of_any_version, write_atomic
from ecdctr.state.folder_format import check_format, write_format
from ecdctr.state.journals import EntryKind, Journal, JournalEntry
from ecdctr.state.lock import FolderLock
from ecdctr.state.positions import Part
from ecdctr.state.probes import ProbeStore
from ecdctr.state.row_logs import AdWindow
from ecdctr.state.row_logs.sums import Blocks
from ecdctr.state.snapshots import RocksEmbeddingStore

LOCKS: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to(path.parent / "precious"),
    "a fifo": os.mkfifo,
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", LOCKS)
def test_case_s17_a_lock_that_is_no_file_is_named_and_not_followed(tmp_path, kind):
    (tmp_path / "precious").write_text("content")
    LOCKS[kind](tmp_path / "LOCK")
    lock = FolderLock(tmp_path)
    with pytest.raises(StateError, match=f"LOCK is {kind}, not a file: remove it"):
        lock.acquire()
    assert (lock.owner(), lock.owner_now()) == ({}, None)
    assert (tmp_path / "precious").read_text() == "content"
    assert not lock.held


def test_case_s17_a_lock_at_a_link_that_leads_nowhere_creates_nothing(tmp_path):
    (tmp_path / "LOCK").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StateError, match="LOCK is a link"):
        FolderLock(tmp_path).acquire()
    assert not (tmp_path / "nowhere").exists()


@pytest.fixture
def nobody() -> Iterator[None]:
    """The rights of a user without any."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_case_s17_a_folder_without_write_permission_is_a_sentence(tmp_path, nobody):
    folder = tmp_path / "state"
    with pytest.raises(
        StateError, match=r"state folder .*state cannot be written \(.*ermission denied\): correct its owner"
    ):
        FolderLock(folder).acquire()
    readable = Path("/usr")
    with pytest.raises(StateError, match=r"/usr cannot be written \(permission denied\)"):
        FolderLock(readable).acquire()
    with pytest.raises(StateError, match="/usr/journal cannot be written"):
        Journal(readable / "journal")


def test_case_s17_a_folder_on_a_read_only_file_system_is_a_sentence():
    folder = next(
        (
            Path(line.split()[1])
            for line in Path("/proc/mounts").read_text().splitlines()
            if "ro" in line.split()[3].split(",") and Path(line.split()[1]).is_dir()
        ),
        None,
    )
    if folder is None:
        pytest.skip("no file system is mounted read-only here")
    with pytest.raises(StateError, match="cannot be written"):
        FolderLock(folder / "state").acquire()


PARTS: dict[str, Callable[[Path], object]] = {
    "state": lambda folder: FolderLock(folder).acquire(),
    "state/journal": lambda folder: Journal(folder),
    "state/checkpoints": lambda folder: CheckpointStore(folder).newest(),
    "state/snapshots": lambda folder: RocksEmbeddingStore(folder).months(),
    "state/ad-window": lambda folder: AdWindow(folder, 1, 1, 5),
}


@pytest.mark.parametrize("part", PARTS)
def test_case_s17_a_file_or_a_dangling_link_in_place_of_a_folder_is_named(tmp_path, part):
    path = tmp_path / part
    path.parent.mkdir(exist_ok=True)
    path.write_text("content")
    with pytest.raises(StateError, match=rf"{path}.* a file"):
        PARTS[part](path)
    assert path.read_text() == "content"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StateError, match=rf"{path}.* link that leads nowhere"):
        PARTS[part](path)
    assert not (tmp_path / "nowhere").exists()


def test_a_state_folder_may_be_a_link_to_another_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "disk", target_is_directory=True)
    with FolderLock(tmp_path / "state"):
        write_format(tmp_path / "state")
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["LOCK", "format.json"]


def entry(step: int) -> JournalEntry:
    return JournalEntry(step, EntryKind.AD, (Part("ads", 0, step, step + 1),))


def test_case_s17_foreign_files_and_links_in_the_journal_are_passed_over_and_named(tmp_path, caplog):
    folder = tmp_path / "journal"
    journal = Journal(folder)
    for step in range(3):
        journal.append(entry(step))
    journal.close()
    precious = tmp_path / "precious"
    precious.write_text("content\n")
    (folder / "journal-foo.log").write_text("x")
    (folder / "journal-000000000001 (copy).log").write_text("x")
    (folder / "journal-000000000003.log").symlink_to(precious)
    (folder / "journal-000000000099.log").mkdir()
    (folder / "notes").write_text("x")
    again = Journal(folder)
    assert caplog.text.count("is no file of the journal: it is passed over") == 5
    again.append(entry(3))
    assert [e.step for e in again.entries()] == [0, 1, 2, 3]
    again.rotate()
    again.drop_before(4)
    again.truncate_after(1)
    again.close()
    assert [e.step for e in Journal(folder, read_only=True).entries()] == [0, 1]
    assert precious.read_text() == "content\n"
    assert (folder / "journal-foo.log").exists()


def test_case_s17_a_file_is_not_replaced_through_a_link(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("content")
    (tmp_path / "new.json").symlink_to(precious)
    write_atomic(tmp_path / "new.json", b"x")
    assert precious.read_text() == "content"
    assert stat.S_ISREG((tmp_path / "new.json").lstat().st_mode)
    (tmp_path / f".other.json.{os.getpid()}.tmp").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        write_atomic(tmp_path / "other.json", b"x")
    assert precious.read_text() == "content"


def test_case_s18_a_state_folder_of_another_version_is_refused_and_named(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    check_format(folder)
    write_format(folder)
    write_format(folder)
    settings = load_settings(None, [f'state.folder="{folder}"'], environ={}).settings
    (folder / "format.json").write_bytes(json_with_checksum({"format": 2}))
    for attempt in (lambda: check_format(folder), lambda: factory.live_engine(settings)):
        with pytest.raises(
            FormatError, match=r"state folder .* has format 2, this version of ecdctr reads format 1"
        ):
            attempt()
    assert [p.name for p in folder.iterdir()] == ["format.json"]
    (folder / "format.json").write_text("{")
    with pytest.raises(StateError, match=r"format\.json is damaged"):
        check_format(folder)


READERS: dict[str, Callable[[Path], object]] = {
    "JSON": read_json,
    "JSON of any version": read_json_of_any_version,
    "checksum": checksum,
    "probe slice": lambda path: ProbeStore(path.parent).get(path.stem),
    "checksums of rows": lambda path: Blocks(path.with_suffix(".rows"), path, 8),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_case_s17_a_fifo_or_a_folder_in_place_of_a_file_is_an_error_and_is_not_waited_for(
    tmp_path, reader, kind
):
    path = tmp_path / "there.npz"
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    found: list[BaseException] = []

    def read() -> None:
        try:
            READERS[reader](path)
        except (OSError, StateError) as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)  # one that waits for a writer does not keep the tests
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert "not a regular file" in str(found[0])
