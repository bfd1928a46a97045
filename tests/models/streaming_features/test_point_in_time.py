"""A row sees exactly the events that were known before it: against a plain loop, and with labels planted in later events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecdctr.models.streaming_features import StreamingFeatures
from tests.models.streaming_features.streams import (
    SCHEMA,
    START,
    Loop,
    aligned_stream,
    disordered_stream,
    play,
    settings,
)


@pytest.mark.parametrize("visible_after", ["0s", "45m"])
@pytest.mark.parametrize(("half_lives", "seed"), [(("6h", "7d"), 0), (("10m",), 1), (("7d", "1h"), 2)])
def test_every_column_equals_that_of_a_plain_loop(visible_after, half_lives, seed):
    # With 256 groups, each distinct event time of a step is a group: a row sees all events before its own time.
    chosen = settings(half_lives=half_lives, visible_after=visible_after, refresh=256, smoothing=5)
    features, loop = StreamingFeatures(SCHEMA, chosen), Loop(chosen)
    for batch in aligned_stream(seed, 10):
        found = features.values(batch, learned=True)
        features.observe(batch)
        loop.add(batch)
        wanted = [
            loop.values(int(u), int(x), int(t), int(t))
            for u, x, t in zip(batch.user, batch.item, batch.ts, strict=True)
        ]
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)
    assert features.late_rows == 0


def test_long_gaps_between_steps_are_decayed_as_in_the_plain_loop():
    chosen = settings(half_lives=("1m", "6h"), refresh=256, expire_after="900d")
    features, loop = StreamingFeatures(SCHEMA, chosen), Loop(chosen)
    for k, batch in enumerate(aligned_stream(3, 10)):
        moved = replace(batch, ts=batch.ts + k * k * 7 * 3_600_000)
        found, floor = features.values(moved, learned=True), features.floor
        features.observe(moved)
        loop.add(moved)
        for i, ts in enumerate(moved.ts.tolist()):
            if ts >= floor:
                wanted = loop.values(int(moved.user[i]), int(moved.item[i]), ts, ts)
                np.testing.assert_allclose(found[i], wanted, rtol=2e-6, atol=2e-6)


def test_with_one_group_all_rows_of_a_step_see_the_events_before_its_first_row():
    chosen = settings(refresh=1)
    features, loop = StreamingFeatures(SCHEMA, chosen), Loop(chosen)
    for batch in aligned_stream(4, 12):
        found = features.values(batch, learned=True)
        features.observe(batch)
        before = int(batch.ts.min())
        wanted = [
            loop.values(int(u), int(x), int(t), before)
            for u, x, t in zip(batch.user, batch.item, batch.ts, strict=True)
        ]
        loop.add(batch)
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("stream", [aligned_stream, disordered_stream])
@pytest.mark.parametrize(("refresh", "visible_after"), [(1, "0s"), (3, "20m"), (256, "0s")])
def test_no_feature_knows_a_label_that_is_planted_in_every_later_event(stream, refresh, visible_after):
    """For several rows: its label, and that of every event at its time or later, is set once to 1 and once to 0.

    All rows up to that time must have the same values, bit for bit, whichever way the stream was divided into steps and whatever
    arrived late. (A control: later rows differ.)
    """
    chosen = settings(refresh=refresh, visible_after=visible_after)
    steps = stream(5, 10)
    times = np.unique(np.concatenate([batch.ts for batch in steps]))
    later_differ = 0
    for moment in np.random.default_rng(0).choice(times, 5, replace=False):
        found = [
            play(
                StreamingFeatures(SCHEMA, chosen),
                [replace(b, label=np.where(b.ts >= moment, np.float32(y), b.label)) for b in steps],
            )
            for y in (0, 1)
        ]
        for batch, with_0, with_1 in zip(steps, *found, strict=True):
            early = batch.ts <= moment
            assert with_0[early].tobytes() == with_1[early].tobytes()
            later_differ += int((with_0[~early] != with_1[~early]).any())
    assert later_differ


@pytest.mark.parametrize("stream", [aligned_stream, disordered_stream])
def test_no_feature_knows_that_a_later_event_exists(stream):
    steps = stream(6, 12)
    chosen = settings(refresh=8)
    whole = play(StreamingFeatures(SCHEMA, chosen), steps)
    moment = int(np.median(np.concatenate([batch.ts for batch in steps])))
    # Only the users and items of later rows change: how rows are divided into groups depends on their times alone.
    changed = [
        replace(
            b,
            user=np.where(b.ts >= moment, b.user + np.uint64(77), b.user),
            item=np.where(b.ts >= moment, b.item + np.uint64(77), b.item),
        )
        for b in steps
    ]
    other = play(StreamingFeatures(SCHEMA, chosen), changed)
    for batch, one, two in zip(steps, whole, other, strict=True):
        assert one[batch.ts < moment].tobytes() == two[batch.ts < moment].tobytes()


def test_rows_of_one_impression_list_do_not_see_each_other_in_whichever_steps_they_are():
    steps = aligned_stream(7, 6)
    features = StreamingFeatures(SCHEMA, settings(refresh=256))
    play(features, steps)
    moment = int(max(b.ts.max() for b in steps)) + 60_000
    ad, natural = (replace(steps[i], ts=np.full(len(steps[i]), moment)) for i in (0, -1))
    assert ad.domain[0] != natural.domain[0]
    alone = features.values(natural, learned=True)
    features.observe(ad)
    assert features.values(natural, learned=True).tobytes() == alone.tobytes()


def test_a_late_row_has_the_values_of_unknown_keys_and_is_counted():
    features = StreamingFeatures(SCHEMA, settings())
    play(features, aligned_stream(8, 6))
    late = replace(aligned_stream(8, 1)[-1])
    assert (late.ts < features.floor).all()
    new = replace(
        late,
        ts=np.full(len(late), START),
        user=late.user + np.uint64(10**6),
        item=late.item + np.uint64(10**6),
    )
    unknown = StreamingFeatures(SCHEMA, settings()).values(new, learned=True)
    assert features.values(late, learned=True).tobytes() == unknown.tobytes()
    features.observe(late)
    assert features.late_rows == len(late)


def test_unknown_keys_have_the_documented_values():
    features = StreamingFeatures(SCHEMA, settings(expire_after="10d"))
    batch = aligned_stream(9, 1)[-1]
    values = dict(zip(features.columns.names, features.values(batch, learned=False).T, strict=True))
    for name, column in values.items():
        wanted = np.log1p(10 * 24 * 60) if "since" in name else 0.0
        np.testing.assert_allclose(column, wanted, rtol=1e-6, err_msg=name)
