"""The embedding store: one contract for RocksDB and memory; damage; immutability; other processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecdctr.state.errors import SnapshotDamagedError, StateError
from ecdctr.state.snapshots import (
    EmbeddingStore,
    Kind,
    MemoryEmbeddingStore,
    RocksEmbeddingStore,
    Vectors,
    write_snapshot,
)
from ecdctr.state.snapshots.base import union_chunks

Ids = NDArray[np.uint64]
KINDS: tuple[Kind, Kind] = ("user", "item")


def u64(*values: int) -> Ids:
    return np.array(values, np.uint64)


def vectors(ids: Ids, seed: int, dim: int = 4) -> Vectors:
    """Random vectors that depend on nothing but seed and position."""
    return ids, np.random.default_rng(seed).standard_normal((len(ids), dim)).astype(np.float32)


@pytest.fixture(params=["rocksdb", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddingStore]:
    # A cache of 16 slots: most look-ups evict each other.
    made: EmbeddingStore = (
        RocksEmbeddingStore(tmp_path / "snapshots", cache_rows=16)
        if request.param == "rocksdb"
        else MemoryEmbeddingStore()
    )
    yield made
    made.close()


# --- contract, on disk and in memory ------------------------------------------------------------------------


def test_vectors_come_back_bit_for_bit(store: EmbeddingStore) -> None:
    users = vectors(u64(5, 2**64 - 1, 0, 2**63, 77), 1)
    items = vectors(u64(5, 6), 2)
    written = store.write(
        "2026-01", 4, 1000, users, items, first_ts=10, features=("user", "item"), trained=99
    )
    assert store.manifest("2026-01") == written
    assert (written.rows, written.dim, written.first_ts, written.last_ts) == (
        {"user": 5, "item": 2},
        4,
        10,
        1000,
    )
    assert written.features == ("user", "item")
    assert written.extra == {"trained": 99}
    for kind, (ids, expected) in zip(KINDS, (users, items), strict=True):
        for _ in range(2):  # from the database, then from the cache
            found, present = store.lookup(kind, ids, ["2026-01"])
            assert present.shape == (len(ids), 1)
            assert present.all()
            assert found.shape == (len(ids), 1, 4)
            assert found.dtype == np.float32
            assert found[:, 0].tobytes() == expected.tobytes()


def test_absent_ids_and_months_are_masked_and_zero(store: EmbeddingStore) -> None:
    store.write("a", 4, 10, vectors(u64(1, 2), 1), vectors(u64(), 0))
    store.write("b", 4, 20, vectors(u64(2, 3), 2), vectors(u64(9), 3))
    for _ in range(2):
        found, present = store.lookup("user", u64(3, 1, 4, 2, 1, 3), ["a", "b"])
        assert present.tolist() == [
            [False, True],
            [True, False],
            [False, False],
            [True, True],
            [True, False],
            [False, True],
        ]
        assert (found[~present] == 0).all()
        assert (found[0] == found[5]).all()
        assert (found[1] == found[4]).all()
        found, present = store.lookup("item", u64(9, 1), ["a", "b"])
        assert present.tolist() == [[False, True], [False, False]]
    empty, none = store.lookup("user", u64(), ["a", "b"])
    assert (empty.shape, none.shape) == ((0, 2, 4), (0, 2))
    assert store.lookup("user", u64(1, 2), [])[1].shape == (2, 0)


def test_a_user_is_not_an_item(store: EmbeddingStore) -> None:
    store.write("a", 2, 10, vectors(u64(7), 1, 2), vectors(u64(8), 2, 2))
    assert not store.lookup("item", u64(7), ["a"])[1].any()
    assert not store.lookup("user", u64(8), ["a"])[1].any()


@pytest.mark.slow
@settings(max_examples=40, derandomize=True)
@given(
    months=st.lists(
        st.dictionaries(st.integers(0, 40), st.integers(-99, 99), max_size=20), min_size=1, max_size=3
    ),
    asked=st.lists(st.lists(st.integers(0, 45), max_size=30), min_size=1, max_size=4),
    chunk=st.integers(1, 9),
)
def test_against_a_dict(
    months: list[dict[int, int]],
    asked: list[list[int]],
    chunk: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    real = RocksEmbeddingStore(tmp_path_factory.mktemp("snapshots"), cache_rows=8)
    stores: list[EmbeddingStore] = [real, MemoryEmbeddingStore()]
    names = [f"m{i}" for i in range(len(months))]
    for name, month, i in zip(names, months, range(9), strict=False):
        ids = u64(*month)
        rows = np.array(list(month.values()), np.float32).reshape(-1, 1) + np.array([0, 0.5], np.float32)
        for store in stores:
            store.write(name, 2, i, (ids, rows), (ids, -rows))
    for ids_asked in asked:
        for store in stores:
            for kind, sign in (("user", 1), ("item", -1)):
                found, present = store.lookup("user" if kind == "user" else "item", u64(*ids_asked), names)
                for row, id_ in enumerate(ids_asked):
                    for k, month in enumerate(months):
                        assert present[row, k] == (id_ in month)
                        value = sign * month[id_] if id_ in month else 0
                        assert found[row, k, 0] == value
    union = sorted(set().union(*months))
    for store in stores:
        chunks = list(store.iter_ids("item", names, chunk))
        assert [int(i) for c in chunks for i in c] == union
        assert all(len(c) <= chunk * len(names) for c in chunks)
        scanned = list(store.scan("item", names, chunk))
        assert [int(i) for ids, _, _ in scanned for i in ids] == union
        for ids, rows, there in scanned:
            found, present = store.lookup("item", ids, names)
            assert rows.tobytes() == found.tobytes()
            assert there.tobytes() == present.tobytes()
    real.close()


def test_months_are_chosen_by_point_in_time(store: EmbeddingStore) -> None:
    nothing = vectors(u64(), 0)
    for month, last in (("2026-02", 200), ("2026-01", 100), ("2026-03", 300), ("2025-12", 50)):
        store.write(month, 4, last, nothing, nothing)
    assert store.months() == ["2025-12", "2026-01", "2026-02", "2026-03"]
    assert store.select(1_000, 3) == ("2026-01", "2026-02", "2026-03")
    assert store.select(301, 2) == ("2026-02", "2026-03")
    assert store.select(300, 2) == ("2026-01", "2026-02"), "a row may not meet a snapshot of its own age"
    assert store.select(51, 3) == ("2025-12",)
    assert store.select(50, 3) == ()
    assert store.select(1_000, 0) == ()


def test_months_of_different_dimension_are_not_read_together(store: EmbeddingStore) -> None:
    nothing = vectors(u64(), 0)
    store.write("a", 4, 100, nothing, nothing)
    store.write("wide", 8, 300, vectors(u64(), 0, 8), vectors(u64(), 0, 8))
    with pytest.raises(StateError, match="'c'"):
        store.lookup("user", u64(1), ["a", "c"])
    with pytest.raises(StateError, match="dimension"):
        store.lookup("user", u64(1), ["a", "wide"])


def test_a_month_is_written_once(store: EmbeddingStore) -> None:
    users, items = vectors(u64(3, 1, 2), 1), vectors(u64(4), 2)
    first = store.write("a", 4, 100, users, items)
    backwards = users[0][::-1], users[1][::-1]
    assert store.write("a", 4, 100, backwards, items) == first, "a redone month is the same month"
    changed = users[0], users[1] + 1
    for last_ts, others in ((100, changed), (101, users)):
        with pytest.raises(StateError, match="immutable"):
            store.write("a", 4, last_ts, others, items)
    assert store.lookup("user", users[0], ["a"])[0][:, 0].tobytes() == users[1].tobytes()
    store.write("a", 4, 100, changed, items, replace=True)
    assert store.lookup("user", users[0], ["a"])[0][:, 0].tobytes() == changed[1].tobytes()


@pytest.mark.parametrize(
    ("month", "ids", "dim", "value", "message"),
    [
        ("../a", [1], 4, 0, "folder"),
        (".hidden", [1], 4, 0, "folder"),
        ("a", [1, 2, 1], 4, 0, "id 1 occurs twice"),
        ("a", [1], 5, 0, "dim 5"),
        ("a", [1], 4, np.nan, "not finite"),
    ],
)
def test_what_cannot_be_a_snapshot(
    store: EmbeddingStore, month: str, ids: list[int], dim: int, value: float, message: str
) -> None:
    users = u64(*ids), np.full((len(ids), 4), value, np.float32)
    with pytest.raises(ValueError, match=message):
        store.write(month, dim, 1, users, vectors(u64(), 0))
    assert store.months() == []


def test_an_absent_month_is_named(store: EmbeddingStore) -> None:
    for ask in (store.manifest, store.verify, lambda month: store.lookup("user", u64(1), [month])):
        with pytest.raises(StateError, match="2026-13"):
            ask("2026-13")


def test_equal_content_has_an_equal_checksum() -> None:
    stores = [MemoryEmbeddingStore() for _ in range(3)]
    users, items = vectors(u64(1, 2), 1), vectors(u64(3), 2)
    one = stores[0].write("a", 4, 1, users, items)
    assert stores[1].write("b", 4, 9, users, items).checksum == one.checksum
    assert stores[2].write("a", 4, 1, (users[0], users[1][::-1].copy()), items).checksum != one.checksum


# --- files ------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    ids = np.arange(1, 2_001, dtype=np.uint64) * np.uint64(2**53 + 1)
    write_snapshot(tmp_path, "2026-01", 4, 1000, vectors(ids, 1), vectors(ids[:50], 2))
    return tmp_path


def test_the_double_and_the_files_agree_on_the_checksum(written: Path) -> None:
    ids = np.arange(1, 2_001, dtype=np.uint64) * np.uint64(2**53 + 1)
    double = MemoryEmbeddingStore().write("2026-01", 4, 1000, vectors(ids, 1), vectors(ids[:50], 2))
    assert RocksEmbeddingStore(written).manifest("2026-01") == double


def test_nothing_but_the_snapshot_is_left(written: Path) -> None:
    assert [p.name for p in written.iterdir()] == ["2026-01"]
    assert sorted(p.name for p in (written / "2026-01").iterdir()) == [
        "db",
        "ids-item.npy",
        "ids-user.npy",
        "manifest.json",
    ]


def test_reading_changes_no_byte(written: Path) -> None:
    for _ in range(2):
        store = RocksEmbeddingStore(written)
        store.lookup("user", u64(1, 2, 3), ["2026-01"])
        assert sum(len(ids) for ids, _, _ in store.scan("user", ["2026-01"])) == 2_000
        store.verify("2026-01")
        store.close()
    store.verify("2026-01")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 4
    path.write_bytes(data)


def sst(folder: Path) -> Path:
    return next((folder / "2026-01" / "db").glob("*.sst"))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit": lambda f: flip(sst(f), 5_000),
    "flipped bit in ids": lambda f: flip(f / "2026-01" / "ids-user.npy", 777),
    "flipped bit in manifest": lambda f: flip(f / "2026-01" / "manifest.json", 99),
    "truncated": lambda f: os.truncate(sst(f), 10_000),
    "missing": lambda f: sst(f).unlink(),
    "missing manifest": lambda f: (f / "2026-01" / "manifest.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(written: Path, damage: str) -> None:
    DAMAGES[damage](written)
    store = RocksEmbeddingStore(written)
    with pytest.raises(SnapshotDamagedError, match="2026-01"):
        store.verify("2026-01")
    store.close()


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "missing"])
def test_damaged_vectors_are_never_handed_out(written: Path, damage: str) -> None:
    whole = RocksEmbeddingStore(written)
    ids = np.concatenate(list(whole.iter_ids("user", ["2026-01"])))
    expected, _ = whole.lookup("user", ids, ["2026-01"])
    whole.close()
    DAMAGES[damage](written)
    store = RocksEmbeddingStore(written)
    with pytest.raises(SnapshotDamagedError, match="2026-01"):
        for i in range(len(ids)):
            found, _ = store.lookup("user", ids[i : i + 1], ["2026-01"])
            assert found.tobytes() == expected[i].tobytes()
    with pytest.raises(SnapshotDamagedError, match="2026-01"):
        for _, found, _ in store.scan("user", ["2026-01"]):
            assert found.tobytes() == expected.tobytes()
    store.close()


def test_a_half_written_month_is_not_there(written: Path) -> None:
    (written / ".partial-2026-02").mkdir()
    (written / ".partial-2026-02" / "manifest.json").write_text("torn")
    assert RocksEmbeddingStore(written).months() == ["2026-01"]
    write_snapshot(written, "2026-02", 4, 2000, vectors(u64(1), 1), vectors(u64(), 1))
    assert RocksEmbeddingStore(written).months() == ["2026-01", "2026-02"]
    assert not (written / ".partial-2026-02").exists()


def test_a_full_disk_leaves_no_month(small_disk: Path) -> None:
    ids = np.arange(40_000, dtype=np.uint64)
    with pytest.raises(StateError, match="could not be written"):
        write_snapshot(small_disk, "2026-01", 16, 1, vectors(ids, 1, 16), vectors(ids, 2, 16))
    assert list(small_disk.iterdir()) == []
    write_snapshot(small_disk, "2026-01", 16, 1, vectors(ids[:9], 1, 16), vectors(ids[:9], 2, 16))
    assert RocksEmbeddingStore(small_disk).months() == ["2026-01"]


def test_more_months_than_stay_open(tmp_path: Path) -> None:
    store = RocksEmbeddingStore(tmp_path, cache_rows=16)
    for month in range(15):
        users = u64(1), np.full((1, 4), month, np.float32)
        store.write(f"{month:02d}", 4, month, users, vectors(u64(), 0))
    for _ in range(2):
        found, present = store.lookup("user", u64(1), store.months())
        assert present.all()
        assert found[0, :, 0].tolist() == list(range(15))
    store.close()


# --- parts ------------------------------------------------------------------------------------------------


@settings(derandomize=True)
@given(
    tables=st.lists(st.sets(st.integers(0, 60)), min_size=1, max_size=4),
    rows=st.integers(1, 10),
)
def test_union_in_chunks(tables: list[set[int]], rows: int) -> None:
    chunks = list(union_chunks([u64(*sorted(t)) for t in tables], rows))
    assert [int(i) for c in chunks for i in c] == sorted(set().union(*tables))
