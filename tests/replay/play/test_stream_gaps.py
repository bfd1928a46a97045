"""``StreamGaps``: against a plain loop over all rows, however they are cut, and whatever an earlier run has scored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.events.batch import Batch
from ecdctr.replay.play.stream_gaps import StreamGaps
from ecdctr.state.errors import StateError

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=50)


def batch_of(rows):
    """Rows ``(user, ms since the row before, is an ad)``."""
    n = len(rows)
    user = np.array([u for u, _, _ in rows], np.uint64) << np.uint64(62)
    return Batch(
        np.cumsum([t for _, t, _ in rows], dtype=np.int64), np.array([ad for _, _, ad in rows], np.uint8), user, user,
        np.zeros((n, 0), np.int32), np.zeros((n, 0), np.float32), np.zeros(n, np.float32),
    )  # fmt: skip


@settings(max_examples=80, derandomize=True, deadline=None)
@given(ROWS, st.lists(st.integers(0, 50), max_size=4), st.integers(0, 50), st.integers(1, 9))
def test_gaps_as_a_plain_loop_finds_them(rows, cuts, done, at_once):
    batch = batch_of(rows)
    wanted = []
    for i, (user, _, ad) in enumerate(rows):
        older = [
            t for t, (u, _, _) in zip(batch.ts.tolist(), rows, strict=True) if u == user and t < batch.ts[i]
        ]
        if ad:
            wanted.append(batch.ts[i] - max(older) if older else -1)
    ads = batch.user[batch.domain == 1]
    done = min(done, len(wanted))
    gaps = StreamGaps()
    gaps.skip(done)
    edges = sorted(min(c, len(rows)) for c in cuts)
    parts = [slice(a, b) for a, b in zip([0, *edges], [*edges, len(rows)], strict=True)]
    assert sum(len(b) for b in gaps.watch(batch.take(p) for p in parts)) == len(rows)
    found = [gaps.take(ads[i : i + at_once]) for i in range(done, len(ads), at_once)]
    assert [gap for some in found for gap in some.tolist()] == wanted[done:]


def test_many_users_in_many_batches():
    rng = np.random.default_rng(0)
    n, users = 20_000, 3_000
    user = rng.integers(0, 2**63, users).astype(np.uint64)[rng.integers(0, users, n)]
    ts = np.sort(rng.integers(0, 5_000, n))
    z = np.zeros(n)
    batch = Batch(
        ts,
        np.ones(n, np.uint8),
        user,
        user,
        np.zeros((n, 0), np.int32),
        np.zeros((n, 0), np.float32),
        z.astype(np.float32),
    )
    gaps = StreamGaps()
    for part in np.array_split(np.arange(n), 7):
        gaps.observe(batch.take(part))
    last: dict[int, list[int]] = {}
    wanted = []
    for u, t in zip(user.tolist(), ts.tolist(), strict=True):
        moments = last.setdefault(u, [])
        older = [m for m in moments[-2:] if m < t]
        wanted.append(t - older[-1] if older else -1)
        if not moments or moments[-1] != t:
            moments.append(t)
    np.testing.assert_array_equal(gaps.take(user), wanted)


def test_other_rows_than_those_that_come_next_are_refused():
    gaps = StreamGaps()
    gaps.observe(batch_of([(1, 1, True), (2, 1, True)]))
    with pytest.raises(StateError, match="in the order in which they were read"):
        gaps.take(batch_of([(2, 1, True)]).user)
