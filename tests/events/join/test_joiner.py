"""The join against a reference of a few lines, over random interleavings, duplicates, skews, silent partitions and restarts."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.events.join import (
    CLICK_FATES,
    CLICKED,
    CORRECTION,
    EARLY_NEGATIVE,
    IMPRESSION_FATES,
    NOT_CLICKED,
    IdleDecision,
    Joiner,
    JoinEvents,
    JoinSettings,
)
from ecdctr.state.errors import DataError

LANES = [("clicks", 0), ("views", 0), ("views", 1)]
SMALL = {
    "natural_window": "20ms",
    "ad_window": "40ms",
    "lateness": "5ms",
    "skew": "3ms",
    "early_hold": "15ms",
    "remember": "60ms",
    "tick": "10ms",
    "idle_after": "1ms",
}


def joiner(**changes):
    return Joiner(JoinSettings(**SMALL | changes), LANES)


def columns(events, first=0):
    """``(ts, key, is_click, domain, anonymous, row)`` of one partition as columns."""
    ts, key, click, domain, anonymous, row = zip(*events, strict=True) if events else ((),) * 6
    return JoinEvents(
        np.array(key, np.uint64),
        np.array(ts, np.int64),
        np.array(click, np.bool_),
        np.array(row, np.int64),
        np.array(domain, np.uint8),
        np.array(anonymous, np.bool_),
        np.arange(first, first + len(events)),
    )


def listed(joined):
    r = joined[0]
    return list(
        zip(r.time.tolist(), r.key.tolist(), r.row.tolist(), r.ts.tolist(), r.role.tolist(), strict=True)
    )


def reference(lanes, decisions, policy):
    """Labelled rows of whole partitions by one record at a time, and the clicks that were dropped or joined."""
    window, lateness, skew, hold, remember = (20, 40), 5, 3, 15, 60
    ordered, out, open_ = [], [], {}
    for number, lane in enumerate(lanes):
        high = floor = -(10**9)
        for offset, (ts, *event) in enumerate(lane):
            floor = max([floor, *(u for o, u in decisions.get(number, []) if o <= offset)])
            ordered.append((max(ts, high - lateness, floor), event[1], number, offset, ts, event))
            high = max(high, ts)

    def settle(key, before):  # [kind, due, ts, row, domain]
        kind, due, ts, row, _ = open_.get(key, ("none", 0, 0, 0, 0))
        if kind == "waits" and due < before:
            out.append((due, 1, key, len(out), row, ts, NOT_CLICKED))
            open_[key][:2] = ["no", due + remember]
            settle(key, before)
        elif kind != "none" and due < before:
            del open_[key]

    def join(key, at, delay):
        kind, _, ts, row, domain = open_[key]
        fits = delay <= window[domain]
        if delay < -skew:
            return
        if kind == "waits" and (fits or policy == "correct"):
            out.append((at, 0, key, len(out), row, ts, CLICKED))
            open_[key][:2] = ["yes", at + remember]
        elif kind == "no":
            if policy != "drop":
                out.append((at, 0, key, len(out), row, ts, CORRECTION))
            open_[key][0] = "late"

    for at, _, _, _, ts, (key, is_click, domain, anonymous, row) in sorted(ordered):
        settle(key, at)
        kind = open_[key][0] if key in open_ else "none"
        if is_click and kind == "none":
            open_[key] = ["click", at + hold, ts, -1, 0]
        elif is_click and kind in ("waits", "no"):
            join(key, at, ts - open_[key][2])
        elif not is_click and kind in ("none", "click"):
            click = open_[key][2] if kind == "click" else None
            if anonymous:
                open_[key] = ["anonymous", at + remember, ts, row, domain]
                continue
            open_[key] = ["waits", max(ts + window[domain], at), ts, row, domain]
            if policy == "early":
                out.append((at, 0, key, len(out), row, ts, EARLY_NEGATIVE))
                open_[key][:2] = ["no", at + remember]
            if click is not None:
                join(key, at, click - ts)
    for key in list(open_):
        settle(key, 10**9)
    return [(time, key, row, ts, role) for time, _, key, _, row, ts, role in sorted(out)]


EVENT = st.tuples(
    st.integers(0, 2),
    st.integers(-45, 45),
    st.integers(0, 7),
    st.booleans(),
    st.integers(0, 1),
    st.integers(0, 9),
)
ACTIONS = ["add", "add", "add", "take", "idle", "restart"]
ACTION = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2), st.integers(1, 8))


def drawn(seed):
    """As many events and actions as a case of hypothesis rarely has."""
    rng = random.Random(seed)
    reach = rng.choice([2, 15, 45])
    keys = rng.choice([3, 8, 30])
    events = [
        (
            rng.randrange(3),
            rng.randint(-reach, reach),
            rng.randrange(keys),
            rng.random() < 0.5,
            rng.randrange(2),
            rng.randrange(10),
        )
        for _ in range(120)
    ]
    return events, [(rng.choice(ACTIONS), rng.randrange(3), rng.randint(1, 8)) for _ in range(60)]


CASES = st.one_of(
    st.tuples(st.lists(EVENT, max_size=30), st.lists(ACTION, max_size=15)), st.integers(0, 2**32).map(drawn)
)


def partitions(events):
    """Partitions whose times mostly rise; a click may come in any of them."""
    lanes, clock = ([], [], []), 100
    for row, (lane, jump, key, click, domain, anonymous) in enumerate(events):
        clock += 4
        lanes[lane].append((clock + jump, key, click, domain, anonymous == 0, row))
    return lanes


def play(lanes, actions, policy, **bounds):
    """Rows in the order of their emission, and the idle decisions, of one interleaving."""
    made, out, decisions, fed = joiner(late_clicks=policy, **bounds), [], [], [0, 0, 0]
    rest = [("add", lane, len(lanes[lane])) for lane in range(3)]
    for now, (action, lane, n) in enumerate([*actions, *rest], start=1):
        if action == "add":
            part = lanes[lane][fed[lane] : fed[lane] + n]
            made.add(*LANES[lane], columns(part, fed[lane]), now)
            fed[lane] += len(part)
        elif action == "take":
            out += listed(made.take())
        elif action == "idle":
            decisions += made.decide_idle(now)
        else:
            saved = made.export()
            made = Joiner.restore(JoinSettings(**SMALL | {"late_clicks": policy} | bounds), LANES, saved)
            assert made.export() == saved
    out += listed(made.finish())
    return out, decisions, made


def repeat(lanes, decisions, policy, order, **bounds):
    """The same partitions and decisions, partition by partition in another order, one event at a time."""
    made, out = joiner(late_clicks=policy, **bounds), []
    for lane in order:
        todo = [d for d in decisions if (d.topic, d.partition) == LANES[lane]]
        for offset in range(len(lanes[lane]) + 1):
            for decision in [d for d in todo if d.offset == offset]:
                made.apply_idle(decision)
            made.add(*LANES[lane], columns(lanes[lane][offset : offset + 1], offset))
            out += listed(made.take())
    return out + listed(made.finish()), made


@settings(max_examples=60, derandomize=True)
@given(CASES, st.sampled_from(["drop", "correct", "early"]))
def test_rows_are_those_of_the_reference_in_its_order_whatever_the_interleaving(case, policy):
    events, actions = case
    lanes = partitions(events)
    out, decisions, made = play(lanes, actions, policy)
    floors = {
        n: [(d.offset, d.until) for d in decisions if (d.topic, d.partition) == key]
        for n, key in enumerate(LANES)
    }
    assert out == reference(lanes, floors, policy)
    clicks = sum(click for lane in lanes for _, _, click, *_ in lane)
    views = sum(map(len, lanes)) - clicks
    assert sum(made.fates.get(f, 0) for f in CLICK_FATES) == clicks
    assert sum(made.fates.get(f, 0) for f in IMPRESSION_FATES) == views


@settings(max_examples=40, derandomize=True)
@given(CASES, st.sampled_from(["drop", "correct"]), st.permutations(range(3)))
def test_recorded_idle_decisions_repeat_rows_and_bounds(case, policy, order):
    events, actions = case
    bounds = {"max_pending": 2, "max_early": 1, "max_closed": 3}
    lanes = partitions(events)
    out, decisions, made = play(lanes, actions, policy, **bounds)
    again, repeated = repeat(lanes, decisions, policy, order, **bounds)
    assert again == out
    assert repeated.fates == made.fates


def only(made, events, lane=1):
    made.add(*LANES[lane], columns(events))
    for other in {0, 1, 2} - {lane}:
        made.lanes.apply(IdleDecision(*LANES[other], 0, 10**6))
    return made


def test_negative_comes_when_the_watermark_passes_its_window_and_not_before():
    made = only(joiner(), [(0, 1, False, 0, False, 0), (25, 2, False, 0, False, 1)])
    assert listed(made.take()) == []  # watermark 20: a click at 20 is still in time
    made.add(*LANES[1], columns([(36, 3, False, 0, False, 2)], first=2))
    assert listed(made.take()) == [(20, 1, 0, 0, NOT_CLICKED)]


def test_partition_without_traffic_holds_nothing_back_after_a_decision():
    made = joiner(remember="1s")
    made.add("views", 0, columns([(0, 1, False, 0, False, 0), (100, 2, False, 0, False, 1)]), now=0)
    made.decide_idle(0)
    assert listed(made.take()) == []
    made.add("views", 0, columns([(101, 3, False, 0, False, 2)], first=2), now=9)
    decisions = made.decide_idle(9)
    assert decisions == [IdleDecision("clicks", 0, 0, 90), IdleDecision("views", 1, 0, 90)]
    assert listed(made.take()) == [(20, 1, 0, 0, NOT_CLICKED)]
    # The silent partition returns with a click that is older than the decision: it counts as late, and nothing is emitted twice.
    made.add("clicks", 0, columns([(10, 1, True, 0, False, -1)]), now=10)
    assert [row[:3] for row in listed(made.finish())] == [(120, 2, 1), (121, 3, 2)]
    assert made.fates["overdue_click"] == 1
    assert made.fates["delivered_late"] == 1


def test_partition_that_is_known_to_hold_more_is_waited_for():
    made = joiner()
    made.add("views", 0, columns([(0, 1, False, 0, False, 0), (100, 2, False, 0, False, 1)]), now=0)
    made.decide_idle(0)
    made.add("views", 0, columns([(101, 3, False, 0, False, 2)], first=2), now=9)
    assert made.decide_idle(9, behind=[("clicks", 0)]) == []
    assert listed(made.take()) == []
    made.add("clicks", 0, columns([(10, 1, True, 0, False, -1), (99, 9, True, 0, False, -1)]), now=10)
    assert made.decide_idle(10) == [IdleDecision("views", 1, 0, 90)]
    assert listed(made.take()) == [(10, 1, 0, 0, CLICKED)]


@pytest.mark.parametrize(
    ("click", "fate"),
    [
        (-4, "early_click"),
        (-3, "click"),
        (0, "click"),
        (20, "click"),
        (21, "late_click"),
        (81, "click_without_impression"),
    ],
)
def test_fate_of_a_click_by_its_delay(click, fate):
    made = only(
        joiner(),
        sorted(
            [(50, 1, False, 0, False, 0), (50 + click, 1, True, 0, False, -1), (300, 2, True, 0, False, -1)]
        ),
    )
    rows = listed(made.finish())
    assert [row[4] for row in rows] == [CLICKED if fate == "click" else NOT_CLICKED]
    assert made.fates[fate] == 1 + (fate == "click_without_impression")


def test_pending_beyond_the_bound_become_negatives_oldest_first_and_are_counted():
    made = only(joiner(max_pending=2), [(ts, ts, False, 1, False, ts) for ts in (1, 2, 3, 4)])
    assert [row[:3] for row in listed(made.finish())] == [(9, 1, 1), (9, 2, 2), (43, 3, 3), (44, 4, 4)]
    assert made.fates["closed_by_bound"] == 2


def test_many_clicks_on_one_impression_are_one_positive():
    events = [(0, 1, False, 0, False, 0), *((i % 20, 1, True, 0, False, -1) for i in range(500))]
    made = only(joiner(lateness="1m"), events)
    assert [row[4] for row in listed(made.finish())] == [CLICKED]
    assert made.fates["duplicate_click"] == 499


@settings(max_examples=40, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(-30, 30), st.booleans(), st.integers(1, 12)), max_size=12),
    st.sampled_from(["drop", "correct", "early"]),
)
def test_repeated_events_of_one_key_are_applied_in_their_order(parts, policy):
    """Each event up to twelve times, all in one call: most of them change nothing, and some do in between."""
    lane, clock = [], 100
    for jump, click, times in parts:
        clock += 15
        lane += [(clock + jump, 1, click, 0, False, len(lane) + n) for n in range(times)]
    made = joiner(late_clicks=policy)
    made.add(*LANES[1], columns(lane))
    rows, released = made.finish()
    assert listed((rows, None)) == reference([[], lane, []], {}, policy)
    assert released.tolist() == sorted(row for _, _, click, *_, row in lane if not click)
    assert sum(made.fates.get(f, 0) for f in (*CLICK_FATES, *IMPRESSION_FATES)) == len(lane)


def test_every_impression_is_released_once_and_after_its_last_row():
    made = only(joiner(late_clicks="correct"), [
        (0, 1, False, 0, False, 0), (1, 1, False, 0, False, 1), (2, 2, False, 0, True, 2), (30, 1, True, 0, False, -1),
        (31, 3, False, 0, False, 3),
    ])  # fmt: skip
    rows, released = made.finish()
    assert rows.row.tolist() == [0, 0, 3]
    assert released.tolist() == [0, 1, 2, 3]


def test_offsets_that_do_not_rise_and_saved_joins_of_other_partitions_are_refused():
    made = joiner()
    made.add("views", 0, columns([(0, 1, False, 0, False, 0)]))
    with pytest.raises(DataError, match=r"views \[0\]: offset 0 was delivered"):
        made.add("views", 0, columns([(0, 1, False, 0, False, 0)]))
    with pytest.raises(DataError, match="the saved join has the partitions"):
        Joiner.restore(JoinSettings(), [("views", 0)], made.export())
    with pytest.raises(DataError, match="cannot be read"):
        Joiner.restore(JoinSettings(), LANES, made.export()[:-3])
