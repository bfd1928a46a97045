"""Damage of row logs: every flipped bit is found and named, and no damaged row is returned."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecdctr.state.errors import FormatError, StateError
from ecdctr.state.files import json_with_checksum
from ecdctr.state.row_logs import AdWindow, RowLog, ScoreLog

DTYPE = np.dtype([("n", "<i8"), ("x", "<f4", (3,))])
DAY = 20_000


def rows(first: int, count: int) -> NDArray[Any]:
    out = np.zeros(count, DTYPE)
    out["n"] = np.arange(first, first + count)
    return out


def append(log: RowLog, *counts: int) -> None:
    first = sum(log.sizes().values())
    for count in counts:
        log.append(rows(first, count), np.full(count, DAY))
        first += count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    log = RowLog(tmp_path, DTYPE)
    append(log, 5, 7, 1, 20)
    log.close()
    return tmp_path


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)


def test_case_s14_a_flipped_bit_anywhere_is_found_and_the_other_blocks_are_read(folder, caplog):
    path = folder / f"day-{DAY:07d}.rows"
    whole, ends = path.read_bytes(), [0, 5, 12, 13, 33]
    for at in range(0, len(whole), 29):
        flip(path, at)
        row = at // DTYPE.itemsize
        first, end = next((a, b) for a, b in itertools.pairwise(ends) if a <= row < b)
        with pytest.raises(StateError, match=rf"{path}: rows {first} to {end - 1} are damaged"):
            RowLog(folder, DTYPE, read_only=True).read()
        expected = [n for n in range(33) if not first <= n < end]
        log = RowLog(folder, DTYPE, skip_damaged=True)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert log.read()["n"].tolist() == expected
            assert [n for chunk in log.iter_chunks(4) for n in chunk["n"].tolist()] == expected
        assert caplog.text.count("they are left out") == 1, "named once"
        assert log.sizes() == {DAY: 33}
        log.close()
        path.write_bytes(whole)
    assert RowLog(folder, DTYPE, read_only=True).read()["n"].tolist() == list(range(33))


def test_case_s14_a_flipped_bit_in_the_checksums_is_found(folder):
    path = folder / f"day-{DAY:07d}.sums"
    whole = path.read_bytes()
    assert len(whole) == 4 * 8
    for at in range(len(whole)):
        flip(path, at)
        with pytest.raises(StateError):
            log = RowLog(folder, DTYPE)
            log.truncate({DAY: 33})
            log.read()
        path.write_bytes(whole)
        log = RowLog(folder, DTYPE)
        log.truncate({DAY: 33})
        assert len(log.read()) == 33, "nothing was removed"
        log.close()


@pytest.mark.parametrize("lost", ["rows", "sums"])
def test_case_s14_lost_rows_or_checksums_are_named_and_nothing_is_removed(folder, lost):
    path = folder / f"day-{DAY:07d}.{lost}"
    other = folder / f"day-{DAY:07d}.{'sums' if lost == 'rows' else 'rows'}"
    before = other.read_bytes()
    os.truncate(path, path.stat().st_size - 1)
    log = RowLog(folder, DTYPE)
    with pytest.raises(StateError, match="has 13 rows with checksums, the checkpoint records 33"):
        log.truncate({DAY: 33})
    log.close()
    assert other.read_bytes() == before


def test_case_s14_an_append_that_was_interrupted_between_its_two_files_is_cut_by_the_next_one(folder):
    with (folder / f"day-{DAY:07d}.rows").open("ab") as file:
        file.write(rows(99, 2).tobytes() + b"half")
    log = RowLog(folder, DTYPE)
    assert log.sizes() == {DAY: 33}
    append(log, 3)
    log.close()
    assert RowLog(folder, DTYPE, read_only=True).read()["n"].tolist() == list(range(36))


@pytest.mark.parametrize("cut", [0, 1, 5, 12, 20, 32, 33])
def test_rows_are_verified_after_any_truncation(folder, cut):
    log = RowLog(folder, DTYPE)
    log.truncate({DAY: cut})
    append(log, 4)
    log.close()
    again = RowLog(folder, DTYPE, read_only=True)
    assert again.read()["n"].tolist() == list(range(cut + 4))
    if cut:
        flip(folder / f"day-{DAY:07d}.rows", (cut - 1) * DTYPE.itemsize)
        with pytest.raises(StateError, match="are damaged"):
            again.read()


def first_version(folder: Path) -> None:
    """The folder as the version without checksums wrote it."""
    dtype = json.loads((folder / "schema.json").read_bytes())["content"]["dtype"]
    (folder / "schema.json").write_text(json.dumps({"dtype": dtype}))
    (folder / "first-day.json").write_text(json.dumps({"first_day": 19_000}))
    for path in folder.glob("*.sums"):
        path.unlink()


def test_case_s14_a_log_of_an_earlier_version_gets_checksums_when_it_is_opened(folder):
    first_version(folder)
    reader = RowLog(folder, DTYPE, read_only=True)
    assert reader.read()["n"].tolist() == list(range(33)), "readers change nothing"
    assert not list(folder.glob("*.sums"))
    log = RowLog(folder, DTYPE)
    assert (log.sizes(), log.first_day()) == ({DAY: 33}, 19_000)
    append(log, 2)
    assert log.read()["n"].tolist() == list(range(35))
    log.close()
    flip(folder / f"day-{DAY:07d}.rows", 40)
    with pytest.raises(StateError, match="are damaged"):
        RowLog(folder, DTYPE, read_only=True).read()


SCHEMAS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:20],
    "empty": lambda data: b"",
    "a list": lambda data: b"[]",
    "a number": lambda data: b'{"dtype": 3}',
    "a flipped bit": lambda data: data.replace(b"<i8", b"<i4"),
    "no UTF-8": lambda data: b"\xff" + data,
}


@pytest.mark.parametrize("damage", SCHEMAS)
def test_case_s17_a_damaged_schema_is_named_with_the_way_out(folder, damage):
    path = folder / "schema.json"
    whole = path.read_bytes()
    path.write_bytes(SCHEMAS[damage](whole))
    for read_only in (False, True):
        with pytest.raises(StateError, match=r"schema\.json is damaged .*restore it from a copy"):
            RowLog(folder, DTYPE, read_only=read_only)
    with pytest.raises(StateError, match=r"schema\.json is damaged"):
        ScoreLog(folder, read_only=True)
    path.unlink()
    log = RowLog(folder, DTYPE)
    assert log.read()["n"].tolist() == list(range(33))
    assert path.read_bytes() == whole


def test_case_s18_a_row_log_of_another_format_is_not_called_damaged(folder):
    (folder / "schema.json").write_bytes(json_with_checksum({"format": 3, "dtype": []}))
    with pytest.raises(FormatError, match="has format 3, this version of ecdctr reads format 2"):
        RowLog(folder, DTYPE)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"first_day": "x"}', '{"checksum":"crc32c:0","content":{"first_day":1}}']
)
def test_case_s17_a_damaged_first_day_is_named_and_taken_from_the_files(folder, text, caplog):
    (folder / "first-day.json").write_text(text)
    log = RowLog(folder, DTYPE)
    assert log.first_day() == DAY
    assert "first-day.json is damaged" in caplog.text
    log.drop_before(DAY + 1)
    log.close()
    assert RowLog(folder, DTYPE).first_day() == DAY + 1


def test_case_s17_foreign_files_and_links_among_the_rows_are_passed_over(folder, caplog):
    other = folder.parent / "precious"
    other.write_bytes(b"x" * 200)
    shutil.copy(folder / f"day-{DAY:07d}.rows", folder / f"day-{DAY:07d} (copy).rows")
    (folder / "day-foo.rows").write_text("x")
    (folder / f"day-{DAY + 1:07d}.rows").symlink_to(other)
    (folder / f"day-{DAY + 2:07d}.rows").mkdir()
    log = RowLog(folder, DTYPE)
    assert log.sizes() == {DAY: 33}
    assert caplog.text.count("it is passed over") == 4
    with pytest.raises(StateError, match="could not be written"):
        log.append(rows(0, 1), np.array([DAY + 1]))
    assert other.read_bytes() == b"x" * 200
    log.close()


def test_case_s14_no_damaged_ad_row_reaches_a_release(tmp_path, caplog):
    window = AdWindow(tmp_path, 2, 1, 5)

    def ads(first: int, count: int) -> dict[str, NDArray[Any]]:
        return {
            "ts": np.full(count, DAY * 86_400_000), "user": np.arange(count), "item": np.arange(first, first + count),
            "features": np.zeros((count, 2)), "dense": np.zeros((count, 1)), "label": np.zeros(count),
        }  # fmt: skip

    for i in range(4):
        window.append(ads(10 * i, 10))
    flip(tmp_path / f"day-{DAY:07d}.rows", 15 * (tmp_path / f"day-{DAY:07d}.rows").stat().st_size // 40)
    found = [int(i) for chunk in window.chunks(7) for i in chunk["item"]]
    assert found == [*range(10), *range(20, 40)]
    assert "rows 10 to 19 are damaged" in caplog.text
    with pytest.raises(StateError, match="rows 10 to 19 are damaged"):
        AdWindow(None, 2, 1, 5).copy_from(tmp_path, window.sizes())
    window.close()
