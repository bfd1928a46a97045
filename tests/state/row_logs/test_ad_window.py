"""The ad window: which rows are in it, recovery to a checkpoint's sizes, files and memory alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecdctr.events.time import DAY_MS
from ecdctr.state.errors import StateError
from ecdctr.state.row_logs import AdWindow

Make = Callable[..., AdWindow]


def ads(first: int, days: list[int], features: int = 4, dense: int = 2) -> dict[str, NDArray[Any]]:
    n = np.arange(first, first + len(days))
    return {
        "ts": np.array(days, np.int64) * DAY_MS + n,
        "user": n.astype(np.uint64) + np.uint64(2**63),
        "item": n.astype(np.uint64),
        "features": (n[:, None] * 10 + np.arange(features)).astype(np.int32),
        "dense": (n[:, None] / 8 + np.arange(dense)).astype(np.float32),
        "label": (n % 2).astype(np.float32),
    }


def items(window: AdWindow, rows: int = 3) -> list[int]:
    return [int(i) for chunk in window.chunks(rows) for i in chunk["item"]]


@pytest.fixture(params=["files", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def build(days: int = 3, features: int = 4, dense: int = 2) -> AdWindow:
        return AdWindow(tmp_path / "w" if request.param == "files" else None, features, dense, days)

    return build


def test_rows_come_back_as_columns(make: Make) -> None:
    window = make()
    columns = ads(0, [10, 10, 10, 11, 11])
    window.append(columns)
    chunks = list(window.chunks(2))
    assert [len(c["ts"]) for c in chunks] == [2, 2, 1]
    for name, value in columns.items():
        joined = np.concatenate([c[name] for c in chunks])
        assert joined.dtype == value.dtype
        assert joined.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(joined, value)


def test_no_dense_features(make: Make) -> None:
    window = make(dense=0)
    window.append(ads(0, [1, 2], dense=0))
    [chunk] = window.chunks(10)
    assert chunk["dense"].shape == (2, 0)


def test_the_newest_event_day_decides_what_is_in(make: Make) -> None:
    window = make(days=3)
    window.append(ads(0, [1, 2, 3]))
    assert items(window) == [0, 1, 2]
    window.append(ads(3, [5]))
    assert items(window) == [2, 3]
    window.append(ads(4, [2, 3, 4]))  # late: day 2 has left, days 3 and 4 are in
    assert items(window) == [2, 5, 6, 3]
    assert len(window) == 4
    assert window.sizes() == {3: 2, 4: 1, 5: 1}


@settings(max_examples=60, derandomize=True)
@given(
    batches=st.lists(st.lists(st.integers(0, 15), max_size=6), max_size=12),
    days=st.integers(1, 5),
    chunk=st.integers(1, 7),
)
def test_against_a_plain_list(
    batches: list[list[int]], days: int, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    windows = [AdWindow(folder, 1, 0, days) for folder in (None, tmp_path_factory.mktemp("window"))]
    kept: list[tuple[int, int]] = []
    newest, n = -1, 0
    for batch in batches:
        newest = max([newest, *batch])
        kept += [(day, n + i) for i, day in enumerate(batch)]
        kept = [(day, i) for day, i in kept if day > newest - days]
        for window in windows:
            window.append(ads(n, batch, 1, 0))
        n += len(batch)
    expected = [i for _, i in sorted(kept, key=lambda pair: pair[0])]
    for window in windows:
        assert items(window, chunk) == expected
        window.close()


def test_truncate_returns_to_any_retained_checkpoint(make: Make) -> None:
    window = make(days=3)
    recorded, contents = [], []
    for i, batch in enumerate([[1, 1], [2, 3], [3, 4], [6], [6, 5, 7]]):
        window.append(ads(10 * i, batch))
        recorded.append(window.sizes())
        contents.append(items(window))
    for back in (3, 2, 0):  # each time to an older one, as when newer checkpoints are damaged
        window.truncate(recorded[back])
        assert items(window) == contents[back]
    window.append(ads(10, [2, 3]))
    assert items(window) == contents[1], "redone steps give the same window"


def test_truncate_to_nothing(make: Make) -> None:
    window = make()
    window.append(ads(0, [4, 5]))
    window.truncate({})
    assert len(window) == 0
    window.append(ads(0, [2]))
    assert items(window) == [0]


def test_days_are_dropped_only_when_no_checkpoint_needs_them(make: Make) -> None:
    window = make(days=2)
    window.append(ads(0, [1, 2]))
    old = window.sizes()
    window.append(ads(2, [3, 4]))
    new = window.sizes()
    window.drop_unused([old, new])
    window.truncate(old)
    assert items(window) == [0, 1]
    window.append(ads(2, [3, 4]))
    window.drop_unused([new])
    with pytest.raises(StateError, match="days 1970-01-02 to 1970-01-03 of the ad window were removed"):
        window.truncate(old)
    window.truncate(new)
    assert items(window) == [2, 3]


def test_a_window_without_days_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least one day"):
        AdWindow(None, 1, 1, 0)


def test_a_reopened_window_continues(tmp_path: Path) -> None:
    first = AdWindow(tmp_path, 4, 2, 2)
    first.append(ads(0, [3, 4, 5]))
    first.flush(fsync=True)
    first.close()
    again = AdWindow(tmp_path, 4, 2, 2)
    assert items(again) == [1, 2]
    again.append(ads(3, [3, 6]))
    assert items(again) == [2, 4]
    again.close()
