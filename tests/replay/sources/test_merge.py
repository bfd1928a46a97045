"""Merging by time: against sorting the whole at once."""

from __future__ import annotations

from itertools import pairwise

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.replay.sources.merge import EventOrder, Stream


def stream(file, times, cuts=()):
    rows = pl.DataFrame(
        {"ts": times, "row": [f"{file}:{i}" for i in range(len(times))]}, schema_overrides={"ts": pl.Int64}
    )
    edges = [0, *sorted(min(c, len(times)) for c in cuts), len(times)]
    known = [t for t in times if t is not None]
    return Stream(known[0] if known else -(2**62), lambda: (rows[a:b] for a, b in pairwise(edges)))


def merged(order, streams):
    frames = list(order.merge(streams))
    return pl.concat(frames) if frames else pl.DataFrame({"ts": [], "row": []})


TIMES = st.lists(st.integers(0, 60), max_size=30)
CUTS = st.lists(st.integers(0, 30), max_size=4)


@given(st.lists(st.tuples(TIMES, CUTS), max_size=4), st.integers(1, 9))
@settings(max_examples=200)
def test_sorted_files_merge_to_the_sorted_whole(files, frame_rows):
    order = EventOrder(0, frame_rows)
    got = merged(order, [stream(i, sorted(t), c) for i, (t, c) in enumerate(files)])
    expected = sorted((t, i, k) for i, (times, _) in enumerate(files) for k, t in enumerate(sorted(times)))
    assert got["row"].to_list() == [f"{i}:{k}" for _, i, k in expected]
    assert order.stragglers == 0


@given(st.lists(st.tuples(TIMES, CUTS), min_size=1, max_size=3), st.integers(0, 40), st.integers(1, 9))
@settings(max_examples=200)
def test_no_row_is_lost_and_what_comes_too_late_is_counted(files, window, frame_rows):
    order = EventOrder(window, frame_rows)
    got = merged(order, [stream(i, t, c) for i, (t, c) in enumerate(files)])
    assert sorted(got["row"]) == sorted(
        f"{i}:{k}" for i, (times, _) in enumerate(files) for k in range(len(times))
    )
    backwards = sum(a > b for a, b in pairwise(got["ts"].to_list()))
    assert backwards <= order.stragglers
    late = [max([times[0], *times[:k]]) - t for times, _ in files for k, t in enumerate(times)]
    # A file that begins later than its first row says may be opened late, hence the first rows count as well.
    starts_right = all(not times or times[0] <= min(times) + window for times, _ in files)
    if max(late, default=0) <= window and starts_right:
        assert got["ts"].is_sorted()
        assert order.stragglers == 0


def test_a_row_beyond_the_window_is_a_straggler_and_still_given():
    order = EventOrder(window_ms=10, frame_rows=1)
    got = merged(order, [stream(0, [0, 100, 95, 50, 101], range(5))])
    assert got["ts"].to_list() == [0, 50, 95, 100, 101]
    order = EventOrder(window_ms=10, frame_rows=1)
    got = merged(order, [stream(0, [0, 60, 100, 95, 50, 101], range(6))])
    assert got["ts"].to_list() == [0, 60, 50, 95, 100, 101]
    assert order.stragglers == 1


def test_a_row_without_a_time_stays_behind_the_one_before_it():
    got = merged(EventOrder(0), [stream(0, [None, 3, None, 9]), stream(1, [4, 8])])
    assert got["row"].to_list() == ["0:0", "0:1", "0:2", "1:0", "1:1", "0:3"]


def test_rows_of_one_moment_stay_together_whatever_the_chunks():
    streams = [stream(0, [5, 5, 5, 7], [1, 2, 3]), stream(1, [5, 5, 6], [1, 2])]
    got = merged(EventOrder(0, 1), streams)
    assert got["row"].to_list() == ["0:0", "0:1", "0:2", "1:0", "1:1", "1:2", "0:3"]


def test_files_are_opened_only_when_their_time_comes():
    opened, most = [], 0

    def hour(i):
        def read():
            opened.append(i)
            yield from (pl.DataFrame({"ts": [i * 100 + k]}) for k in range(100))
            opened.remove(i)

        return Stream(i * 100, read)

    for _ in EventOrder(10, 5).merge([hour(i) for i in range(20)]):
        most = max(most, len(opened))
    assert most <= 2
