"""Operations of the networks with custom backward passes, where those of autograd dominate the cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["cross", "gather_rows", "product"]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, inverse: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        ctx.save_for_backward(order, starts)
        return rows.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        order, starts = ctx.saved_tensors
        # The cells that read a row are adjacent in ``order``, so its gradient is the sum of one bag.
        summed = functional.embedding_bag(order, gradients[0].contiguous(), starts, mode="sum")
        return summed, None, None, None


def gather_rows(rows: Tensor, inverse: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """``rows[inverse]``, with a backward pass that uses the sorted cells of each row.

    The backward pass of ``embedding`` searches all cells for the gradient of every row, which is ten times slower here. Each
    sum is computed in the order of the cells, independently of the number of threads.

    Parameters
    ----------
    rows
        ``(m, d)``.
    inverse
        The row that each cell reads, ``(p,)``.
    order
        Cell numbers sorted by row, ``(p,)``.
    starts
        For each row, the position in ``order`` at which its cells begin, ``(m,)``.

    Returns
    -------
    Tensor
        ``(p, d)``.
    """
    out: Tensor = _GatherRows.apply(rows, inverse, order, starts)  # type: ignore[no-untyped-call]
    return out


class _Product16(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        g = gradients[0].bfloat16()
        return (g @ weight).float(), (g.t() @ x).float()


def product(x: Tensor, weight: Tensor, low: bool) -> Tensor:
    """``x W^T``, ``(n, in)`` and ``(out, in)``.

    ``low``: the factors of this product and of its two gradients are rounded to bfloat16 (8 bits of mantissa), sums run
    in float32, results are rounded to bfloat16; float32 everywhere else (Micikevicius et al., "Mixed precision training",
    ICLR 2018; Kalamkar et al., "A study of bfloat16 for deep learning training", 2019).
    """
    if not low:
        return functional.linear(x, weight)
    out: Tensor = _Product16.apply(x, weight)  # type: ignore[no-untyped-call]
    return out


class _Cross16(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x16, weight = x.bfloat16(), weight.bfloat16()
        inner = functional.linear(x16, weight).float().add_(bias)
        ctx.save_for_backward(first, x16, weight, inner)
        return torch.addcmul(x, first, inner)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first, x16, weight, inner = ctx.saved_tensors
        (g,) = gradients
        inner_g = g * first
        inner_g16 = inner_g.bfloat16()
        grad_x = (inner_g16 @ weight).float().add_(g)
        return g * inner, grad_x, (inner_g16.t() @ x16).float(), inner_g.sum(0)


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        inner = functional.linear(x, weight, bias)
        ctx.save_for_backward(first, x, weight, inner)
        return torch.addcmul(x, first, inner)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first, x, weight, inner = ctx.saved_tensors
        (g,) = gradients
        inner_g = g * first
        return g * inner, torch.addmm(g, inner_g, weight), inner_g.t() @ x, inner_g.sum(0)


def cross(first: Tensor, x: Tensor, weight: Tensor, bias: Tensor, low: bool = False) -> Tensor:
    """A cross layer of DCN-V2, ``first * (W x + b) + x``, all ``(n, width)`` (Wang et al., WWW 2021, equation 1).

    Autograd needs a multiplication by ones and an addition where one product computes both; on wide batches memory traffic
    dominates the cost.
    ``low`` as in :func:`product`.
    """
    out: Tensor = (_Cross16 if low else _Cross).apply(first, x, weight, bias)  # type: ignore[no-untyped-call]
    return out
