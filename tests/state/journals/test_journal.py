"""The journal: one contract for files and memory; torn and damaged lines; appends that survive kill -9."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.state.errors import JournalDamagedError, StateError
from ecdctr.state.journals import EntryKind, Journal, JournalEntry, JournalLike, MemoryJournal
from ecdctr.state.journals.lines import decode_line, encode_line
from ecdctr.state.positions import Part
from tests.support.waiting import allowance


def entry(step: int, clock: int | None = None) -> JournalEntry:
    return JournalEntry(
        step=step,
        kind="ad" if step % 3 == 0 else "natural",
        parts=(Part("natural-clicks", 0, step * 10, step * 10 + 7), Part("natural-clicks", 1, 0, 1)),
        clock=1000 * step if clock is None else clock,
        extra={"release": step} if step % 5 == 0 else {},
        rows=step if step % 4 else None,
    )


def steps(journal: JournalLike, after: int = -1) -> list[int]:
    return [e.step for e in journal.entries(after)]


@pytest.fixture(params=["files", "memory"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JournalLike]:
    made: JournalLike = Journal(tmp_path / "journal") if request.param == "files" else MemoryJournal()
    yield made
    made.close()


# --- contract, on disk and in memory -----------------------------------------------------------------------


def test_entries_come_back_as_written(journal: JournalLike) -> None:
    written = [entry(step) for step in range(12)]
    for e in written:
        journal.append(e)
    assert list(journal.entries()) == written
    assert steps(journal, after=8) == [9, 10, 11]
    assert (journal.first_step(), journal.last_step()) == (0, 11)


def test_an_empty_journal_has_no_steps(journal: JournalLike) -> None:
    assert steps(journal) == []
    assert journal.first_step() is None
    assert journal.last_step() is None
    assert journal.truncated_bytes == 0
    journal.append(entry(41))  # the first step is arbitrary: a checkpoint can be older than the journal
    assert journal.first_step() == 41


@pytest.mark.parametrize("wrong", [4, 5, 7, 0])
def test_steps_rise_by_one(journal: JournalLike, wrong: int) -> None:
    journal.append(entry(4))
    journal.append(entry(5))
    with pytest.raises(ValueError, match=rf"step {wrong} does not follow step 5"):
        journal.append(entry(wrong))
    journal.append(entry(6))
    assert steps(journal) == [4, 5, 6]


def test_rotation_does_not_change_what_is_read(journal: JournalLike) -> None:
    for step in range(20):
        journal.append(entry(step))
        if step % 6 == 5:
            journal.rotate()
            journal.rotate()
            journal.sync()
    assert steps(journal) == list(range(20))
    assert steps(journal, after=11) == list(range(12, 20))


def test_drop_before_removes_whole_old_files_only(journal: JournalLike) -> None:
    for step in range(20):
        journal.append(entry(step))
        if step % 5 == 4:
            journal.rotate()
    journal.drop_before(9)
    assert steps(journal) == list(range(5, 20))
    journal.drop_before(15, clock=6_000)  # steps 5..9 end at clock 9,000: retained for audit
    assert journal.first_step() == 5
    journal.drop_before(15, clock=9_000)  # a step at this clock is not older than it
    assert journal.first_step() == 5
    journal.drop_before(15, clock=9_001)
    assert journal.first_step() == 10
    journal.drop_before(1_000)
    assert steps(journal) == list(range(15, 20))
    journal.append(entry(20))
    assert journal.last_step() == 20


def test_what_is_appended_after_close_is_a_file_of_its_own(journal: JournalLike) -> None:
    for step in range(3):
        journal.append(entry(step))
    journal.close()
    journal.append(entry(3))
    assert steps(journal) == [0, 1, 2, 3]
    journal.drop_before(3)
    assert steps(journal) == [3]


def test_truncate_after_removes_later_entries(journal: JournalLike) -> None:
    for step in range(12):
        journal.append(entry(step))
        if step in (3, 7):
            journal.rotate()
    journal.truncate_after(5)
    assert steps(journal) == list(range(6))
    journal.append(entry(6, clock=77))
    assert list(journal.entries(5)) == [entry(6, clock=77)]
    journal.truncate_after(-1)
    assert steps(journal) == []
    journal.append(entry(100))
    assert steps(journal) == [100]


@settings(max_examples=60, derandomize=True)
@given(
    plan=st.lists(st.sampled_from(["append", "rotate", "drop", "truncate", "reopen"]), max_size=40),
    cuts=st.lists(st.integers(0, 40), min_size=40, max_size=40),
)
def test_files_and_memory_agree(
    plan: list[str], cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("agree")
    real, double = Journal(folder), MemoryJournal()
    for action, cut in zip(plan, cuts, strict=False):
        if action == "append":
            last = double.last_step()
            for journal in (real, double):
                journal.append(entry(3 if last is None else last + 1))
        elif action == "rotate":
            real.rotate(), double.rotate()
        elif action == "drop":
            real.drop_before(cut), double.drop_before(cut)
        elif action == "truncate":
            real.truncate_after(cut), double.truncate_after(cut)
        elif action == "reopen":
            real.close()
            real = Journal(folder)
            double._open = bool(double._files)  # an opened folder continues in its newest file
        assert list(real.entries()) == list(double.entries())
        assert (real.first_step(), real.last_step()) == (double.first_step(), double.last_step())
    real.close()


# --- files ------------------------------------------------------------------------------------------------


def fill(folder: Path, n: int, rotate_at: tuple[int, ...] = ()) -> list[Path]:
    journal = Journal(folder)
    for step in range(n):
        journal.append(entry(step))
        if step in rotate_at:
            journal.rotate()
    journal.close()
    return sorted(folder.glob("*.log"))


def test_every_torn_last_line_is_cut(tmp_path: Path) -> None:
    [path] = fill(tmp_path / "whole", 3)
    whole = path.read_bytes()
    start_of_last = whole[:-1].rindex(b"\n") + 1
    for cut in range(start_of_last + 1, len(whole)):
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        (folder / path.name).write_bytes(whole[:cut])
        reader = Journal(folder, read_only=True)
        assert steps(reader) == [0, 1]
        assert reader.last_step() == 1
        assert (folder / path.name).stat().st_size == cut, "a reader changes nothing"
        journal = Journal(folder)
        assert journal.truncated_bytes == cut - start_of_last
        assert steps(journal) == [0, 1]
        journal.append(entry(2))
        journal.close()
        assert (folder / path.name).read_bytes() == whole


def test_zeros_after_power_loss_are_cut(tmp_path: Path) -> None:
    [path] = fill(tmp_path, 3)
    with path.open("ab") as file:
        file.write(bytes(4096))
    journal = Journal(tmp_path)
    assert (journal.truncated_bytes, journal.last_step()) == (4096, 2)
    journal.close()


def test_a_reader_of_a_journal_without_a_complete_line_finds_no_step(tmp_path: Path) -> None:
    (tmp_path / "journal-000000000000.log").write_bytes(b"86a015d5 {")
    reader = Journal(tmp_path, read_only=True)
    assert (reader.first_step(), reader.last_step()) == (None, None)


def test_a_reader_finds_the_last_step_in_the_newest_of_several_files(tmp_path: Path) -> None:
    *_, newest = fill(tmp_path, 9, rotate_at=(2, 5))
    reader = Journal(tmp_path, read_only=True)
    assert (reader.first_step(), reader.last_step()) == (0, 8)
    newest.write_bytes(
        newest.read_bytes()[:20]
    )  # the writer was killed in its first line: the step before it is the last
    assert reader.last_step() == 5


def test_an_empty_file_left_by_a_crash_is_removed(tmp_path: Path) -> None:
    fill(tmp_path, 3, rotate_at=(2,))
    (tmp_path / "journal-000000000003.log").touch()
    journal = Journal(tmp_path)
    assert journal.last_step() == 2
    journal.append(entry(3))
    assert steps(journal) == [0, 1, 2, 3]
    journal.close()


@settings(max_examples=60, derandomize=True)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_named_with_file_and_line(
    where: float, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    [path] = fill(folder, 4)
    data = bytearray(path.read_bytes())
    last = data[:-1].rindex(b"\n") + 1
    at = int(
        where * (last - 1)
    )  # without the newline before the last line: flipped, it would join two lines to one torn one
    line = data[:at].count(b"\n") + 1
    data[at] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(JournalDamagedError, match=rf"{path.name}, line {line}: "):
        list(Journal(folder, read_only=True).entries())


def test_damage_at_the_end_of_an_older_file_is_not_a_torn_line(tmp_path: Path) -> None:
    old, _ = fill(tmp_path, 8, rotate_at=(4,))
    old.write_bytes(old.read_bytes()[:-3])
    journal = Journal(tmp_path)
    with pytest.raises(JournalDamagedError, match=rf"{old.name}, line 5"):
        list(journal.entries())
    assert steps(journal, after=4) == [5, 6, 7], "what lies behind the damage is not touched by it"
    journal.drop_before(5, clock=1_000_000)
    assert journal.first_step() == 5
    journal.close()


def test_a_missing_file_is_named_by_its_steps(tmp_path: Path) -> None:
    files = fill(tmp_path, 9, rotate_at=(2, 5))
    files[1].unlink()
    with pytest.raises(JournalDamagedError, match="steps 3 to 5 are missing"):
        list(Journal(tmp_path, read_only=True).entries())


def test_a_reopened_journal_continues_in_the_newest_file(tmp_path: Path) -> None:
    fill(tmp_path, 4, rotate_at=(1,))
    journal = Journal(tmp_path)
    journal.append(entry(4))
    journal.close()
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "journal-000000000000.log",
        "journal-000000000002.log",
    ]
    assert steps(Journal(tmp_path, read_only=True)) == [0, 1, 2, 3, 4]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(entry(0))
    [path] = tmp_path.iterdir()
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (len(before) + 20, hard)
    )  # the next line is longer than 20 bytes
    try:
        with pytest.raises(StateError, match="step 1 could not be written: " + os.strerror(errno.EFBIG)):
            journal.append(entry(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    journal.append(entry(1))
    journal.close()
    assert steps(Journal(tmp_path, read_only=True)) == [0, 1]


def test_fsync_mode_keeps_the_same_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "synced", fsync=True)
    for step in range(5):
        journal.append(entry(step))
    journal.close()
    [plain] = fill(tmp_path / "plain", 5)
    assert (tmp_path / "synced" / plain.name).read_bytes() == plain.read_bytes()


_WRITER = """
import sys
from pathlib import Path
from ecdctr.state.journals import EntryKind, Journal, JournalEntry
from ecdctr.state.positions import Part
journal = Journal(Path(sys.argv[1]))
for step in range(10**9):
    journal.append(JournalEntry(step, "ad", (Part("ad-clicks", 0, step, step + 1),), step))
    sys.stdout.write(f"{step}\\n"); sys.stdout.flush()
    if step % 50 == 49: journal.rotate()
"""


def test_what_append_returned_survives_kill_9(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=root, text=True
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= 400:
                break
        os.kill(writer.pid, signal.SIGKILL)
        seen = [int(text) for text in writer.stdout.read().split("\n")[:-1]]
    promised = seen[-1] if seen else 400
    journal = Journal(tmp_path)
    found = steps(journal)
    assert found == list(range(len(found)))
    assert len(found) - 1 >= promised
    journal.append(JournalEntry(len(found), "ad"))
    journal.close()


def test_an_append_is_quick(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    plan = [entry(step) for step in range(2_000)]
    best: Callable[[], float] = time.perf_counter
    took = []
    for e in plan:
        start = best()
        journal.append(e)
        took.append(best() - start)
    journal.close()
    # Measured near 10 us; the margin is for busy machines.
    assert sorted(took)[len(took) // 2] < allowance(200e-6)


@settings(derandomize=True)
@given(
    st.builds(
        JournalEntry,
        step=st.integers(0, 2**62),
        kind=st.sampled_from(EntryKind),
        parts=st.lists(
            st.builds(
                Part, st.text(max_size=9), st.integers(0, 99), st.integers(0, 2**62), st.integers(0, 2**62)
            ),
            max_size=3,
        ).map(tuple),
        clock=st.integers(-(2**62), 2**62),
        extra=st.dictionaries(
            st.text(max_size=5), st.integers() | st.text(max_size=5) | st.booleans(), max_size=3
        ),
    )
)
def test_any_entry_becomes_one_line_and_back(e: JournalEntry) -> None:
    line = encode_line(e)
    assert line.count(b"\n") == 1
    assert decode_line(line) == e


def test_a_whole_line_of_a_kind_that_a_later_version_wrote_is_neither_cut_nor_skipped(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(JournalEntry(0, EntryKind.AD))
    journal.append(JournalEntry(1, "split"))
    journal.close()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(StateError, match=r"step 1 has the kind 'split'.*the version"):
        Journal(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
