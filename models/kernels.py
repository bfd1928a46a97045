"""Two steps of the networks with backward passes of their own, where autograd's are the larger part of the cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["cross", "gather_rows"]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, inverse: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        ctx.save_for_backward(order, starts)
        return rows.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        order, starts = ctx.saved_tensors
        # The places that read a row stand together in ``order``: its gradient is the sum of one bag.
        summed = functional.embedding_bag(order, gradients[0].contiguous(), starts, mode="sum")
        return summed, None, None, None


def gather_rows(rows: Tensor, inverse: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """``rows[inverse]``, with a backward pass that knows which places read each row.

    ``embedding``'s own backward searches all places for every row's gradient: ten times slower here. Each sum runs
    in the order of the places, whatever the number of threads.

    Parameters
    ----------
    rows
        ``(m, d)``.
    inverse
        Which row each place reads, ``(p,)``.
    order
        Places, those of row 0 first, then those of row 1, ..., ``(p,)``.
    starts
        Where each row's places begin in ``order``, ``(m,)``.

    Returns
    -------
    Tensor
        ``(p, d)``.
    """
    out: Tensor = _GatherRows.apply(rows, inverse, order, starts)  # type: ignore[no-untyped-call]
    return out


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


def cross(first: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A cross layer of DCN-V2, ``first * (W x + b) + x``, all ``(n, width)`` (Wang et al., WWW 2021, equation 1).

    Autograd multiplies by ones and adds where one product does both; on wide batches memory traffic is what costs.
    """
    out: Tensor = _Cross.apply(first, x, weight, bias)  # type: ignore[no-untyped-call]
    return out
