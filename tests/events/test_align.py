"""The aligner against a plain, row-by-row statement of its own rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.events.align import Aligner, Chunk
from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.step import Step
from ecdctr.state.positions import Positions

LANES = {
    ("ad-clicks", 0): AD,
    ("ad-clicks", 1): AD,
    ("natural-clicks", 0): NATURAL,
    ("natural-clicks", 1): NATURAL,
}


def make_batch(ts: list[int], domain: int, tag: int = 0) -> Batch:
    n = len(ts)
    return Batch(
        ts=np.array(ts, np.int64),
        domain=np.full(n, domain, np.uint8),
        user=np.arange(tag, tag + n, dtype=np.uint64),
        item=np.zeros(n, np.uint64),
        features=np.zeros((n, 1), np.int32),
        dense=np.zeros((n, 0), np.float32),
        label=np.zeros(n, np.float32),
    )


def make_chunk(
    key: tuple[str, int],
    ts: list[int],
    first: int = 0,
    offsets: list[int] | None = None,
    end: int | None = None,
) -> Chunk:
    offset = np.array(offsets if offsets is not None else range(first, first + len(ts)), np.int64)
    stop = end if end is not None else first + len(ts)
    return Chunk(*key, first, stop, offset, make_batch(ts, LANES[key]))


def reference_steps(
    rows: dict[tuple[str, int], list[int]], natural_batch: int, ad_batch: int
) -> list[tuple[str, list[int]]]:
    """The rule of the docstring, one row at a time (sorted partitions, so merge time = ts)."""
    merged = sorted((t, key, i) for key, ts in rows.items() for i, t in enumerate(ts))
    natural: list[tuple[tuple[str, int], int, int]] = []
    ads: list[tuple[tuple[str, int], int, int]] = []
    out: list[tuple[str, list[int]]] = []

    def flush(kind: str, pending: list[tuple[tuple[str, int], int, int]]) -> None:
        if pending:
            out.append((kind, [t for _, _, t in sorted(pending)]))
            pending.clear()

    for at, (t, key, i) in enumerate(merged):
        (ads if LANES[key] == AD else natural).append((key, i, t))
        same_moment = at + 1 < len(merged) and merged[at + 1][:2] == (t, key)
        if len(ads) >= ad_batch and LANES[key] == AD and not same_moment:
            flush("ad", ads)
        if len(natural) >= natural_batch and LANES[key] == NATURAL and not same_moment:
            flush("ad", ads)
            flush("natural", natural)
    flush("ad", ads)
    flush("natural", natural)
    return out


def shape(steps: list[Step]) -> list[tuple[str, list[int]]]:
    return [(s.kind, s.batch.ts.tolist()) for s in steps]


row_lists = st.lists(st.integers(0, 60), max_size=30).map(sorted)


@settings(max_examples=150)
@given(
    rows=st.fixed_dictionaries(dict.fromkeys(LANES, row_lists)),
    natural_batch=st.integers(1, 7),
    ad_batch=st.integers(1, 5),
    pieces=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_steps_follow_the_rule_whatever_the_order_of_arrival(rows, natural_batch, ad_batch, pieces, seed):
    aligner = Aligner(LANES, natural_batch=natural_batch, ad_batch=ad_batch)
    rng = np.random.default_rng(seed)
    cuts = {
        k: sorted([*rng.integers(0, len(ts) + 1, pieces - 1).tolist(), 0, len(ts)]) for k, ts in rows.items()
    }
    arrivals = [(k, a, b) for k in rows for a, b in zip(cuts[k], cuts[k][1:], strict=False)]
    by_lane = {k: [x for x in arrivals if x[0] == k] for k in rows}
    steps: list[Step] = []
    while any(by_lane.values()):
        key = list(rows)[int(rng.integers(len(rows)))]
        if by_lane[key]:
            _, a, b = by_lane[key].pop(0)
            aligner.add(make_chunk(key, rows[key][a:b], first=a))
            steps += aligner.emit_steps()
    steps += aligner.emit_steps(final=True)
    assert shape([s for s in steps if len(s.batch)]) == reference_steps(rows, natural_batch, ad_batch)
    positions = Positions()
    for step in steps:
        for part in step.parts:
            assert part.first == positions.get((part.topic, part.partition), 0), "a gap or an overlap"
        positions.advance(step.parts)
    assert {k: positions.get(k, 0) for k in rows} == {k: len(ts) for k, ts in rows.items()}
    assert aligner.buffered_rows == 0


def test_no_ad_row_meets_younger_natural_rows_when_the_ad_topic_is_filled_first():
    month = 30 * 86_400_000
    rng = np.random.default_rng(3)
    aligner = Aligner(LANES, natural_batch=64, ad_batch=16)
    for p in (0, 1):
        ts = np.sort(rng.integers(0, month, 400)).tolist()
        aligner.add(make_chunk(("ad-clicks", p), ts))
    assert aligner.emit_steps() == [], "ads must wait: natural rows of the same time may still come"
    steps = []
    for p in (0, 1):
        ts = np.sort(rng.integers(0, month, 8_000)).tolist()
        for first in range(0, 8_000, 500):
            aligner.add(make_chunk(("natural-clicks", p), ts[first : first + 500], first=first))
            steps += aligner.emit_steps()
    steps += aligner.emit_steps(final=True)
    learned = -1
    ads = 0
    for step in steps:
        if step.kind == "natural":
            learned = max(learned, int(step.batch.ts.max()))
        else:
            assert int(step.batch.ts.min()) >= learned
            ads += len(step.batch)
    assert ads == 800
    assert aligner.late_rows == 0


def test_rows_that_wait_are_cut_in_time_but_a_backlog_is_cut_in_full_batches():
    aligner = Aligner(
        {("natural-clicks", 0): NATURAL}, natural_batch=4, ad_batch=2, max_idle_s=1, max_wait_s=3
    )
    aligner.add(make_chunk(("natural-clicks", 0), [1, 2, 3, 4, 5, 6, 7]), now=0.0)
    aligner.add(make_chunk(("natural-clicks", 0), [8, 9, 10], first=7), now=100.0)
    assert shape(aligner.emit_steps(now=100.0)) == [("natural", [1, 2, 3, 4]), ("natural", [5, 6, 7, 8])]
    assert aligner.emit_steps(now=102.0) == []
    assert shape(aligner.emit_steps(now=104.0)) == [("natural", [9, 10])]


def test_an_empty_partition_is_waited_for_while_the_log_holds_more_then_for_max_idle():
    aligner = Aligner(LANES, natural_batch=2, ad_batch=2, max_idle_s=5, max_wait_s=1)
    for key in LANES:
        if key != ("natural-clicks", 1):
            aligner.add(make_chunk(key, [10, 20, 30, 40]), now=0.0)
    aligner.set_end("natural-clicks", 1, 7)
    assert aligner.emit_steps(now=100.0) == [], "the log is known to hold seven more records of it"
    aligner.set_end("natural-clicks", 1, 0)
    aligner.close("ad-clicks", 0)
    assert aligner.emit_steps(now=4.0) == [], "caught up, but not yet idle for five seconds"
    steps = aligner.emit_steps(now=6.0)
    assert sum(len(s.batch) for s in steps) == 12
    aligner.add(make_chunk(("natural-clicks", 1), [15]), now=7.0)
    assert aligner.late_rows == 1
    late = aligner.emit_steps(now=50.0)
    assert shape(late) == [("natural", [15])], "a late row is counted and still trained"


def test_a_partition_that_owes_rows_for_too_long_is_not_waited_for_but_a_full_one_is():
    def lanes() -> Aligner:
        aligner = Aligner(
            {("natural-clicks", 0): NATURAL, ("natural-clicks", 1): NATURAL},
            natural_batch=2, ad_batch=2, max_idle_s=1, max_behind_s=30, buffer_rows=4,
        )  # fmt: skip
        aligner.add(make_chunk(("natural-clicks", 0), [10, 20, 30]), now=0.0)
        aligner.set_end("natural-clicks", 0, 3)
        aligner.set_end("natural-clicks", 1, 8)
        return aligner

    owing = lanes()  # partition 1 ends in offsets that hold no row, or somebody else has it
    assert owing.emit_steps(now=29.0) == []
    assert shape(owing.emit_steps(now=31.0)) == [("natural", [10, 20])]
    full = (
        lanes()
    )  # partition 1 is not fetched because its buffer is full: what it holds still bounds the others
    full.add(make_chunk(("natural-clicks", 1), [11, 12, 13, 14]), now=0.0)
    steps = full.emit_steps(now=100.0)
    assert max(int(s.batch.ts.max()) for s in steps) < 14


def test_offsets_without_rows_are_counted_too():
    aligner = Aligner({("natural-clicks", 0): NATURAL}, natural_batch=4, ad_batch=2)
    aligner.add(make_chunk(("natural-clicks", 0), [1, 2], offsets=[1, 4], end=9))
    aligner.add(make_chunk(("natural-clicks", 0), [], first=9, end=12))
    steps = aligner.emit_steps(final=True)
    assert sum(len(s.batch) for s in steps) == 2
    assert [(p.first, p.end) for s in steps for p in s.parts] == [(0, 9), (9, 12)]


def test_a_packed_message_is_never_split():
    aligner = Aligner({("natural-clicks", 0): NATURAL}, natural_batch=3, ad_batch=2)
    aligner.add(
        make_chunk(("natural-clicks", 0), [5, 1, 2, 3, 7, 8, 9], offsets=[0, 0, 0, 0, 1, 1, 2], end=3)
    )
    steps = aligner.emit_steps(final=True)
    assert [[(p.first, p.end) for p in s.parts] for s in steps] == [[(0, 1)], [(1, 3)]]
    assert shape(steps) == [("natural", [5, 1, 2, 3]), ("natural", [7, 8, 9])]


def test_an_impression_list_is_never_parted_even_over_two_polls():
    aligner = Aligner({("natural-clicks", 0): NATURAL}, natural_batch=3, ad_batch=2)
    aligner.add(make_chunk(("natural-clicks", 0), [1, 2, 5, 5]))
    assert aligner.emit_steps() == [], "more rows of time 5 may follow"
    aligner.add(make_chunk(("natural-clicks", 0), [5, 5, 6, 7, 7, 7, 8], first=4))
    assert shape(aligner.emit_steps()) == [("natural", [1, 2, 5, 5, 5, 5]), ("natural", [6, 7, 7, 7])]
    aligner.add(
        make_chunk(("natural-clicks", 0), [], first=11, end=12)
    )  # a poll of dead letters only, in between
    aligner.add(make_chunk(("natural-clicks", 0), [8, 8, 8, 9], first=12))
    assert shape(aligner.emit_steps(final=True)) == [("natural", [8, 8, 8, 8]), ("natural", [9])]


def test_a_chunk_that_does_not_continue_its_partition_is_refused():
    aligner = Aligner({("natural-clicks", 0): NATURAL}, natural_batch=3, ad_batch=2)
    aligner.add(make_chunk(("natural-clicks", 0), [1]))
    with pytest.raises(ValueError, match=r"natural-clicks\[0\]: expected offset 1, got 3"):
        aligner.add(make_chunk(("natural-clicks", 0), [1], first=3))


def test_positions_buffers_and_lag_are_counted_in_offsets_and_rows():
    key, ad = ("natural-clicks", 0), ("ad-clicks", 0)
    aligner = Aligner({key: NATURAL, ad: AD}, natural_batch=2, ad_batch=2, positions={key: 40})
    assert (aligner.position(*key), aligner.position(*ad), aligner.position("other", 0)) == (40, 0, None)
    assert (aligner.end(*key), aligner.lag("natural-clicks", {key: 40})) == (None, 0)
    aligner.add(make_chunk(key, [1, 2, 3], first=40, end=50))
    aligner.add(make_chunk(ad, [9]))
    assert (aligner.position(*key), aligner.position(*ad)) == (50, 1)
    assert (aligner.buffered(*key), aligner.buffered(*ad), aligner.buffered_rows) == (3, 1, 4)
    assert aligner.lag("natural-clicks", {key: 44}) == 6, "offsets that were read are known to exist"
    aligner.set_end(*key, 60)
    assert (aligner.end(*key), aligner.lag("natural-clicks", {key: 44})) == (60, 16)
    assert aligner.lag("natural-clicks", {}) == 60
    assert aligner.lag("natural-clicks", {key: 61}) == 0, "never below zero"
    assert aligner.lag("ad-clicks", {key: 44}) == 1
    [step] = aligner.emit_steps()
    assert [(p.first, p.end) for p in step.parts] == [(40, 42)]
    assert (aligner.buffered(*key), aligner.buffered_rows) == (1, 2)


def test_the_clock_is_the_latest_time_that_was_emitted_and_earlier_rows_are_late():
    key = ("natural-clicks", 0)
    aligner = Aligner(
        {key: NATURAL, ("ad-clicks", 0): AD}, natural_batch=2, ad_batch=2, max_idle_s=0, max_wait_s=9
    )
    aligner.add(make_chunk(key, [5, 6, 7]), now=1)
    assert shape(aligner.emit_steps(now=2)) == [("natural", [5, 6])]
    assert (aligner.clock, aligner.late_rows) == (6, 0), "row 7 has not been emitted"
    aligner.add(make_chunk(("ad-clicks", 0), [4, 5, 6, 7]), now=3)
    assert aligner.late_rows == 2, "4 and 5: a row of the clock's own time is not late"
    aligner.emit_steps(final=True)
    assert aligner.clock == 7


def test_a_source_that_is_sorted_as_a_whole_lets_rows_pass_by_naming_its_time():
    aligner = Aligner(LANES, natural_batch=2, ad_batch=2)
    aligner.add(make_chunk(("natural-clicks", 0), [1, 2, 3, 4]))
    assert aligner.emit_steps() == []
    aligner.advance(3)
    assert shape(aligner.emit_steps()) == [("natural", [1, 2])], "rows of time 3 may still come"
    aligner.advance(2)
    assert aligner.emit_steps() == [], "an earlier time takes nothing back"
    aligner.advance(9)
    assert shape(aligner.emit_steps()) == [("natural", [3, 4])]


def test_waiting_ends_after_the_limits_and_not_at_them():
    key, other = ("natural-clicks", 0), ("natural-clicks", 1)
    aligner = Aligner({key: NATURAL, other: NATURAL}, natural_batch=9, ad_batch=9, max_idle_s=5, max_wait_s=7)
    aligner.add(make_chunk(key, [1, 2], end=4), now=2.0)
    assert aligner.emit_steps(now=9.0) == [], "seven seconds are not more than max_wait_s"
    assert shape(aligner.emit_steps(now=9.5)) == [("natural", [1, 2])]
    aligner.add(make_chunk(other, [3]), now=20.0)
    aligner.add(make_chunk(key, [], first=4, end=6), now=20.0)
    assert aligner.emit_steps(now=25.0) == []
    assert shape(aligner.emit_steps(now=27.5)) == [("natural", [3]), ("natural", [])], (
        "offsets without rows, too"
    )


# -- backfills: many rows of one merge time in one partition

BUFFER = 16


def fed(
    rows: dict[tuple[str, int], list[int]], batch: int, seed: int
) -> list[list[tuple[str, int, int, int]]]:
    """The parts of all steps, with partitions that are paused while their buffer is full, in chunks of random lengths."""
    aligner = Aligner(LANES, natural_batch=batch, ad_batch=batch, buffer_rows=BUFFER)
    rng = np.random.default_rng(seed)
    at = dict.fromkeys(rows, 0)
    steps: list[Step] = []
    while True:
        open_lanes = [key for key in rows if at[key] < len(rows[key]) and aligner.buffered(*key) < BUFFER]
        if not open_lanes:
            break
        key = open_lanes[int(rng.integers(len(open_lanes)))]
        stop = min(len(rows[key]), at[key] + int(rng.integers(1, 10)))
        aligner.add(make_chunk(key, rows[key][at[key] : stop], first=at[key]))
        at[key] = stop
        for lane, ts in rows.items():
            if at[lane] == len(ts):
                aligner.close(*lane)
        steps += aligner.emit_steps()
    steps += aligner.emit_steps(final=True)
    assert at == {key: len(ts) for key, ts in rows.items()}, "a partition with a full buffer stands still"
    assert aligner.buffered_rows == 0
    return [[(p.topic, p.partition, p.first, p.end) for p in s.parts] for s in steps if len(s.batch)]


any_rows = st.lists(st.integers(0, 6), max_size=90)


@settings(max_examples=150)
@given(
    rows=st.fixed_dictionaries(dict.fromkeys(LANES, any_rows)),
    batch=st.integers(1, BUFFER // 4),
    seeds=st.tuples(st.integers(0, 1000), st.integers(0, 1000)),
)
def test_rows_in_any_order_never_stand_still_and_steps_do_not_depend_on_arrival(rows, batch, seeds):
    assert fed(rows, batch, seeds[0]) == fed(rows, batch, seeds[1])


def test_case_a21_a_backfill_larger_than_the_buffer_is_learned_without_a_time_out():
    key, other = ("natural-clicks", 0), ("natural-clicks", 1)
    rows = {lane: [1000] for lane in LANES} | {
        key: [*range(900, 1000), *range(0, 900, 2)],
        other: [1000, 1001],
    }
    steps = fed(rows, 4, 0)
    taken = [p for step in steps for p in step if p[:2] == key]
    assert [p[2] for p in taken] == [0, *(p[3] for p in taken[:-1])], "in the order of offsets"
    assert taken[-1][3] == len(rows[key])


def test_a_message_with_more_rows_than_the_buffer_waits_for_the_idle_time_only():
    key = ("natural-clicks", 0)
    aligner = Aligner(
        {key: NATURAL}, natural_batch=4, ad_batch=4, buffer_rows=8, max_idle_s=5, max_behind_s=5, max_wait_s=1
    )
    aligner.add(make_chunk(key, [7] * 20, offsets=[0] * 20, end=1), now=0)
    assert aligner.emit_steps(now=4) == []
    assert [len(s.batch) for s in aligner.emit_steps(now=6)] == [20]


def test_offsets_without_rows_do_not_keep_the_others_waiting():
    """A partition that delivers markers or rejected records only is idle, however often they come."""
    silent, key = ("natural-clicks", 0), ("natural-clicks", 1)
    aligner = Aligner(
        {silent: NATURAL, key: NATURAL}, natural_batch=4, ad_batch=4, max_idle_s=5, max_wait_s=1
    )
    aligner.add(make_chunk(key, [1, 2, 3, 4, 5]), now=0)
    for second in range(7):
        aligner.add(make_chunk(silent, [], first=second, end=second + 1), now=second)
        steps = aligner.emit_steps(now=second)
        rows = [s for s in steps if len(s.batch)]
        assert bool(rows) == (second > 5)


def test_offsets_without_rows_advance_in_time_while_batches_are_full_and_complete_no_batch():
    """Transaction markers alone: the position follows them, so that the lag becomes 0; the rows of others wait as before."""
    markers, key = ("natural-clicks", 0), ("natural-clicks", 1)
    aligner = Aligner(
        {markers: NATURAL, key: NATURAL}, natural_batch=4, ad_batch=4, max_idle_s=0.5, max_wait_s=2
    )
    reached = Positions()
    for second in range(1, 20):
        aligner.add(make_chunk(markers, [], first=second - 1, end=second), now=second)
        first = 5 * (second - 1)  # more than a batch each second: batches are always full
        aligner.add(make_chunk(key, list(range(first, first + 5)), first=first), now=second)
        for step in aligner.emit_steps(now=second + 0.9):
            assert len(step.batch) in (0, 4), "a batch that was not full was emitted early"
            reached.advance(step.parts)
        assert reached.get(markers, 0) >= second - 3
    assert reached[markers] >= 16 and reached[key] >= 90


def test_offsets_without_rows_do_not_emit_the_rows_of_others_before_their_time():
    markers, key = ("natural-clicks", 0), ("natural-clicks", 1)
    aligner = Aligner(
        {markers: NATURAL, key: NATURAL}, natural_batch=4, ad_batch=4, max_idle_s=0.5, max_wait_s=2
    )
    aligner.add(make_chunk(markers, [], first=0, end=1), now=0)
    aligner.add(make_chunk(key, [1, 2]), now=2)
    assert [s.parts for s in aligner.emit_steps(now=3)] == [((*markers, 0, 1),)]
    assert shape(aligner.emit_steps(now=4.5)) == [("natural", [1, 2])]


def test_rows_of_one_merge_time_are_divided_into_blocks_of_a_quarter_of_the_buffer():
    keys = [("natural-clicks", 0), ("natural-clicks", 1)]
    aligner = Aligner(dict.fromkeys(keys, NATURAL), natural_batch=4, ad_batch=4, buffer_rows=16)
    for key in keys:
        aligner.add(make_chunk(key, [1000, *range(11)]))  # older rows have the merge time of the first
    steps = aligner.emit_steps(final=True)
    taken = [(p.partition, p.first, p.end) for step in steps for p in step.parts]
    assert taken == [(0, 0, 4), (1, 0, 4), (0, 4, 8), (1, 4, 8), (0, 8, 12), (1, 8, 12)]


def test_long_impression_lists_of_a_backfill_have_the_same_blocks_in_chunks_of_any_length():
    keys = [("natural-clicks", 0), ("natural-clicks", 1)]
    ts = [1000, *[1] * 7, *[2] * 7, 3, 4, 5, 6]  # lists that are longer than a block of four rows

    def taken(split: int) -> list[tuple[int, int, int]]:
        aligner = Aligner(dict.fromkeys(keys, NATURAL), natural_batch=2, ad_batch=2, buffer_rows=16)
        for key in keys:
            aligner.add(make_chunk(key, ts[:split]))
            aligner.add(make_chunk(key, ts[split:], first=split))
        return [
            (p.partition, p.first, p.end)
            for s in aligner.emit_steps(final=True)
            if len(s.batch)
            for p in s.parts
        ]

    assert all(taken(split) == taken(len(ts)) for split in range(1, len(ts)))
