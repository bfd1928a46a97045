"""Snapshots written in the background: only callers that depend on them wait, and a failed write remains pending."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecdctr.state.errors import SnapshotExistsError, StateError
from ecdctr.state.snapshots import (
    MemoryEmbeddingStore,
    RocksEmbeddingStore,
    SnapshotCheck,
    SnapshotWriter,
    link_snapshots,
)


def vectors(seed: int, n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.permutation(100)[:n].astype(np.uint64), rng.normal(size=(n, 4)).astype(np.float32)


class Held(MemoryEmbeddingStore):
    """A store whose writes wait for an event, and fail the first ``failures`` times."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.leave, self.failures = threading.Event(), failures

    def write(self, *args: Any, **more: Any) -> Any:
        assert self.leave.wait(30)
        if self.failures:
            self.failures -= 1
            raise StateError("no space left on device")
        return super().write(*args, **more)


def test_write_returns_before_the_month_is_on_disk() -> None:
    store = Held()
    writer = SnapshotWriter(store)
    assert writer.write("m1", 4, 10, vectors(1), vectors(2)) is None
    assert store.months() == []
    writer.settle(["m2"])  # not pending: returns at once
    assert store.months() == []
    store.leave.set()
    writer.settle()
    assert store.months() == ["m1"]
    writer.close()


def test_a_failed_write_is_pending_until_it_succeeds() -> None:
    store = Held(failures=2)
    store.leave.set()
    writer = SnapshotWriter(store)
    writer.write("m1", 4, 10, vectors(1), vectors(2))
    with pytest.raises(StateError, match="no space"):
        writer.settle()
    writer.settle()
    assert store.months() == ["m1"]
    writer.close()


def test_an_existing_month_is_not_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = RocksEmbeddingStore(tmp_path)
    first = store.write("m1", 4, 10, vectors(1), vectors(2))
    with pytest.raises(SnapshotExistsError):
        store.write("m1", 4, 11, vectors(3), vectors(4))
    writer = SnapshotWriter(RocksEmbeddingStore(tmp_path))
    writer.write("m1", 4, 11, vectors(3), vectors(4))
    writer.settle()
    assert "m1: the existing snapshot is retained" in caplog.text
    assert store.manifest("m1") == first
    writer.close()
    store.close()


def test_a_month_without_finite_vectors_does_not_block_later_months(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryEmbeddingStore()
    writer = SnapshotWriter(store)
    ids, rows = vectors(1)
    rows[3, 1] = np.inf
    writer.write("m1", 4, 10, (ids, rows), vectors(2))
    writer.settle()
    assert store.months() == [] and "m1 has no snapshot" in caplog.text
    writer.close()


def test_a_month_trained_again_is_compared() -> None:
    store = MemoryEmbeddingStore()
    store.write("m1", 4, 10, vectors(1), vectors(2))
    check = SnapshotCheck(store)
    check.write("m1", 4, 10, vectors(1), vectors(2))
    check.write("m2", 4, 10, vectors(1), vectors(2))
    assert check.differences == []
    check.write("m1", 4, 10, vectors(1), vectors(3))
    assert len(check.differences) == 1 and "m1" in check.differences[0]
    assert store.months() == ["m1"]


def test_linked_snapshots_are_read_and_new_ones_stay_apart(tmp_path: Path) -> None:
    there, here = RocksEmbeddingStore(tmp_path / "there"), RocksEmbeddingStore(tmp_path / "here")
    there.write("m1", 4, 10, vectors(1), vectors(2))
    for _ in range(2):
        link_snapshots(there.folder, here.folder)
    here.write("m2", 4, 20, vectors(3), vectors(4))
    assert here.months() == ["m1", "m2"] and there.months() == ["m1"]
    ids, rows = vectors(1)
    found, present = here.lookup("user", ids, ["m1"])
    assert present.all()
    np.testing.assert_array_equal(found[:, 0], rows)
    here.close()
    there.close()
