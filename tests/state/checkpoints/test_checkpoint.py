"""Checkpoints: one contract for files and memory. Damage and full disks are in test_checkpoint_faults.py."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecdctr.state.checkpoints import (
    Capture,
    CheckpointStore,
    CheckpointStoreLike,
    Loaded,
    MemoryCheckpointStore,
    merge_rows,
)
from ecdctr.state.checkpoints.files import merge_from
from ecdctr.state.errors import StateError
from ecdctr.state.positions import Positions

Store = Callable[..., CheckpointStoreLike]
Table = dict[int, float]


@pytest.fixture(params=["files", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    def build(keep: int = 3) -> CheckpointStoreLike:
        if request.param == "files":
            return CheckpointStore(tmp_path / "checkpoints", keep=keep)
        return MemoryCheckpointStore(keep=keep)

    return build


def delta(rows: Table, width: int = 3) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    index = np.array(list(rows), np.int64)
    values = np.array(list(rows.values()), np.float32)[:, None] + np.arange(width, dtype=np.float32)
    return index, values.reshape(len(rows), width).astype(np.float32)


def capture(step: int, user: Table, **more: Any) -> Capture:
    return Capture(
        dense={"mlp.0.weight": np.full((3, 2), step, np.float32)},
        rows={"user": delta(user)},
        meta={"step": step, "clock": step * 1000, "positions": {}, "versions": {}} | more,
    )


def table(loaded: Loaded, name: str = "user") -> Table:
    index, values = loaded.rows[name]
    assert (np.diff(index) > 0).all(), "each index once, ascending"
    np.testing.assert_array_equal(values, values[:, :1] + np.arange(values.shape[1], dtype=values.dtype))
    return dict(zip(index.tolist(), values[:, 0].tolist(), strict=True))


def test_an_empty_store_has_nothing(make: Store) -> None:
    store = make()
    assert store.newest() is None
    assert store.list() == []
    assert store.damaged == []


def test_everything_comes_back(make: Store) -> None:
    rng = np.random.default_rng(0)
    dense: dict[str, NDArray[Any]] = {
        "weight": rng.standard_normal((4, 3)).astype(np.float32),
        "transposed": rng.standard_normal((4, 3)).astype(np.float32).T,
        "every second": np.arange(10)[::2],
        "step count": np.array(7, np.int64),
        "empty": np.empty((0, 5), np.float32),
        "flag": np.array([True, False]),
        "ids": np.array([2**64 - 1, 0], np.uint64),
        "double": np.array([0.1, np.nan, -0.0, np.inf]),
    }
    rows = {
        "user": (
            np.array([9, 2, 5]),
            np.array([[np.nan, 1e-45], [-0.0, 2], [3e38, -np.inf]], np.float32),
        ),
        "item": (np.empty(0, np.int64), np.empty((0, 4), np.float32)),
    }
    positions = Positions({("ad-clicks", 0): 12, ("natural-clicks", 3): 2**40})
    meta = {
        "step": 3,
        "positions": positions.to_json(),
        "clock": 1_760_000_000_000,
        "versions": {"tpm": ["2026-08", "2026-09"], "cpm": 4, "actr": 17},
        "rng": [2**64 - 1, 2**127],
        "loss": 0.1 + 0.2,
        "names": "ü ☃",
    }
    store = make()
    info = store.save(Capture(dense, rows, meta))
    assert info.step == 3
    loaded = store.newest()
    assert loaded is not None
    assert loaded.name == info.name
    assert loaded.meta == meta
    assert Positions.from_json(loaded.meta["positions"]) == positions
    assert loaded.dense.keys() == dense.keys()
    for name, value in dense.items():
        found = loaded.dense[name]
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert found.tobytes() == value.tobytes(), "bit for bit"
        assert found.flags.writeable
    assert loaded.rows["user"][0].tolist() == [2, 5, 9]
    assert loaded.rows["user"][1].tobytes() == rows["user"][1][[1, 2, 0]].tobytes()
    assert loaded.rows["item"][1].shape == (0, 4)


def test_a_table_without_a_row_comes_back_with_its_form(make: Store) -> None:
    store = make()
    store.save(Capture({}, {"item": (np.empty(0, np.int64), np.empty((0, 4), np.float16))}, {"step": 1}))
    loaded = store.newest()
    assert loaded is not None
    index, values = loaded.rows["item"]
    assert (index.dtype, index.shape, values.dtype, values.shape) == (np.int64, (0,), np.float16, (0, 4))


def test_deltas_add_up(make: Store) -> None:
    store = make()
    store.save(capture(1, {4: 1.0, 8: 1.0}))
    store.save(capture(2, {8: 2.0, 1: 2.0}))
    store.save(capture(3, {}))
    loaded = store.newest()
    assert loaded is not None
    assert table(loaded) == {1: 2.0, 4: 1.0, 8: 2.0}
    assert loaded.meta["step"] == 3
    assert loaded.dense["mlp.0.weight"][0, 0] == 3


def test_a_later_change_of_the_arrays_does_not_reach_the_checkpoint(make: Store) -> None:
    store = make()
    taken = capture(1, {1: 1.0})
    store.save(taken)
    taken.dense["mlp.0.weight"][:] = -1
    taken.rows["user"][1][:] = -1
    first = store.newest()
    assert first is not None
    first.rows["user"][1][:] = -2
    again = store.newest()
    assert again is not None
    assert table(again) == {1: 1.0}
    assert again.dense["mlp.0.weight"][0, 0] == 1


def test_an_index_twice_in_one_capture_means_its_last_row(make: Store) -> None:
    store = make()
    index, values = np.array([5, 3, 5]), np.array([[1], [2], [3]], np.float32)
    store.save(Capture({}, {"user": (index, values)}, {"step": 1}))
    loaded = store.newest()
    assert loaded is not None
    assert table(loaded) == {3: 2.0, 5: 3.0}


def test_the_newest_are_kept(make: Store) -> None:
    store = make(keep=2)
    names = [store.save(capture(step, {step: 1.0})).name for step in range(6)]
    listed = store.list()
    assert [info.name for info in listed][-2:] == names[-2:]
    assert len(listed) <= 3  # with files one more may be kept that shares no base with them
    assert [info.step for info in listed] == sorted(info.step for info in listed)
    assert listed[-1].meta["clock"] == 5000
    with pytest.raises(ValueError, match="at least one"):
        make(keep=0)


def test_an_unknown_name_is_an_error_that_names_the_known_ones(make: Store) -> None:
    store = make()
    name = store.save(capture(1, {})).name
    with pytest.raises(StateError, match=name):
        store.load("00000099-step-99")


def test_going_back_on_purpose(make: Store) -> None:
    store = make()
    old = store.save(capture(1, {1: 1.0})).name
    store.save(capture(2, {1: 2.0, 2: 2.0}))
    loaded = store.load(old)
    assert table(loaded) == {1: 1.0}
    store.adopt(loaded)
    store.save(capture(2, {3: 5.0}))  # the same step again, another history
    newest = store.newest()
    assert newest is not None
    assert table(newest) == {1: 1.0, 3: 5.0}, "what was saved last is the newest, whatever its step"


def test_reading_does_not_change_what_the_next_delta_adds_to(make: Store) -> None:
    store = make()
    old = store.save(capture(1, {1: 1.0})).name
    store.save(capture(2, {2: 2.0}))
    store.load(old)
    store.save(capture(3, {3: 3.0}))
    loaded = store.newest()
    assert loaded is not None
    assert table(loaded) == {1: 1.0, 2: 2.0, 3: 3.0}


@pytest.mark.slow
@settings(max_examples=40, derandomize=True)
@given(
    history=st.lists(
        st.tuples(
            st.dictionaries(st.integers(0, 30), st.integers(-50, 50), max_size=8),
            st.dictionaries(st.integers(-(2**60), 2**60), st.integers(-50, 50), max_size=3),
            st.sampled_from(["go on", "go on", "restart", "back"]),
        ),
        min_size=1,
        max_size=10,
    ),
    ratio=st.sampled_from([0.5, 1.0, 2.0, 100.0]),
)
def test_against_a_dict(
    history: list[tuple[dict[int, int], dict[int, int], str]],
    ratio: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    stores: list[CheckpointStoreLike] = [CheckpointStore(folder, 2, ratio), MemoryCheckpointStore(2)]
    user: Table = {}
    item: Table = {}
    saved: list[tuple[Table, Table]] = []
    for step, (touched, touched_items, then) in enumerate(history):
        user |= touched
        item |= touched_items
        saved.append((dict(user), dict(item)))
        rows = {"user": delta(touched), "item": delta(touched_items, 1)}
        for store in stores:
            store.save(Capture({}, rows, {"step": step}))
        if then == "restart":
            stores[0] = CheckpointStore(folder, 2, ratio)
        for store in stores:
            loaded = store.newest()
            assert loaded is not None
            assert (table(loaded), table(loaded, "item")) == (user, item)
        if then == "back" and step:
            user, item = map(dict, saved[step - 1])
            saved[step] = saved[step - 1]
            for store in stores:
                store.adopt(store.load(store.list()[-2].name))
                store.save(Capture({}, {}, {"step": step}))


# --- how files grow ---------------------------------------------------------------------------------------


def test_cost_follows_the_rows_touched_and_not_the_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    written: dict[int, int] = {}
    for size in (10_000, 1_000_000_000):
        store = CheckpointStore(tmp_path / str(size))
        written[size] = 0
        for step in range(20):
            index = rng.choice(size, 500, replace=False)
            rows = {"user": (index, rng.standard_normal((500, 17)).astype(np.float32))}
            written[size] += store.save(Capture({}, rows, {"step": step})).bytes_written
    assert written[1_000_000_000] < 1.5 * written[10_000]
    per_row = 8 + 17 * 4
    assert written[1_000_000_000] < 5 * 20 * 500 * per_row, (
        "merging writes a row a few times, not at each save"
    )


def test_every_folder_stands_alone(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "a", keep=4)
    for step in range(8):
        store.save(capture(step, {step: float(step), 100: float(step)}))
    for info in store.list():
        assert info.path is not None
        alone = tmp_path / "alone" / info.name
        alone.parent.mkdir(exist_ok=True)
        alone.symlink_to(info.path)
        loaded = CheckpointStore(alone.parent).load(info.name)
        assert table(loaded) == {i: float(i) for i in range(info.step + 1)} | {100: float(info.step)}


def test_earlier_segments_are_shared_by_hard_links(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    big = store.save(capture(1, dict.fromkeys(range(2000), 1.0)))
    small = store.save(capture(2, {1: 2.0}))
    assert small.bytes_written < big.bytes_written / 5
    assert small.bytes_total > big.bytes_total
    assert small.path is not None
    assert (small.path / big.segments[0]).stat().st_nlink == 2


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = CheckpointStore(tmp_path)
    big = store.save(capture(1, dict.fromkeys(range(2_000), 1.0)))
    small = store.save(capture(2, {1: 2.0}))
    assert small.path is not None
    assert (small.path / big.segments[0]).stat().st_nlink == 1
    loaded = CheckpointStore(tmp_path).newest()
    assert loaded is not None
    assert table(loaded) == dict.fromkeys(range(2_000), 1.0) | {1: 2.0}


def test_one_more_checkpoint_is_retained_that_shares_no_base(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    seen = 0
    for step in range(40):
        store.save(capture(step, {i: float(step) for i in range(step, step + 40)}))
        *apart, newest = store.list()
        apart = apart[:-1]
        assert len(apart) <= 1
        seen += len(apart)
        assert all(info.segments[0] not in newest.segments for info in apart)
    assert seen


@settings(derandomize=True)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.sampled_from([0.5, 1.0, 2.0, 4.0]))
def test_merging_keeps_segments_few(deltas: list[int], ratio: float) -> None:
    sizes: list[int] = []
    for new in deltas:
        sizes.append(new)
        first = merge_from(sizes, ratio)
        sizes[first:] = [sum(sizes[first:])]
        for i in range(len(sizes) - 1):
            assert sum(sizes[i + 1 :]) < ratio * sizes[i]
    growth = 1 + 1 / ratio  # each segment and its younger ones are that much more than the younger ones alone
    assert len(sizes) <= 2 + np.log(sum(deltas)) / np.log(growth)


def test_tables_that_change_their_form_are_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(Capture({}, {"user": delta({1: 1.0}, 3)}, {"step": 1}))
    with pytest.raises(ValueError, match="'user'"):
        store.save(Capture({}, {"user": delta({1: 1.0}, 4)}, {"step": 2}))
    with pytest.raises(ValueError, match="2 indices"):
        merge_rows([{"user": (np.array([1, 2]), np.zeros((3, 4)))}])
    assert not list(tmp_path.glob(".partial-*"))
