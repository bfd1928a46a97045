"""Event times far ahead of their record: refused alike when they are first read, in a redo, and in a replay."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdctr.events.decoder import ARROW_CONTENT_TYPE, EventDecoder, to_arrow_message
from ecdctr.events.plausible_time import NO_DECISIONS, TimeDecisions, TimeRule, written_at
from ecdctr.events.records import decode_records
from ecdctr.state.positions import Part
from tests.support.intakes import SPECS, event

DAY = 86_400_000
NOW = 1_790_000_000_000
YEAR_2099 = 4_070_908_800_000
CREATE, APPEND = 0, 1
DECODER = EventDecoder(SPECS, max_ahead_ms=DAY)


def record(offset, ts, written, kind=CREATE, headers=(), value=None):
    return SimpleNamespace(
        offset=offset,
        value=event(offset, ts=ts) if value is None else value,
        headers=headers,
        key=None,
        timestamp=written,
        timestamp_type=kind,
    )


def apply(records, now=NOW, max_ahead_ms=DAY):
    chunk, rejects = decode_records(DECODER, "ads", 0, records[0].offset, records, 1)
    return TimeRule(max_ahead_ms, lambda: now).apply(chunk, rejects, records)


@pytest.mark.parametrize(
    ("ts", "written", "kind", "accepted", "journaled"),
    [
        (NOW, NOW, CREATE, True, False),
        (NOW + DAY, NOW, CREATE, True, False),
        (NOW + DAY + 1, NOW, CREATE, False, False),  # the event alone is wrong
        (YEAR_2099, NOW, CREATE, False, False),
        (YEAR_2099, NOW, APPEND, False, False),
        (YEAR_2099, YEAR_2099, CREATE, False, True),  # so is the producer's clock
        (NOW, YEAR_2099, CREATE, False, True),
        (NOW, NOW + DAY + 1, CREATE, False, True),
        (NOW, NOW + DAY, CREATE, True, False),
        (NOW + 3 * DAY, NOW + 3 * DAY, APPEND, True, False),  # the broker's clock decides
        (NOW, 2**63 - 1, CREATE, False, True),
        (NOW - 900 * DAY, NOW, CREATE, True, False),  # a backfill
        (NOW, -1, CREATE, True, False),  # a record without a time
        (NOW, None, CREATE, True, False),
        (YEAR_2099, -1, CREATE, False, True),
        (YEAR_2099, 0, CREATE, False, True),
    ],
)
def test_case_k4_a_row_is_bounded_by_the_time_of_its_record_and_that_by_the_wall_clock(
    ts, written, kind, accepted, journaled
):
    good = [record(i, NOW - 5000 + i, NOW) for i in (0, 2)]
    chunk, rejects, refused = apply([good[0], record(1, ts, written, kind), good[1]])
    assert chunk.offset.tolist() == ([0, 1, 2] if accepted else [0, 2])
    assert (chunk.first, chunk.end, len(chunk.batch)) == (0, 3, len(chunk.offset))
    assert [(r.record.offset, r.reason) for r in rejects] == ([] if accepted else [(1, "ts")])
    assert refused.tolist() == ([1] if journaled else [])
    if not accepted:
        assert "events.max_ahead (1 day, 0:00:00)" in rejects[0].detail


@pytest.mark.parametrize("ts", [0, -1, -(2**62), 1_700_000_000, 946_684_799_999, 4_102_444_800_001, 2**62])
@pytest.mark.parametrize("written", [NOW, -1, YEAR_2099])
def test_case_k4_times_out_of_all_bounds_are_refused_whatever_the_record_says(ts, written):
    chunk, rejects, _ = apply([record(0, ts, written), record(1, NOW, NOW)])
    assert chunk.offset.tolist() == [1]
    assert [r.reason for r in rejects] == ["ts"]


def test_case_k4_one_row_of_a_packed_message_is_refused_alone_and_named():
    frame = pl.DataFrame([json.loads(event(i)) for i in range(5)])
    frame = frame.with_columns(
        ts=pl.Series([NOW, NOW, NOW, YEAR_2099, NOW]), label=pl.Series([0, 7, 1, 1, 0])
    )
    packed = record(0, 0, NOW, headers=(("content-type", ARROW_CONTENT_TYPE),), value=to_arrow_message(frame))
    chunk, rejects, refused = apply([packed])
    assert len(chunk.batch) == 3 and not len(refused)
    assert [(r.row, r.reason) for r in rejects] == [(1, "label"), (3, "ts")]


def test_without_a_limit_every_time_within_the_bounds_is_accepted():
    chunk, rejects, _ = apply([record(0, YEAR_2099, YEAR_2099)], max_ahead_ms=None)
    assert len(chunk.batch) == 1 and not rejects


times = st.sampled_from([NOW, NOW - DAY, NOW + DAY, NOW + DAY + 1, NOW + 9 * DAY, YEAR_2099, -1, 0])


@given(
    rows=st.lists(
        st.tuples(times.filter(lambda t: t > 0), times, st.sampled_from([CREATE, APPEND])),
        min_size=1,
        max_size=30,
    ),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    later=st.sampled_from([0, DAY, 400 * DAY, 36_500 * DAY]),
)
def test_case_k4_a_redo_has_the_same_rows_however_the_ranges_are_cut_and_whenever_it_happens(
    rows, cuts, later
):
    records = [record(i, ts, written, kind) for i, (ts, written, kind) in enumerate(rows)]
    chunk, rejects = decode_records(DECODER, "ads", 0, 0, records, 1)
    rule = TimeRule(DAY, lambda: NOW)
    kept, _, refused = rule.apply(chunk, rejects, records)
    rule.remember("ads", 0, refused)
    rule.remember("ads", 0, refused)  # read twice
    written = written_at(records, chunk.offset)
    bounds = sorted({0, len(records), *(min(c, len(records)) for c in cuts)})
    found = []
    for first, end in itertools.pairwise(bounds):
        journaled = rule.decisions([Part("ads", 0, first, end)])
        decisions = TimeDecisions.from_json(journaled)
        assert decisions.to_json() == journaled
        mask = decisions.keep(("ads", 0), chunk.batch.ts, chunk.offset, written)
        inside = (chunk.offset >= first) & (chunk.offset < end)
        found += chunk.offset[mask & inside].tolist()
    assert found == kept.offset.tolist()
    # A journal of an older version bounds nothing.
    assert NO_DECISIONS.keep(("ads", 0), chunk.batch.ts, chunk.offset, written).all()


def test_many_refused_records_in_a_row_are_one_range():
    rule = TimeRule(DAY)
    rule.remember("ads", 1, np.arange(10, 5000))
    assert rule.decisions([Part("ads", 1, 0, 4000)])["refused"] == {"ads": {"1": [[10, 4000]]}}
    assert rule.decisions([Part("ads", 1, 4000, 6000)])["refused"] == {"ads": {"1": [[4000, 5000]]}}
    assert rule.decisions([Part("ads", 1, 6000, 7000)]) == {"ahead": DAY}
