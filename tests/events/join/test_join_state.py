"""Both states of the join against a dictionary: what they answer depends on the records alone."""

from __future__ import annotations

import numpy as np
import pytest

from ecdctr.events.join import Joiner, JoinEvents, JoinSettings, MemoryState, Records, RocksState

CLOSED = (3, 4, 5, 6)


@pytest.fixture(params=["memory", "rocksdb"])
def make(request, tmp_path):
    def new(name="a"):
        return MemoryState() if request.param == "memory" else RocksState(tmp_path / name)

    return new


def records(rows):
    """``(key, kind, ts, due, row, domain)`` as records."""
    types = (np.uint64, np.uint8, np.int64, np.int64, np.int64, np.uint8)
    return Records(
        *(np.array(c, t) for c, t in zip(zip(*rows, strict=True) if rows else ((),) * 6, types, strict=True))
    )


def listed(found):
    return list(zip(*(c.tolist() for c in found.columns().values()), strict=True))


def written(make, seed, name="a", steps=12):
    rng = np.random.default_rng(seed)
    keys = np.concatenate([np.arange(400, dtype=np.uint64), 2**64 - 1 - np.arange(50, dtype=np.uint64)])
    state, known = make(name), {}
    for _ in range(steps):
        chosen = rng.choice(keys, 120, replace=False)
        rows = [
            (
                k,
                int(rng.integers(0, 7)),
                int(rng.integers(-50, 50)),
                int(rng.integers(-30, 30)),
                int(rng.integers(-1, 9)),
                1,
            )
            for k in chosen.tolist()
        ]
        state.write(records(rows))
        for row in rows:
            known.pop(row[0], None)
            if row[1]:
                known[row[0]] = row
    return state, known


def test_every_answer_is_that_of_a_dictionary(make):
    state, known = written(make, 1)
    every = sorted(known.values())
    assert listed(state.export()) == every
    asked = np.array([5, 399, 2**64 - 1, 10**15], np.uint64)
    none = (0, 0, 0, -1, 0)
    assert listed(state.find(asked)) == [known.get(k, (k, *none)) for k in asked.tolist()]
    for before in (-40, -10, 0, 40):
        due = sorted((r for r in every if r[3] < before), key=lambda r: (r[3], r[0]))
        found = state.due(before)
        assert listed(found) == due
        state.write(found)
    for kinds in ((1,), (2,), CLOSED):
        group = sorted((r for r in every if r[1] in kinds), key=lambda r: (r[3], r[0]))
        assert state.count(*kinds) == len(group)
        for number in (1, 7, len(group)):
            assert listed(state.oldest(kinds, number)) == group[:number]


def test_answers_do_not_depend_on_the_way_to_the_records(make):
    state, known = written(make, 2)
    other = make("b")
    for row in sorted(known.values(), reverse=True):
        other.write(records([row]))
    for kinds in ((1,), (2,), CLOSED):
        assert listed(state.oldest(kinds, 9)) == listed(other.oldest(kinds, 9))
    assert listed(state.due(10)) == listed(other.due(10))


def test_records_are_found_when_the_folder_is_opened_again(tmp_path):
    state, known = written(lambda name: RocksState(tmp_path / name), 3)
    state.close()
    again = RocksState(tmp_path / "a")
    assert listed(again.export()) == sorted(known.values())
    assert again.count(1) == sum(r[1] == 1 for r in known.values())


def events(rng, first, n):
    key = rng.integers(0, 300, n).astype(np.uint64)
    return JoinEvents(
        key, first * 20 + rng.integers(0, 400, n), rng.random(n) < 0.4, np.arange(first, first + n),
        rng.integers(0, 2, n).astype(np.uint8), rng.random(n) < 0.1, np.arange(first, first + n),
    )  # fmt: skip


def test_a_join_gives_the_same_rows_and_bytes_with_both_states(tmp_path):
    settings = JoinSettings(
        natural_window="2s", ad_window="5s", lateness="1s", remember="9s", tick="1s", max_closed=100
    )
    lanes = [("views", 0)]
    memory = Joiner(settings, lanes)
    disk = Joiner(settings, lanes, RocksState(tmp_path / "a"))
    rng = np.random.default_rng(4)
    for first in range(0, 3_000, 300):
        part = events(rng, first, 300)
        rows = []
        for joiner in (memory, disk):
            joiner.add("views", 0, part)
            joined = joiner.take()
            rows.append([c.tolist() for c in (*joined.rows.columns().values(), joined.released)])
        assert rows[0] == rows[1]
    assert memory.fates["forgotten_by_bound"] > 0
    saved = memory.export()
    assert disk.export() == saved
    moved = Joiner.restore(settings, lanes, saved, lambda r: RocksState.restore(tmp_path / "b", r))
    assert moved.finish().rows.row.tolist() == memory.finish().rows.row.tolist()
