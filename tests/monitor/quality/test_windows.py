"""Windows, series and unseen ids against the exact metrics and against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.monitor.quality.bloom import BloomFilter
from ecdctr.monitor.quality.series import DomainSeries
from ecdctr.monitor.quality.windows import DomainWindow, Scored, Tally, UserRows, auc_of_counts
from ecdctr.replay.metrics import auc, gauc, log_loss, normalized_entropy, pcoc

HOUR, DAY = 3_600_000, 86_400_000


def rows(n, users=200, seed=0, begin=400 * DAY, span=DAY):
    rng = np.random.default_rng(seed)
    ts = np.sort(begin + rng.integers(0, span, n))
    user = rng.integers(0, users, n).astype(np.uint64)
    z = rng.normal(-1, 1, n) + rng.normal(0, 1, users)[user.astype(int)]
    p = (1 / (1 + np.exp(-z))).astype(np.float32)
    y = (rng.random(n) < p).astype(np.float32)
    return ts, user, y, p


def window(name, ts, user, y, p, *, gauc_rows=65_536, clock=None, blocks=7):
    w = DomainWindow(name, ("actr", "ads_only"), gauc_rows)
    clock = int(ts.max()) if clock is None else clock
    for part in np.array_split(np.arange(len(ts)), blocks):
        scored = Scored(ts[part], user[part], y[part], {"actr": p[part]}, ("actr", "ads_only"))
        tally = Tally(60_000, ts[part], (y[part] > 0, None, None, None, None, None), scored)
        w.add(tally, scored, int(ts[part].max()))
    return w.figures(clock)


def test_a_day_equals_the_exact_metrics():
    ts, user, y, p = rows(20_000)
    f = window("1d", ts, user, y, p)
    arm = f["arms"]["actr"]
    assert (f["rows"], f["clicks"]) == (20_000, int(y.sum()))
    assert arm["log_loss"] == pytest.approx(log_loss(y, p), rel=1e-5)
    assert arm["ne"] == pytest.approx(normalized_entropy(y, p), rel=1e-5)
    assert arm["pcoc"] == pytest.approx(pcoc(y, p), rel=1e-5)
    assert arm["gauc"] == pytest.approx(gauc(y, p, user).value, abs=1e-12)
    assert arm["gauc_error"] == 0
    assert abs(arm["auc"] - auc(y, p)) <= arm["auc_error"] < 0.01
    assert "ads_only" not in f["arms"]


@pytest.mark.parametrize(("name", "length"), [("5m", 300_000), ("1h", HOUR)])
def test_a_window_contains_only_rows_of_its_own_time(name, length):
    ts, user, y, p = rows(50_000)
    clock = int(ts.max())
    slot = {"5m": 60_000, "1h": 300_000}[name]
    begin = (clock // slot + 1) * slot - length  # windows slide by whole slots
    assert window(name, ts, user, y, p)["rows"] == int((ts >= begin).sum())


def test_a_window_is_empty_after_its_length_has_passed():
    ts, user, y, p = rows(1000)
    f = window("1h", ts, user, y, p, clock=int(ts.max()) + 2 * HOUR)
    assert f["rows"] == 0 and f["ctr"] is None and f["arms"] == {}


def test_the_sampled_gauc_is_within_its_interval():
    inside = 0
    for seed in range(40):
        ts, user, y, p = rows(12_000, users=1500, seed=seed)
        arm = window("1d", ts, user, y, p, gauc_rows=2048)["arms"]["actr"]
        assert 0 < arm["gauc_error"] < 0.2
        inside += abs(arm["gauc"] - gauc(y, p, user).value) <= arm["gauc_error"]
    assert inside >= 35  # 95 % of 40 is 38; below 35 has a chance of 1 %


@pytest.mark.parametrize(("name", "length"), [("1h", HOUR), ("1d", DAY)])
def test_past_hours_and_days_are_ranked_exactly(name, length):
    ts, user, y, p = rows(20_000)
    p[::7] = np.nan  # not scored by this arm
    arms = ("actr", "ads_only")
    users, series = UserRows(arms, 65_536, DAY), DomainSeries(name, arms)
    users.add(ts, user, y, np.stack([p, p[::-1]]), int(ts.max()))
    scored = Scored(ts, user, y, {"actr": p, "ads_only": p[::-1]}, arms)
    series.add(Tally(60_000, ts, (y > 0, None, None, None, None, None), scored))
    middle = 400 * DAY + 12 * HOUR
    series.rank(users, 400 * DAY, middle if name == "1h" else 401 * DAY)
    if name == "1h":
        series.rank(users, middle - HOUR, 401 * DAY)  # an hour that went on is ranked again
    slots, columns = series.to_json()
    for arm, score in (("actr", p), ("ads_only", p[::-1])):
        for i, slot in enumerate(slots):
            at = (ts // length == slot) & ~np.isnan(score)
            found = {k: columns["arms"][arm][k][i] for k in ("rows", "gauc", "auc", "log_loss", "ne", "pcoc")}
            assert found["rows"] == at.sum()
            assert found["gauc"] == pytest.approx(gauc(y[at], score[at], user[at]).value, abs=1e-12)
            assert found["auc"] == pytest.approx(auc(y[at], score[at]), abs=1e-12)
            assert found["log_loss"] == pytest.approx(log_loss(y[at], score[at]), rel=1e-5)
            assert found["ne"] == pytest.approx(normalized_entropy(y[at], score[at]), rel=1e-5)
            assert found["pcoc"] == pytest.approx(pcoc(y[at], score[at]), rel=1e-5)


def test_retained_rows_are_bounded_and_users_are_complete():
    retained = UserRows(("actr",), 1024, DAY)
    ts, user, y, p = rows(40_000, users=3000)
    for part in np.array_split(np.arange(len(ts)), 40):
        retained.add(ts[part], user[part], y[part], p[part][None], int(ts[part].max()))
    at, who, _, _ = retained.rows()
    assert len(at) <= 2048 and retained.share < 1
    for u in np.unique(who):
        mine = ts[(user == u) & (ts > ts.max() - DAY)]
        assert sorted(at[who == u]) == sorted(mine)


def test_users_added_to_the_sample_are_used_only_when_their_rows_are_complete():
    retained = UserRows(("actr",), 100, DAY)
    dense = rows(600, users=300)
    sparse = rows(4_000, users=300, seed=1, begin=401 * DAY, span=200 * DAY)
    ts, user, y, p = (np.concatenate(both) for both in zip(dense, sparse, strict=True))
    shares, incomplete = [], 0
    for part in np.array_split(np.arange(len(ts)), 500):
        clock = int(ts[part].max())
        retained.add(ts[part], user[part], y[part], p[part][None], clock)
        at, share = retained.complete_rows(clock - DAY)
        stored, who, _, _ = retained.rows()
        past = np.arange(len(ts)) <= part[-1]
        in_window = past & (ts > clock - DAY)
        for u in np.unique(who[at]):
            assert sorted(stored[at[who[at] == u]]) == sorted(ts[in_window & (user == u)])
        if share == 1:
            assert len(at) == in_window.sum()
        incomplete += share < retained.share
        shares.append(share)
        value, error, count = retained.gauc(clock)["actr"]
        if share == 1 and count:
            exact = gauc(y[in_window], p[in_window], user[in_window]).value
            assert error == 0 and value == pytest.approx(exact, abs=1e-12)
    assert min(shares) <= 0.25 and shares[-1] == 1 and incomplete


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
def test_auc_of_counts_is_within_its_error_bound(pairs):
    k, y = np.array([c for c, _ in pairs]), np.array([b for _, b in pairs])
    value, error = auc_of_counts(
        np.bincount(k[y], minlength=6).astype(float), np.bincount(k[~y], minlength=6).astype(float)
    )
    if not y.any() or y.all():
        assert np.isnan(value)
        return
    rng = np.random.default_rng(0)
    for _ in range(5):  # any order within the classes
        assert abs(auc(y, k + rng.random(len(k))) - value) <= error + 1e-12


def test_the_bloom_filter_recognises_every_added_id():
    rng = np.random.default_rng(0)
    ids_seen = BloomFilter(1 << 20)
    ids = rng.integers(0, 2**63, 5_000).astype(np.uint64)
    assert ids_seen.add(ids).mean() > 0.99
    assert not ids_seen.add(ids).any()
    new = rng.integers(0, 2**63, 20_000).astype(np.uint64)
    before = ids_seen.error
    missed = 1 - ids_seen.add(new).mean()
    assert before <= missed + 0.002 and missed <= ids_seen.error + 0.002


def test_a_row_of_another_year_needs_no_memory_for_the_time_between():
    ts = np.array([1_000, 40 * 365 * DAY])
    zeros = np.zeros(2, np.float32)
    scored = Scored(ts, ts.astype(np.uint64), zeros, {}, ("actr",))
    assert len(Tally(60_000, ts, (None,) * 6, scored).at_ms) == 2
