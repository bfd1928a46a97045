"""The order in which a checkpoint reaches the disk, and what a store reports of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ecdctr.state import files
from ecdctr.state.checkpoints import Capture, CheckpointInfo, CheckpointStore, MemoryCheckpointStore


def save(store: CheckpointStore, step: int, rows: int) -> CheckpointInfo:
    values = np.full((rows, 4), step, np.float32)
    return store.save(Capture({"w": np.zeros(8)}, {"user": (np.arange(rows), values)}, {"step": step}))


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced, by name, and the renaming of a folder, in order."""
    seen: list[str] = []
    real_sync, real_rename = files._fsync, Path.rename
    monkeypatch.setattr(files, "_fsync", lambda path, flags: [seen.append(path.name), real_sync(path, flags)])
    monkeypatch.setattr(Path, "rename", lambda path, to: [seen.append("rename"), real_rename(path, to)])
    return seen


def test_everything_is_synced_before_the_final_name_and_the_name_after_it(
    tmp_path: Path, events: list[str]
) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    for step, rows in ((1, 500), (2, 3)):
        name = f"{step:08d}-step-{step}"
        assert save(store, step, rows).name == name
        assert events == [
            "dense.safetensors", f"rows-{name}.safetensors", "manifest.json", f".partial-{name}",
            "rename",
            "checkpoints",
        ]  # fmt: skip
        events.clear()


def test_a_segment_that_is_copied_is_synced(
    tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = CheckpointStore(tmp_path / "checkpoints")
    save(store, 1, 500)
    events.clear()
    save(store, 2, 3)
    assert events[: events.index("manifest.json")] == [
        "dense.safetensors",
        "rows-00000002-step-2.safetensors",
        "rows-00000001-step-1.safetensors",
    ]


def test_an_error_of_a_link_that_is_not_about_links_is_not_covered_up_by_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    store = CheckpointStore(tmp_path)
    save(store, 1, 500)
    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(Exception, match="Input/output error"):
        save(store, 2, 3)


def test_the_reported_cost_is_that_of_the_new_files(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    first, second = save(store, 1, 500), save(store, 2, 3)
    for info, segments in ((first, 1), (second, 2)):
        assert info.path == tmp_path / info.name
        sizes = {p.name: p.stat().st_size for p in info.path.iterdir()}
        manifest = sizes.pop("manifest.json")
        assert info.bytes_total == sum(sizes.values())
        assert len(info.segments) == segments
        old = [size for name, size in sizes.items() if segments == 2 and name == info.segments[0]]
        assert info.bytes_written == manifest + sum(sizes.values()) - sum(old)
        assert 0 < info.seconds < 60
    assert [info.name for info in store.list()] == [first.name, second.name]
    assert [(i.bytes_written, i.seconds) for i in store.list()] == [(0, 0.0)] * 2, (
        "listing them costs nothing"
    )


def test_a_list_compares_sizes_and_reads_no_contents(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    first, second = save(store, 1, 500), save(store, 2, 3)
    assert first.path is not None
    assert second.path is not None
    path = second.path / "dense.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert [info.name for info in store.list()] == [first.name, second.name]
    path.write_bytes(path.read_bytes() + b"x")
    assert [info.name for info in store.list()] == [first.name]


@pytest.mark.parametrize("store", [CheckpointStore, MemoryCheckpointStore])
def test_at_least_one_checkpoint_is_retained(store: type, tmp_path: Path) -> None:
    folder = [tmp_path] if store is CheckpointStore else []
    with pytest.raises(ValueError, match="keep=0"):
        store(*folder, keep=0)
    kept = store(*folder, keep=1)
    for step in (1, 2, 3):
        assert kept.save(Capture({}, {}, {"step": step})).step == step
    assert [(info.name, info.step) for info in kept.list()] == [("00000003-step-3", 3)]
