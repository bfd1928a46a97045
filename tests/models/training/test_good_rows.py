"""Bisection of a step that cannot be learned: it finds the rows that cause it, with few tries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.models.training.good_rows import FEW, good_rows


class Step:
    """Cannot be learned with a bad row; counts the tries."""

    def __init__(self, bad, *, hidden_alone=0):
        self.bad, self.hidden_alone = set(bad), hidden_alone
        self.tries = self.rows = 0

    def works(self, rows):
        assert np.all(np.diff(rows) > 0), "in their order, none twice"
        self.tries += 1
        self.rows += len(rows)
        if len(rows) <= self.hidden_alone:  # batch norm makes the rows of a tiny batch equal
            return True
        return not self.bad & set(rows.tolist())


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 15, 16, 64, 100, 512, 4096])
def test_one_bad_row_is_found_wherever_it_is(n):
    for bad in {0, 1 % n, n // 3, n // 2, n - 1}:
        step = Step([bad], hidden_alone=1)
        found = good_rows(n, step.works)
        expected = [] if n <= 2 else [i for i in range(n) if i != bad]
        assert found.tolist() == expected, (n, bad)
        assert step.tries <= max(FEW, 3 + 2 * n.bit_length())
        assert step.rows <= 3 * n + 64 * 2 * n.bit_length()


@given(n=st.integers(16, 600), seed=st.integers(0, 2**31), count=st.integers(1, 4), hidden=st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_a_few_bad_rows_are_found_and_no_other_is_lost(n, seed, count, hidden):
    bad = np.sort(np.random.default_rng(seed).choice(n, count, replace=False))
    found = good_rows(n, Step(bad, hidden_alone=hidden).works)
    assert found.tolist() == np.delete(np.arange(n), bad).tolist()


@given(n=st.integers(1, 600), seed=st.integers(0, 2**31), share=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_whatever_is_kept_can_be_learned_and_the_tries_are_bounded(n, seed, share):
    bad = np.flatnonzero(np.random.default_rng(seed).random(n) < share)
    step = Step([*bad, int(seed % n)])
    found = good_rows(n, step.works)
    assert not step.bad & set(found.tolist())
    assert step.tries <= 31 + 8 * n.bit_length()


def test_rows_that_fail_only_together_are_all_lost():
    assert good_rows(64, lambda rows: len(rows) < 40).tolist() == []
