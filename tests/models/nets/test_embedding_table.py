"""Tables: initial values, Adagrad against a dense reference, and the rows that are marked as changed."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.models.nets.embedding_table import EmbeddingTable, RowBackup, initial_rows
from tests.support.waiting import allowance


def table(rows: int = 50, dim: int = 3, **changes: object) -> EmbeddingTable:
    given = {"seed": 1, "stream": 0, "sd": 0.01, "accumulator": 1e-6, "device": torch.device("cpu")}
    return EmbeddingTable(rows, dim, **(given | changes))  # type: ignore[arg-type]


def test_initial_rows_equal_the_recorded_values() -> None:
    # Recorded once: a new numpy or torch must not change the initial values of a model.
    rows = initial_rows(3, 16, 0, 2, 4, 0.01)
    words = np.random.Philox(key=np.array([3, 16], np.uint64), counter=np.zeros(4, np.uint64)).random_raw(4)
    expected = [(int(w) >> s & 0xFFFFFFFF) >> 8 for w in words for s in (0, 32)]
    scale = 0.01 * 2 * 3**0.5
    np.testing.assert_allclose(rows.ravel(), [((k + 0.5) / 2**24 - 0.5) * scale for k in expected], rtol=1e-5)


@given(first=st.integers(0, 9000), n=st.integers(0, 9000), dim=st.integers(1, 5))
@settings(max_examples=30, derandomize=True)
def test_a_row_does_not_depend_on_the_rows_around_it(first: int, n: int, dim: int) -> None:
    whole = initial_rows(9, 2, 0, 18_000, dim, 0.01)
    np.testing.assert_array_equal(initial_rows(9, 2, first, n, dim, 0.01), whole[first : first + n])


def test_initial_rows_have_the_given_deviation_and_differ_between_streams() -> None:
    a, b = initial_rows(1, 1, 0, 20_000, 8, 0.02), initial_rows(1, 2, 0, 20_000, 8, 0.02)
    assert abs(a.std() - 0.02) < 1e-4
    assert abs(a.mean()) < 1e-4
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01


def test_tables_of_one_stream_start_equal_and_stay_equal_when_grown() -> None:
    small, large = table(rows=100), table(rows=9000)
    small.grow(9000)
    assert torch.equal(small.weight, large.weight)
    assert torch.equal(small.accumulator, large.accumulator)
    assert torch.equal(table(rows=9000, like=large).weight, large.weight)


def test_adagrad_equals_a_dense_reference_and_leaves_other_rows_unchanged() -> None:
    t = table(rows=30, dim=4, accumulator=0.01)
    weight, total = t.weight.numpy().astype(np.float64), np.full(30, 0.01)
    before = t.weight.clone()
    rng = np.random.default_rng(0)
    used = set()
    for _ in range(20):
        index = np.sort(rng.choice(25, size=rng.integers(1, 10), replace=False))
        gradient = rng.normal(size=(len(index), 4))
        total[index] += (gradient**2).mean(1)
        weight[index] -= 0.1 * gradient / np.sqrt(total[index])[:, None]
        at, g = torch.from_numpy(index), torch.from_numpy(gradient).float()
        t.update(at, t.gather(at), g, g.square().mean(1), 0.1)
        t.mark(index)
        used.update(index.tolist())
    np.testing.assert_allclose(t.weight.numpy(), weight, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(t.accumulator.numpy(), total, rtol=1e-5)
    others = [i for i in range(30) if i not in used]
    assert torch.equal(t.weight[others], before[others])
    assert t.unsaved.take().tolist() == sorted(used)
    assert t.unreleased.peek().tolist() == sorted(used)


def test_revert_undoes_an_update_bit_for_bit() -> None:
    t = table()
    at = torch.tensor([3, 9])
    weight, accumulator = t.weight.clone(), t.accumulator.clone()
    undo = t.undo(at)
    t.update(at, t.gather(at), torch.ones(2, 3), torch.ones(2), 0.1)
    assert not torch.equal(t.weight, weight)
    t.revert(undo)
    assert torch.equal(t.weight, weight)
    assert torch.equal(t.accumulator, accumulator)


def test_a_backup_holds_the_rows_before_the_first_of_many_changes_and_no_others() -> None:
    one, untouched = (table(rows=50) for _ in range(2))
    one.backup = backup = RowBackup(one)
    rng = np.random.default_rng(0)
    changed = np.unique(rng.integers(0, 50, 12))
    for _ in range(5):
        index = np.sort(rng.choice(changed, 6, replace=False))
        at = torch.from_numpy(index)
        one.mark(index)
        gradient = torch.from_numpy(rng.normal(size=(6, one.dim)).astype(np.float32))
        one.update(at, one.gather(at), gradient, gradient.square().mean(1), 0.1)
    assert not torch.equal(one.weight, untouched.weight)
    assert sum(len(u.index) for u in backup._undo) <= len(changed)
    one.backup = None
    backup.revert()
    assert torch.equal(one.weight, untouched.weight)
    assert torch.equal(one.accumulator, untouched.accumulator)


def test_payload_round_trip() -> None:
    a, b = table(), table()
    at = torch.tensor([1, 4, 40])
    a.update(at, a.gather(at), torch.randn(3, 3), torch.ones(3), 0.1)
    payload = a.payload(at.numpy())
    assert payload.shape == (3, 4)
    b.load(at.numpy(), payload)
    assert torch.equal(a.weight, b.weight)
    assert torch.equal(a.accumulator, b.accumulator)
    a.reset()
    assert torch.equal(a.weight, table().weight)


@pytest.mark.parametrize("rows", [10_000_000])
def test_a_large_table_is_created_in_seconds(rows: int) -> None:
    began = time.perf_counter()
    t = table(rows=rows, dim=4)
    assert time.perf_counter() - began < allowance(10)
    assert t.weight.shape == (rows, 4)
