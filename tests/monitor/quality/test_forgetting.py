"""Probe slices of whole users, their size and repeated scores; backward transfer and staleness."""

import numpy as np
import pytest

from ecdctr.events.batch import AD, Batch
from ecdctr.monitor.quality.forgetting import Forgetting
from ecdctr.monitor.settings import ProbeSettings
from ecdctr.state.errors import StateError
from ecdctr.state.probes import ProbeStore

DAY = 86_400_000


def batch(day, n=2000, users=300, seed=0):
    rng = np.random.default_rng((seed, day))
    ts = np.sort(day * DAY + rng.integers(0, DAY, n))
    user = rng.integers(0, users, n).astype(np.uint64)
    return Batch(
        ts,
        np.full(n, AD, np.uint8),
        user,
        rng.integers(0, 50, n).astype(np.uint64),
        np.zeros((n, 1), np.int32),
        np.zeros((n, 0), np.float32),
        (rng.random(n) < 0.3).astype(np.float32),
    )


def knowing(b, arm):
    """A model that predicts every label correctly."""
    return (0.2 + 0.6 * b.label).astype(np.float32)


def forgetful(since):
    """A model that predicts rows from ``since`` on correctly and inverts all older ones."""

    def predict(b, arm):
        right = b.ts >= since
        return np.where(right, knowing(b, arm), 1 - knowing(b, arm)).astype(np.float32)

    return predict


def test_backward_transfer_shows_which_period_was_forgotten():
    f = Forgetting(ProbeSettings(period="1d", periods=3, rows=512))
    for day in range(1000, 1004):
        f.add("ad", batch(day))
        f.score(knowing, (day + 1) * DAY)
    f.score(forgetful(1002 * DAY), 1004 * DAY)
    now = f.to_json()
    assert [p["period"] for p in now["periods"]] == ["1972-09-27", "1972-09-28", "1972-09-29"]
    assert all(p["rows"] <= 512 for p in now["periods"])
    last = {c["period"]: c["transfer"][-1] for c in now["curves"] if c["arm"] == "actr"}
    assert last == {"1972-09-27": -1.0, "1972-09-28": -1.0, "1972-09-29": 0.0}
    assert f.worst()["actr"][0] == -1.0


def test_slices_contain_whole_users():
    f = Forgetting(ProbeSettings(period="1d", periods=2, rows=256))
    day = batch(1000)
    for part in np.array_split(np.arange(len(day)), 10):
        f.add("ad", day.take(part))
    f.add("ad", batch(1001))
    columns = f.store.get("ad-1000")
    assert 0 < len(columns["ts"]) <= 256
    for u in np.unique(columns["user"]):
        assert (columns["user"] == u).sum() == (day.user == u).sum()


def test_staleness_counts_days_since_an_id_was_learned_with_and_without_vectors():
    f = Forgetting(ProbeSettings(period="1d", periods=2, rows=4096))
    day = batch(1000, users=100)
    f.add("ad", day, (day.user < 50).astype(np.int8))
    back = batch(1010, users=100)
    f.add("ad", back.take(back.user < 30))  # the period ends; users below 30 come back
    f.score(knowing, 1011 * DAY)
    lines = {(s["history"], s["days"][0]): s["rows"] for s in f.to_json()["staleness"] if s["arm"] == "actr"}
    young, old = int((day.user < 30).sum()), int((day.user >= 30).sum())
    assert lines[("all", 0)] == young and lines[("with", 0)] == young
    assert lines[("all", 7)] == old
    assert lines[("with", 7)] + lines[("without", 7)] == old


def test_slices_are_loaded_after_a_restart(tmp_path):
    settings = ProbeSettings(period="1d", periods=3, rows=512)
    first = Forgetting(settings, ProbeStore(tmp_path))
    first.add("ad", batch(1000))
    first.add("ad", batch(1001))
    first.score(knowing, 1002 * DAY)
    again = Forgetting(settings, ProbeStore(tmp_path))
    again.score(forgetful(1001 * DAY), 1003 * DAY)
    assert again.worst()["actr"] == (-1.0, "1972-09-27")  # against the first life's score


def test_a_damaged_slice_is_named_and_left_out(tmp_path, caplog):
    store = ProbeStore(tmp_path)
    store.put("ad-1000", {"ts": np.arange(3)})
    (tmp_path / "ad-1000.npz").write_bytes(b"no zip")
    with pytest.raises(StateError, match="ad-1000"):
        store.get("ad-1000")
    assert Forgetting(ProbeSettings(), store).to_json()["periods"] == []
    assert "ad-1000" in caplog.text
