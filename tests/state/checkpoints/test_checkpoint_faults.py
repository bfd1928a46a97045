"""Damage of checkpoints: flipped bits, truncated and missing files, incomplete folders, full disks, kill -9."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.state.checkpoints import Capture, CheckpointStore, Loaded
from ecdctr.state.errors import CheckpointDamagedError, FormatError, StateError
from ecdctr.state.files import read_json, write_json
from tests.support.disks import files_up_to


def save(store: CheckpointStore, step: int, first: int = 0, count: int = 40) -> Path:
    """Rows first..first+count get the value ``step``."""
    index = np.arange(first, first + count)
    rows = {"user": (index, np.full((count, 4), step, np.float32))}
    info = store.save(Capture({"w": np.full(8, step, np.float32)}, rows, {"step": step}))
    assert info.path is not None
    return info.path


def values(loaded: Loaded | None) -> dict[int, float]:
    assert loaded is not None
    index, rows = loaded.rows["user"]
    assert (rows == rows[:, :1]).all()
    return dict(zip(index.tolist(), rows[:, 0].tolist(), strict=True))


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.chmod(0o644)
    path.write_bytes(data)


# --- other formats and foreign folders ------------------------------------------------------------------------


def other_format(folder: Path) -> None:
    path = folder / "manifest.json"
    content = read_json(path)
    path.unlink()
    write_json(path, {**content, "format": 2})


def test_case_s18_a_checkpoint_of_another_format_is_not_called_damaged_and_none_is_used_instead(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 1)
    newest = save(store, 2)
    other_format(newest)
    for attempt in (store.newest, lambda: store.load(newest.name)):
        with pytest.raises(
            FormatError, match=r"has format 2, this version of ecdctr reads format 1"
        ) as found:
            attempt()
        assert "not damaged" in str(found.value)
    assert [info.step for info in store.list()] == [1]
    save(store, 3)
    assert newest.is_dir(), "it is not removed"


def test_case_s11_foreign_folders_among_checkpoints_are_passed_over(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 1)
    real = save(store, 2)
    copy = tmp_path / "00000099-step-2"
    shutil.copytree(real, copy)
    for name in ("backup", "\N{SUPERSCRIPT TWO}-step-2", "x-step-9"):
        (tmp_path / name).mkdir()
    store = CheckpointStore(tmp_path, keep=1)
    loaded = store.newest()
    assert loaded is not None
    assert loaded.name == real.name
    assert store.damaged == [(copy.name, f"it is a copy of checkpoint {real.name}")]
    assert save(store, 3).name == "00000100-step-3"
    assert copy.is_dir()
    assert [info.step for info in store.list()] == [3]


# --- damage -----------------------------------------------------------------------------------------------


def own_segment(folder: Path) -> Path:
    return next(p for p in folder.glob("rows-*.safetensors") if p.stat().st_nlink == 1)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit in dense": lambda f: flip(f / "dense.safetensors", 90),
    "flipped bit in rows": lambda f: flip(own_segment(f), 200),
    "flipped bit in manifest": lambda f: flip(f / "manifest.json", 100),
    "truncated rows": lambda f: os.truncate(own_segment(f), 100),
    "truncated dense": lambda f: os.truncate(f / "dense.safetensors", 10),
    "truncated manifest": lambda f: os.truncate(f / "manifest.json", 50),
    "empty manifest": lambda f: os.truncate(f / "manifest.json", 0),
    "missing rows": lambda f: own_segment(f).unlink(),
    "missing dense": lambda f: (f / "dense.safetensors").unlink(),
    "missing manifest": lambda f: (f / "manifest.json").unlink(),
    "a foreign manifest": lambda f: (f / "manifest.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_skipped_and_left_on_disk(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path, compact_ratio=100)
    save(store, 1)
    save(store, 2, first=20)
    bad = save(store, 3, first=30)
    DAMAGES[damage](bad)
    before = sorted(p.name for p in bad.iterdir())

    store = CheckpointStore(tmp_path, compact_ratio=100)
    loaded = store.newest()
    assert loaded is not None
    assert loaded.meta["step"] == 2
    assert values(loaded) == dict.fromkeys(range(20), 1.0) | dict.fromkeys(range(20, 60), 2.0)
    [(name, reason)] = store.damaged
    assert name == bad.name
    assert bad.name in reason
    with pytest.raises(CheckpointDamagedError, match=bad.name):
        store.load(bad.name)

    for step in range(3, 12):  # the redone and later steps, based on the older checkpoint
        save(store, step, first=50)
    assert sorted(p.name for p in bad.iterdir()) == before, "kept for whoever wants to look at it"
    assert values(store.newest()) == dict.fromkeys(range(20), 1.0) | dict.fromkeys(
        range(20, 50), 2.0
    ) | dict.fromkeys(range(50, 90), 11.0)


@settings(max_examples=60, derandomize=True)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), which=st.integers(0, 3))
def test_every_flipped_bit_is_detected(
    at: int, bit: int, which: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = CheckpointStore(tmp_path_factory.mktemp("flip"), compact_ratio=100)
    save(store, 1, count=4)
    folder = save(store, 2, count=3)
    expected = values(store.load(folder.name))
    path = sorted(folder.iterdir())[which]
    flip(path, at, bit)
    try:
        found = values(store.load(folder.name))
    except CheckpointDamagedError as error:
        assert folder.name in str(error)
    else:
        assert path.name == "manifest.json", "only the spelling of an equal manifest may change"
        assert found == expected


def test_a_damaged_segment_invalidates_all_checkpoints_that_share_it_and_no_other(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    step = 0
    while len(store.list()) < 3:
        save(store, step, first=step)
        step += 1
    apart, _, newest = store.list()
    assert newest.path is not None
    flip(newest.path / newest.segments[0], 300)
    again = CheckpointStore(tmp_path, keep=2)
    loaded = again.newest()
    assert loaded is not None
    assert loaded.name == apart.name
    assert len(again.damaged) == 2


def test_all_damaged_is_not_the_same_as_empty(tmp_path: Path) -> None:
    flip(save(CheckpointStore(tmp_path), 1) / "dense.safetensors", 0)
    store = CheckpointStore(tmp_path)
    assert store.newest() is None
    assert len(store.damaged) == 1


def test_incomplete_folders_are_ignored_and_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    whole = save(store, 1)
    half = tmp_path / ".partial-00000002-step-2"
    half.mkdir()
    (half / "dense.safetensors").write_bytes(b"torn")
    (tmp_path / "notes").mkdir()
    store = CheckpointStore(tmp_path)
    loaded = store.newest()
    assert loaded is not None
    assert loaded.name == whole.name
    assert store.damaged == []
    assert half.exists(), "a reader clears nothing away"
    save(store, 2)
    assert not half.exists()
    assert (tmp_path / "notes").exists()


def test_a_folder_renamed_before_its_files_reached_the_disk(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    bad = save(store, 2)
    for path in bad.iterdir():  # after power loss: files that were never synced
        os.truncate(path, 0) if path.stat().st_nlink == 1 else None
    loaded = CheckpointStore(tmp_path).newest()
    assert loaded is not None
    assert loaded.meta["step"] == 1


def test_merging_rejects_damaged_segments(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, compact_ratio=3.0)
    first = save(store, 1)
    flip(own_segment(first), 400)
    with pytest.raises(CheckpointDamagedError, match="restart"):
        for step in range(2, 9):
            save(store, step)
    assert not list(tmp_path.glob(".partial-*"))


# --- full disks -------------------------------------------------------------------------------------------


def check_after_failure(store: CheckpointStore, folder: Path) -> None:
    """Before: step 1 saved (rows 0..39), step 2 (rows 20..59) failed."""
    assert not list(folder.glob(".partial-*"))
    reader = CheckpointStore(folder)
    assert values(reader.newest()) == dict.fromkeys(range(40), 1.0)
    assert reader.damaged == []
    save(store, 3, first=50)  # rows changed since the failed attempt only
    assert values(CheckpointStore(folder).newest()) == dict.fromkeys(range(20), 1.0) | dict.fromkeys(
        range(20, 50), 2.0
    ) | dict.fromkeys(range(50, 90), 3.0)


@pytest.mark.parametrize("size", [0, 64, 300, 700, 900])
def test_no_room_for_a_file(tmp_path: Path, size: int) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    with files_up_to(size), pytest.raises(StateError, match="could not be written"):
        save(store, 2, first=20)
    check_after_failure(store, tmp_path)


def test_no_room_while_merging(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, compact_ratio=1.5)
    save(store, 1, count=40)
    save(store, 2, count=40)
    with files_up_to(1_500), pytest.raises(StateError, match="could not be written"):
        save(store, 3, first=40)  # merging 80 rows needs 1,920 bytes and a header
    with files_up_to(2_500):
        save(store, 4, count=1)  # 41 rows alone have room
    assert values(CheckpointStore(tmp_path).newest()) == {0: 4.0} | dict.fromkeys(
        range(1, 40), 2.0
    ) | dict.fromkeys(range(40, 80), 3.0)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    folder = small_disk / "checkpoints"
    store = CheckpointStore(folder)
    save(store, 1)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    with pytest.raises(StateError, match="No space left on device"):
        save(store, 2, first=20)
    ballast.unlink()
    check_after_failure(store, folder)


def test_a_failed_attempt_is_repeated_as_often_as_needed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1, first=0)
    for step in (2, 3, 4):
        with files_up_to(200), pytest.raises(StateError):
            save(store, step, first=10 * step)
    save(store, 5, first=100)
    found = values(CheckpointStore(tmp_path).newest())
    assert {found[i] for i in range(20)} == {1.0}
    assert {found[i] for i in range(20, 30)} == {2.0}
    assert {found[i] for i in range(30, 40)} == {3.0}
    assert {found[i] for i in range(40, 80)} == {4.0}
    assert {found[i] for i in range(100, 140)} == {5.0}


# --- kill -9 ----------------------------------------------------------------------------------------------

_WRITER = """
import sys
from pathlib import Path
import numpy as np
from ecdctr.state.checkpoints import Capture, CheckpointStore
store = CheckpointStore(Path(sys.argv[1]))
loaded = store.newest()
step = loaded.meta["step"] if loaded else 0
assert not store.damaged, store.damaged
print("ready", flush=True)
while True:
    step += 1
    rows = {"user": (np.array([step % 50, 99]), np.full((2, 4), step, np.float32))}
    store.save(Capture({"w": np.full(1000, step, np.float32)}, rows, {"step": step}))
    print(step, flush=True)
"""


def test_kill_9_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    promised = 0
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        ) as writer:
            assert writer.stdout is not None
            lines = int(rng.integers(3, 15))
            for _ in range(lines):
                line = writer.stdout.readline()
            writer.kill()
            rest = writer.stdout.read().split("\n")[:-1]
        promised = max([promised, *(int(text) for text in [line.strip(), *rest] if text.isdigit())])
        store = CheckpointStore(tmp_path)
        found = values(store.newest())
        assert store.damaged == []
        step = int(found[99])
        assert step >= promised
        assert {k: v for k, v in found.items() if k != 99} == {
            s % 50: float(s) for s in range(max(1, step - 49), step + 1)
        }
