"""Hand-written backward passes against autograd's and against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from models.kernels import cross, gather_rows


def places(n: int, m: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    inverse = np.random.default_rng(seed).integers(0, m, n)
    inverse[:m] = np.arange(m)  # every row is read
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(m))
    return torch.from_numpy(inverse), torch.from_numpy(order), torch.from_numpy(starts)


@pytest.mark.parametrize(("n", "m", "d"), [(7, 3, 2), (500, 60, 16), (5, 5, 1)])
def test_gathering_rows_is_embedding(n: int, m: int, d: int) -> None:
    inverse, order, starts = places(n, m, seed=n)
    rows = torch.randn(m, d, requires_grad=True)
    weight = torch.randn(n, d)
    found = torch.autograd.grad((gather_rows(rows, inverse, order, starts) * weight).sum(), rows)[0]
    expected = torch.autograd.grad((torch.nn.functional.embedding(inverse, rows) * weight).sum(), rows)[0]
    torch.testing.assert_close(found, expected)
    assert torch.equal(gather_rows(rows, inverse, order, starts), rows[inverse])


def test_gathering_no_rows() -> None:
    empty = torch.empty(0, dtype=torch.int64)
    rows = torch.empty(0, 3, requires_grad=True)
    out = gather_rows(rows, empty, empty, empty)
    assert out.shape == (0, 3)


def test_the_gradient_of_a_row_has_the_same_bits_for_any_number_of_threads() -> None:
    inverse, order, starts = places(20_000, 50, seed=1)
    rows, weight = torch.randn(50, 8, requires_grad=True), torch.randn(20_000, 8)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(torch.autograd.grad((gather_rows(rows, inverse, order, starts) * weight).sum(), rows)[0])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_cross_layer_against_differences_and_autograd() -> None:
    n, width = 6, 5
    given = [
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((n, width), (n, width), (width, width), (width,))
    ]
    assert gradcheck(cross, given)
    first, x, weight, bias = given
    out = torch.randn(n, width, dtype=torch.float64)
    plain = first * (x @ weight.T + bias) + x
    for a, b in zip(
        torch.autograd.grad(plain, given, out), torch.autograd.grad(cross(*given), given, out), strict=True
    ):
        torch.testing.assert_close(a, b)
