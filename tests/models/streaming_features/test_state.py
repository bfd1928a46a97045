"""The state of streaming features: determinism, checkpoints, eviction, and that reading changes nothing."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from ecdctr.events.batch import NATURAL, Batch
from ecdctr.events.time import DAY_MS, HOUR_MS
from ecdctr.models.settings import StreamingFeatureSettings
from ecdctr.models.streaming_features import StreamingFeatures, extended_specs
from ecdctr.models.streaming_features import features as module
from ecdctr.models.streaming_features.decayed_counts import DecayedCounts
from ecdctr.models.streaming_features.key_table import KeyTable
from ecdctr.state.checkpoints import Capture
from ecdctr.state.errors import ConfigError
from tests.models.streaming_features.streams import (
    SCHEMA,
    START,
    aligned_stream,
    disordered_stream,
    play,
    rows,
    settings,
)
from tests.support.worlds import loaded


def digest(features: StreamingFeatures) -> str:
    h = hashlib.blake2b()
    features.digest(h)
    return h.hexdigest()


def capture(features: StreamingFeatures) -> Capture:
    out = Capture({}, {}, {})
    features.capture_into(out)
    return out


def test_values_do_not_depend_on_how_a_stream_is_divided_into_steps_if_every_time_is_a_group():
    whole = aligned_stream(11, 10)
    parts = []
    for batch in whole:
        # Between two event times: rows of one time stay in one step.
        cut = int(np.searchsorted(batch.ts, batch.ts[len(batch) // 2]))
        parts += [batch.take(slice(0, cut)), batch.take(slice(cut, None))]
    chosen = settings(refresh=256, visible_after="7m")
    one = play(StreamingFeatures(SCHEMA, chosen), whole)
    two = play(StreamingFeatures(SCHEMA, chosen), parts)
    assert np.concatenate(one).tobytes() == np.concatenate(two).tobytes()


def test_a_row_has_the_same_values_alone_and_among_others():
    features = StreamingFeatures(SCHEMA, settings(refresh=256))
    steps = aligned_stream(12, 10)
    play(features, steps[:-1])
    together = features.values(steps[-1], learned=False)
    for i in range(len(steps[-1])):
        alone = features.values(steps[-1].take(slice(i, i + 1)), learned=False)
        assert alone.tobytes() == together[i : i + 1].tobytes()


def test_reading_changes_nothing():
    features = StreamingFeatures(SCHEMA, settings(visible_after="7m"))
    steps = aligned_stream(13, 10)
    play(features, steps[:-1])
    before = digest(features)
    later = replace(steps[-1], ts=steps[-1].ts + 40 * DAY_MS)
    for batch in (steps[-1], later, steps[0]):
        features.values(batch, learned=True)
        features.extend(batch, learned=False)
    assert digest(features) == before


@pytest.mark.parametrize("visible_after", ["0s", "90m"])
@pytest.mark.parametrize("stream", [aligned_stream, disordered_stream])
def test_a_restored_state_gives_the_same_bits(stream, visible_after):
    chosen = settings(visible_after=visible_after, max_keys=1000)
    steps = stream(14, 24)
    straight = StreamingFeatures(SCHEMA, chosen)
    wanted = play(straight, steps)
    first = StreamingFeatures(SCHEMA, chosen)
    play(first, steps[:6])
    captures = [capture(first)]
    play(first, steps[6:12])
    captures.append(capture(first))
    second = StreamingFeatures(SCHEMA, chosen)
    play(second, steps[:3])  # discarded when the state is restored
    second.restore(loaded(captures))
    assert digest(second) == digest(first)
    found = play(second, steps[12:])
    assert b"".join(v.tobytes() for v in found) == b"".join(v.tobytes() for v in wanted[12:])
    assert digest(second) == digest(straight)


def test_keys_without_events_for_the_configured_time_are_removed_and_counted():
    features = StreamingFeatures(SCHEMA, settings(expire_after="3d"))
    rng = np.random.default_rng(0)
    old = rows(rng, 50, NATURAL, START + rng.integers(0, HOUR_MS, 50))
    new = rows(rng, 50, NATURAL, START + 2 * DAY_MS + rng.integers(0, HOUR_MS, 50))
    new = replace(new, user=new.user + np.uint64(100))
    end = replace(new.take(slice(0, 1)), ts=np.array([START + 4 * DAY_MS + 1]))
    play(features, [old, new])
    assert len(features.tables[0]) == len(np.unique(old.user))  # those of ``new`` are not in the tables yet
    play(features, [end, replace(end, ts=end.ts + 1)])
    assert len(features.tables[0]) == len(np.unique(new.user))
    assert features.counters()["evicted"][0] == len(np.unique(old.user))
    capture(features)
    again = features.values(replace(old, ts=old.ts + 5 * DAY_MS), learned=False)
    assert (again[:, list(features.columns.names).index("user:age")] == 0).all()


def test_the_keys_with_the_oldest_last_events_are_removed_if_there_are_too_many():
    table = KeyTable("t", DecayedCounts((HOUR_MS,)), max_keys=100)
    keys = np.arange(1, 101, dtype=np.uint64)
    ts = np.arange(100, dtype=np.int64) * 1000
    column = np.zeros(100, np.int64)
    table.add(keys, ts, column)
    table.add(keys[:5], ts[:5] + 200_000, column[:5])  # the first five are the newest now
    table.add(np.array([500], np.uint64), np.array([300_000]), column[:1])
    assert len(table) == 90
    assert table.evicted == 11
    known = np.isfinite(table.counts.last(table.read(keys)).max(1))
    assert known.tolist() == [True] * 5 + [False] * 11 + [True] * 84
    assert np.isfinite(table.counts.last(table.read(np.array([500], np.uint64))).max())


def test_a_checkpoint_after_an_eviction_contains_the_remaining_keys_under_their_new_numbers():
    counts = DecayedCounts((HOUR_MS,))
    table, other = KeyTable("t", counts, 10**6), KeyTable("t", counts, 10**6)
    keys = np.arange(1, 3001, dtype=np.uint64)
    table.add(keys, np.arange(3000, dtype=np.int64), np.zeros(3000, np.int64))
    first = Capture({}, table.capture(), {})
    table.evict_before(2000)
    second = Capture({}, table.capture(), {})
    other.load(loaded([first, second]).rows, len(table), table.evicted)
    a, b = hashlib.blake2b(), hashlib.blake2b()
    table.digest(a)
    other.digest(b)
    assert len(other) == 1000
    assert a.digest() == b.digest()


def test_the_number_of_events_that_are_kept_with_their_times_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_RECENT", 100)
    features = StreamingFeatures(SCHEMA, settings())
    rng = np.random.default_rng(1)
    for k in range(20):  # ads only, within an hour: natural rows of the same time might still follow
        play(features, [rows(rng, 40, 1, START + k * 60_000 + rng.integers(0, 60_000, 40))])
        assert len(features._recent) <= 100
    assert features.floor > START


def test_missing_values_of_a_categorical_feature_are_not_a_key():
    features = StreamingFeatures(SCHEMA, settings(keys=("site",), pairs=("user*site",), refresh=256))
    steps = aligned_stream(15, 10)
    found = play(features, steps)[-1]
    missing = steps[-1].features[:, 2] == 0
    assert missing.any()
    assert (found[missing][:, features.columns.names.index("site:age")] == 0).all()
    assert (found[missing][:, features.columns.names.index("user*site:shown")] == 0).all()
    assert (found[~missing][:, features.columns.names.index("site:age")] > 0).any()


def test_buckets_are_within_their_range_and_ordered_by_value():
    chosen = settings(form="both")
    features = StreamingFeatures(SCHEMA, chosen)
    steps = aligned_stream(16, 20)
    play(features, steps[:-1])
    batch = features.extend(steps[-1], learned=True)
    n = len(features.columns.names)
    assert batch.features.shape == (len(batch), SCHEMA.n_features + n)
    assert batch.dense.shape == (len(batch), SCHEMA.n_dense + n)
    specs = extended_specs(SCHEMA.specs, chosen)
    assert len(specs) == len(SCHEMA.specs) + 2 * n
    buckets, values = batch.features[:, SCHEMA.n_features :], batch.dense[:, SCHEMA.n_dense :]
    assert buckets.min() >= 1 and buckets.max() <= 64
    for column in range(n):
        order = np.argsort(values[:, column])
        assert (np.diff(buckets[order, column]) >= 0).all()


def test_off_adds_no_column():
    assert extended_specs(SCHEMA.specs, StreamingFeatureSettings()) == SCHEMA.specs


def test_an_empty_batch_has_all_columns():
    features = StreamingFeatures(SCHEMA, settings())
    empty: Batch = aligned_stream(17, 1)[-1].take(slice(0, 0))
    assert features.extend(empty, learned=False).dense.shape == (0, 1 + len(features.columns.names))
    features.observe(empty)


def test_a_key_that_is_no_feature_is_refused_with_the_names_that_exist():
    with pytest.raises(ConfigError, match=r'"brand" is not a key: name user, item or .* user, item, site'):
        StreamingFeatures(SCHEMA, settings(keys=("brand",)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"pairs": ("user",)},
        {"half_lives": ("0h",)},
        {"keys": ("user", "user")},
        {"keys": (), "pairs": ()},
        {"half_lives": ("6x",)},
    ],
)
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValidationError):
        StreamingFeatureSettings(mode="auto", **wrong)
