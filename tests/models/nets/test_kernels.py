"""Hand-written backward passes against autograd's and against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from ecdctr.models.nets.kernels import cross, gather_rows, product


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


def rounded(x: torch.Tensor) -> torch.Tensor:
    """To 8 bits of mantissa, in double precision."""
    return x.detach().bfloat16().double()


def test_a_low_product_is_that_of_rounded_factors() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(300, 70, requires_grad=True), torch.randn(40, 70, requires_grad=True)
    g = torch.randn(300, 40)
    out = product(x, weight, low=True)
    by_x, by_weight = torch.autograd.grad(out, (x, weight), g)
    expected = (
        rounded(x) @ rounded(weight).T,
        rounded(g) @ rounded(weight),
        rounded(g).T @ rounded(x),
    )
    for found, exact in zip((out, by_x, by_weight), expected, strict=True):
        assert found.dtype == torch.float32
        # One more rounding, of the result.
        torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-3)


def test_a_low_cross_layer_rounds_its_products_alone() -> None:
    torch.manual_seed(0)
    n, width = 200, 30
    given = [
        torch.randn(*shape, requires_grad=True)
        for shape in ((n, width), (n, width), (width, width), (width,))
    ]
    first, x, weight, bias = given
    g = torch.randn(n, width)
    out = cross(*given, low=True)
    inner = rounded(x) @ rounded(weight).T + bias.double()
    torch.testing.assert_close(out.double(), first * inner + x, rtol=2**-7, atol=0.1)
    inner_g = (g * first).detach()
    expected = (
        g * inner,
        g + rounded(inner_g) @ rounded(weight),
        rounded(inner_g).T @ rounded(x),
        inner_g.sum(0),
    )
    for found, exact in zip(torch.autograd.grad(out, given, g), expected, strict=True):
        torch.testing.assert_close(found.double(), exact.double(), rtol=2**-7, atol=0.2)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_low_product_has_the_same_bits_each_time(threads: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    x, weight, g = torch.randn(5000, 130), torch.randn(64, 130), torch.randn(5000, 64)
    found = []
    for shift in (0, 1, 3):  # wherever the factors lie in memory
        moved = torch.empty(x.numel() + shift)[shift:].view(x.shape).copy_(x).requires_grad_()
        low = weight.clone().requires_grad_()
        out = product(moved, low, low=True)
        found.append((out, *torch.autograd.grad(out, (moved, low), g)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
