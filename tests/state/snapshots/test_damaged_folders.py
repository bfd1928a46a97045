"""Damaged and foreign folders among the snapshots: never used, named once; a month in use is refused."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ecdctr.models.tpm import SnapshotHistory
from ecdctr.state.errors import FormatError, SnapshotDamagedError, StateError
from ecdctr.state.files import write_json
from ecdctr.state.snapshots import RocksEmbeddingStore, Vectors, write_snapshot

IDS = np.arange(1, 501, dtype=np.uint64)


def vectors(seed: int) -> Vectors:
    return IDS, np.random.default_rng(seed).standard_normal((len(IDS), 4)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, month in enumerate(("2026-01", "2026-02", "2026-03")):
        write_snapshot(tmp_path, month, 4, 1_000 * (number + 1), vectors(number), vectors(number + 9))
    return tmp_path


def database_file(folder: Path, name: str) -> Path:
    return next((folder / "2026-02" / "db").glob(name))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "MANIFEST cut by one byte": lambda f: cut(database_file(f, "MANIFEST-*")),
    "vectors cut by one byte": lambda f: cut(database_file(f, "*.sst")),
    "CURRENT of another database": lambda f: database_file(f, "CURRENT").write_text("MANIFEST-000001\n"),
    "a write-ahead log that another program left": lambda f: (
        f / "2026-02" / "db" / "000099.log"
    ).write_bytes(b"x"),
    "a missing options file": lambda f: database_file(f, "OPTIONS-*").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_case_s10_a_damaged_database_is_named_and_never_read(folder, damage, caplog):
    DAMAGES[damage](folder)
    store = RocksEmbeddingStore(folder)
    for _ in range(2):
        with pytest.raises(SnapshotDamagedError, match=r"2026-02 is damaged: db/.*Restore it from a copy"):
            store.lookup("user", IDS[:3], ["2026-01", "2026-02"])
        with pytest.raises(SnapshotDamagedError, match="2026-02"):
            list(store.scan("user", ["2026-02"]))
        with pytest.raises(SnapshotDamagedError, match="2026-02"):
            SnapshotHistory(store, ("2026-01", "2026-02"), 4, 9_999, torch.device("cpu"))
    with caplog.at_level(logging.ERROR):
        for clock in (2_500, 9_999, 9_999):
            assert "2026-02" not in store.select(clock, 3)
    assert store.select(9_999, 2) == ("2026-01", "2026-03")
    assert caplog.text.count("It is passed over") == 1
    store.close()


def test_case_s10_files_are_read_again_only_after_a_change(folder, monkeypatch):
    read: list[str] = []
    original = RocksEmbeddingStore.check.__globals__["check_files"]

    def counted(path: Path) -> None:
        read.append(path.name)
        original(path)

    monkeypatch.setitem(RocksEmbeddingStore.check.__globals__, "check_files", counted)
    store = RocksEmbeddingStore(folder)
    for _ in range(3):
        assert store.select(9_999, 1) == ("2026-03",)
        store.lookup("user", IDS, ["2026-03"])
    assert read == ["2026-03"]
    store.close()
    cut(next((folder / "2026-03" / "db").glob("MANIFEST-*")))
    assert store.select(9_999, 1) == ("2026-02",)
    assert read == ["2026-03", "2026-03", "2026-02"]


def test_case_s10_a_damaged_month_that_is_computed_again_is_repaired(folder):
    DAMAGES["MANIFEST cut by one byte"](folder)
    store = RocksEmbeddingStore(folder)
    store.write("2026-02", 4, 2_000, vectors(1), vectors(10))
    found, present = store.lookup("user", IDS, ["2026-02"])
    assert present.all()
    assert found[:, 0].tobytes() == vectors(1)[1].tobytes()
    cut(database_file(folder, "*.sst"))
    with pytest.raises(StateError, match="immutable"):
        store.write("2026-02", 4, 2_000, vectors(5), vectors(10))
    store.close()


SECOND = "of the second month"
FOREIGN: dict[str, Callable[[Path], object]] = {
    "an empty folder": lambda f: (f / "backup").mkdir(),
    "a copy of a month": lambda f: shutil.copytree(f / "2026-01", f / "2026-01.bak"),
    "a damaged manifest of the second month": lambda f: os.truncate(f / "2026-02" / "manifest.json", 99),
    "a folder whose manifest is a folder": lambda f: (f / "odd" / "manifest.json").mkdir(parents=True),
    "a manifest that is a list": lambda f: (
        (f / "odd").mkdir(),
        write_json(f / "odd" / "manifest.json", [1]),
    ),
    "another format of the second month": lambda f: other_format(f / "2026-02" / "manifest.json"),
    "a file": lambda f: (f / "notes").write_text("x"),
}


def other_format(path: Path) -> None:
    write_json(path, {**json.loads(path.read_bytes())["content"], "format": 7})


@pytest.mark.parametrize("foreign", FOREIGN)
def test_case_s11_what_is_no_whole_month_is_passed_over_and_named_once(folder, foreign, caplog):
    FOREIGN[foreign](folder)
    store = RocksEmbeddingStore(folder)
    usable = ["2026-01", "2026-03"] if foreign.endswith(SECOND) else ["2026-01", "2026-02", "2026-03"]
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert store.months() == usable
            assert store.select(9_999, 3) == tuple(usable)
    assert caplog.text.count("It is passed over") == (0 if foreign == "a file" else 1)
    _, present = store.lookup("user", IDS, usable)
    assert present.all()
    store.close()


def test_case_s18_a_snapshot_of_another_format_is_not_called_damaged(folder):
    other_format(folder / "2026-02" / "manifest.json")
    with pytest.raises(
        FormatError, match=r"2026-02 has format 7, this version of ecdctr reads format 1"
    ) as found:
        RocksEmbeddingStore(folder).manifest("2026-02")
    assert "is not damaged" in str(found.value)


def test_case_s10_a_file_that_every_reader_writes_again_is_not_trusted(folder):
    path = database_file(folder, "rocksdict-config.json")
    path.write_text("{")
    store = RocksEmbeddingStore(folder)
    assert store.lookup("user", IDS, ["2026-02"])[0][:, 0].tobytes() == vectors(1)[1].tobytes()
    store.close()
