"""The row log: one contract for files and memory; recovery by sizes; full disks; kill -9."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecdctr.state.errors import StateError
from ecdctr.state.row_logs import MemoryRowLog, RowLog, RowLogLike
from tests.support.waiting import allowance

DTYPE = np.dtype([("n", "<i8"), ("x", "<f4", (3,)), ("none", "<f4", (0,))])


def rows(first: int, count: int) -> NDArray[Any]:
    out = np.zeros(count, DTYPE)
    out["n"] = np.arange(first, first + count)
    out["x"] = out["n"][:, None] + np.array([0.25, 0.5, 0.75])
    return out


def days(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


@pytest.fixture(params=["files", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RowLogLike]:
    made: RowLogLike = RowLog(tmp_path / "rows", DTYPE) if request.param == "files" else MemoryRowLog(DTYPE)
    yield made
    made.close()


def test_rows_come_back_by_day_in_the_order_appended(log: RowLogLike) -> None:
    log.append(rows(0, 5), days(7, 6, 7, 7, 6))
    log.append(rows(5, 2), days(6, 8))
    found = log.read()
    assert found["n"].tolist() == [1, 4, 5, 0, 2, 3, 6]
    assert (found["x"][:, 1] == found["n"] + 0.5).all()
    assert log.sizes() == {6: 3, 7: 3, 8: 1}
    assert log.read(7, 7)["n"].tolist() == [0, 2, 3]
    assert log.read(first_day=8)["n"].tolist() == [6]
    assert len(log.read(first_day=9)) == 0


def test_an_empty_append_stores_nothing(log: RowLogLike) -> None:
    log.append(rows(0, 0), days())
    assert log.sizes() == {}
    assert log.read().dtype == DTYPE
    assert list(log.iter_chunks(4)) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_chunks_lose_no_row(log: RowLogLike, size: int) -> None:
    for i in range(6):
        log.append(rows(3 * i, 3), days(i % 4, i % 4, 3))
    chunks = list(log.iter_chunks(size))
    assert [len(c) for c in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert np.concatenate(chunks).tobytes() == log.read().tobytes()
    assert sum(map(len, log.iter_chunks(size, 1, 2))) == len(log.read(1, 2))


def test_truncate_returns_to_a_checkpoint(log: RowLogLike) -> None:
    log.append(rows(0, 4), days(1, 1, 2, 3))
    sizes = log.sizes()
    log.append(rows(4, 5), days(1, 2, 3, 4, 5))
    log.truncate(sizes)
    assert log.sizes() == sizes
    assert log.read()["n"].tolist() == [0, 1, 2, 3]
    log.append(rows(10, 1), days(2))
    assert log.read()["n"].tolist() == [0, 1, 2, 10, 3]
    log.truncate({1: 1, 2: 0})
    assert log.read()["n"].tolist() == [0]


@pytest.mark.parametrize("named", [{1: 3}, {1: 2, 9: 1}])
def test_fewer_rows_than_the_checkpoint_records_is_an_error(log: RowLogLike, named: dict[int, int]) -> None:
    log.append(rows(0, 3), days(1, 1, 2))
    with pytest.raises(StateError, match="the checkpoint records"):
        log.truncate(named)
    assert log.sizes() == {1: 2, 2: 1}, "nothing is cut then"


def test_dropped_days_may_be_named_by_an_older_checkpoint(log: RowLogLike) -> None:
    log.append(rows(0, 5), days(1, 2, 3, 4, 4))
    sizes = log.sizes()
    log.drop_before(3)
    assert log.sizes() == {3: 1, 4: 2}
    assert log.first_day() == 3
    log.truncate(sizes)
    assert log.sizes() == {3: 1, 4: 2}


def test_a_day_before_1970_is_refused(log: RowLogLike) -> None:
    with pytest.raises(ValueError, match="before 1970"):
        log.append(rows(0, 2), days(-1, 3))
    assert log.sizes() == {}


@settings(max_examples=60, derandomize=True)
@given(
    plan=st.lists(
        st.tuples(
            st.sampled_from(["append", "append", "mark", "truncate", "drop", "reopen"]),
            st.lists(st.integers(0, 12), max_size=5),
        ),
        max_size=25,
    )
)
def test_files_and_memory_agree(
    plan: list[tuple[str, list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("agree")
    real, double = RowLog(folder, DTYPE), MemoryRowLog(DTYPE)
    mark: dict[int, int] = {}
    n = 0
    for action, values in plan:
        for log in (real, double):
            if action == "append":
                log.append(rows(n, len(values)), days(*values))
            elif action == "drop" and values:
                log.drop_before(values[0])
            elif action == "truncate":
                log.truncate({d: c for d, c in mark.items() if c <= log.sizes().get(d, 0)})
        n += len(values)
        if action == "mark":
            mark = double.sizes()
        if action == "reopen":
            real.close()
            real = RowLog(folder, DTYPE)
        assert real.sizes() == double.sizes()
        assert real.read().tobytes() == double.read().tobytes()
        assert real.first_day() == double.first_day()
    real.close()


# --- files ------------------------------------------------------------------------------------------------


def test_a_torn_last_row_is_cut_at_the_next_start(tmp_path: Path) -> None:
    log = RowLog(tmp_path, DTYPE)
    log.append(rows(0, 3), days(5, 5, 5))
    log.close()
    [path] = tmp_path.glob("day-*.rows")
    with path.open("ab") as file:
        file.write(b"half a row")
    reader = RowLog(tmp_path, DTYPE, read_only=True)
    assert reader.sizes() == {5: 3}
    assert path.stat().st_size == 3 * DTYPE.itemsize + 10
    again = RowLog(tmp_path, DTYPE)
    again.append(rows(3, 1), days(5))
    assert again.read()["n"].tolist() == [0, 1, 2, 3]
    assert reader.read()["n"].tolist() == [0, 1, 2, 3], "a reader sees what came since"
    again.close()


def test_another_schema_is_refused(tmp_path: Path) -> None:
    RowLog(tmp_path, DTYPE).close()
    with pytest.raises(StateError, match="feature list"):
        RowLog(tmp_path, np.dtype([("n", "<i8"), ("x", "<f4", (4,))]))
    with pytest.raises(StateError, match="no row log"):
        RowLog(tmp_path / "absent", DTYPE, read_only=True)
    assert not (tmp_path / "absent").exists()


def test_more_days_than_open_files(tmp_path: Path) -> None:
    log = RowLog(tmp_path, DTYPE)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for i in range(3):
        log.append(rows(100 * i, 60), np.arange(60))
    assert len(list(Path("/proc/self/fd").iterdir())) - before < 20
    log.flush(fsync=True)
    assert log.read()["n"].tolist() == [100 * i + d for d in range(60) for i in range(3)]
    log.close()


def test_a_full_disk_rolls_back_the_whole_append(tmp_path: Path) -> None:
    log = RowLog(tmp_path, DTYPE)
    log.append(rows(0, 30), np.repeat(days(1, 2), 15))
    before = log.read().tobytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 * DTYPE.itemsize + 3, hard))
    try:
        with pytest.raises(StateError, match="10 rows could not be written"):
            log.append(rows(30, 10), np.repeat(days(0, 1, 2), [2, 1, 7]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.sizes() == {1: 15, 2: 15}
    assert log.read().tobytes() == before
    log.append(rows(30, 10), np.repeat(days(0, 1, 2), [2, 1, 7]))
    log.close()
    assert RowLog(tmp_path, DTYPE, read_only=True).sizes() == {0: 2, 1: 16, 2: 22}


_WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from ecdctr.state.row_logs import RowLog
log = RowLog(Path(sys.argv[1]), np.dtype([("n", "<i8")]))
for i in range(100):
    log.append(np.array([(i,), (i,)], [("n", "<i8")]), np.array([i % 20, 20]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_append_returned_survives_kill_9(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _WRITER, str(tmp_path)], cwd=Path(__file__).parents[3])
    assert done.returncode == -9
    log = RowLog(tmp_path, np.dtype([("n", "<i8")]), read_only=True)
    assert log.read(20, 20)["n"].tolist() == list(range(100))
    assert log.sizes() == dict.fromkeys(range(20), 5) | {20: 100}


def test_flushing_in_another_thread_while_days_are_added_and_removed(tmp_path: Path) -> None:
    log = RowLog(tmp_path, DTYPE)
    done = threading.Event()
    failures: list[BaseException] = []

    def flush() -> None:
        try:
            while not done.is_set():
                log.flush(fsync=True)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=flush)
    thread.start()
    for i in range(300):
        log.append(rows(12 * i, 12), np.arange(i, i + 12))  # more days than files are held open
        log.drop_before(i - 5)
    done.set()
    thread.join()
    assert not failures
    expected = {day: min(day, 299) - max(day - 11, 0) + 1 for day in range(294, 311)}
    assert log.sizes() == expected
    log.close()


def test_appending_a_batch_is_quick(tmp_path: Path) -> None:
    dtype = np.dtype([("ts", "<i8"), ("features", "<i4", (24,)), ("dense", "<f4", (4,))])
    log = RowLog(tmp_path, dtype)
    batch, two_days = np.zeros(128, dtype), np.repeat(days(3, 4), 64)
    took = []
    for _ in range(300):
        start = time.perf_counter()
        log.append(batch, two_days)
        took.append(time.perf_counter() - start)
    log.close()
    assert sorted(took)[150] < allowance(1e-3)
