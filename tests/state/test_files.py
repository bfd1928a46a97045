"""Atomic writes and checksums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.state import files

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "CURRENT"
    files.write_atomic(path, b"first, and longer")
    files.write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in tmp_path.iterdir()] == ["CURRENT"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "CURRENT"
    files.write_atomic(path, b"old")

    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_all", full)
    with pytest.raises(OSError, match="No space"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["CURRENT"]


def test_checksum_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000  # more than one piece
    (tmp_path / "file").write_bytes(data)
    assert files.checksum(tmp_path / "file") == files.checksum_bytes(data)


@settings(max_examples=60, derandomize=True)
@given(content=JSON)
def test_json_comes_back(content: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    assert files.write_json(path, content) == path.stat().st_size
    assert files.read_json(path) == content


def test_any_flipped_bit_of_a_json_file_is_detected_or_without_effect(tmp_path: Path) -> None:
    path, content = tmp_path / "x.json", {"step": 12, "loss": 0.25, "names": ["a", "b"], "none": None}
    files.write_json(path, content)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            try:
                found = files.read_json(path)
            except ValueError as error:
                assert "x.json" in str(error)
            else:
                assert json.dumps(found) == json.dumps(content)
