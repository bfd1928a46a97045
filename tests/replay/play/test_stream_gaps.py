"""``StreamGaps``: against a plain loop over all rows, however they are cut into batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.events.batch import Batch
from ecdctr.replay.play.stream_gaps import StreamGaps

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=50)


def batch_of(rows):
    """Rows ``(user, ms since the row before, is an ad)``."""
    n = len(rows)
    user = np.array([u for u, _, _ in rows], np.uint64) << np.uint64(62)
    return Batch(
        np.cumsum([t for _, t, _ in rows], dtype=np.int64), np.array([ad for _, _, ad in rows], np.uint8), user, user,
        np.zeros((n, 0), np.int32), np.zeros((n, 0), np.float32), np.zeros(n, np.float32),
    )  # fmt: skip


@settings(max_examples=80, derandomize=True)
@given(ROWS, st.lists(st.integers(0, 50), max_size=4))
def test_gaps_as_a_plain_loop_finds_them(rows, cuts):
    batch = batch_of(rows)
    wanted = []
    for i, (user, _, _) in enumerate(rows):
        older = [
            t for t, (u, _, _) in zip(batch.ts.tolist(), rows, strict=True) if u == user and t < batch.ts[i]
        ]
        wanted.append(batch.ts[i] - max(older) if older else -1)
    gaps = StreamGaps()
    edges = sorted(min(c, len(rows)) for c in cuts)
    parts = [slice(a, b) for a, b in zip([0, *edges], [*edges, len(rows)], strict=True)]
    found = [gaps.observe(batch.take(part)) for part in parts]
    assert [gap for some in found for gap in some.tolist()] == wanted


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
    found = [gaps.observe(batch.take(part)) for part in np.array_split(np.arange(n), 7)]
    last: dict[int, list[int]] = {}
    wanted = []
    for u, t in zip(user.tolist(), ts.tolist(), strict=True):
        moments = last.setdefault(u, [])
        older = [m for m in moments[-2:] if m < t]
        wanted.append(t - older[-1] if older else -1)
        if not moments or moments[-1] != t:
            moments.append(t)
    np.testing.assert_array_equal(np.concatenate(found), wanted)
