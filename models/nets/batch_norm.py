"""``BatchNorm``: torch's, with rules for chunks of few or similar rows, and running statistics of each domain."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MIN_ROWS", "BatchNorm"]

MIN_ROWS = 8
"""Chunks with fewer rows are normalised with the running statistics.

A live stream delivers partial batches. With one row the batch variance is 0 and the normalised row is 0; with a few rows the
variance is mostly noise. The rule depends only on the number of rows, so that the same chunk is always treated the same way.
"""


class BatchNorm(nn.BatchNorm1d):
    """Batch norm (Ioffe and Szegedy, 2015) over ``(n, width)``.

    Training with at least :data:`MIN_ROWS` rows normalises by the batch and moves the running statistics, as usual.
    With fewer, it normalises by the running statistics, and updates them in proportion to the number of rows, so that
    the statistics follow even a stream of very small batches.

    Parameters
    ----------
    width
        Number of columns.
    momentum, affine
        As torch's.
    running
        If true, every chunk is normalised by the current running statistics, which are constants in the backward pass, and
        updates them afterwards, so that a chunk is learned exactly as it was predicted. For streams whose neighbouring rows are similar (one
        hour, a dozen users, one impression list): normalisation by their own mean would remove their common part while
        learning, but not while predicting. That is batch renormalisation (Ioffe, 2017, equation 1) without its bounds. On
        well mixed rows it learns more slowly than with the statistics of the batch.
    per_domain
        If true, ads have their own running statistics, and a difference of scale and shift. A network that learns both
        domains in chunks of one domain each needs this: rows that were learned with the statistics of their chunk must be
        predicted with those of their domain, and a domain flag is constant within a chunk, so that normalisation removes it
        (partitioned normalisation; Sheng et al., "STAR", CIKM 2021).
    """

    def __init__(
        self,
        width: int,
        *,
        momentum: float = 0.1,
        affine: bool = True,
        running: bool = False,
        per_domain: bool = False,
    ) -> None:
        super().__init__(width, momentum=momentum, affine=affine)
        self.running, self.per_domain = running, per_domain
        if per_domain:
            self.register_buffer("ad_mean", torch.zeros(width))
            self.register_buffer("ad_var", torch.ones(width))
            if affine:
                self.ad_weight = nn.Parameter(torch.zeros(width))
                self.ad_bias = nn.Parameter(torch.zeros(width))

    def reset_running_stats(self) -> None:
        super().reset_running_stats()
        if getattr(self, "per_domain", False):  # torch resets before the attributes of this class exist
            self.get_buffer("ad_mean").zero_()
            self.get_buffer("ad_var").fill_(1.0)

    def run(self, x: Tensor, training: bool, ad: bool = False) -> Tensor:
        """Normalise; ``training`` is an argument because predicting and learning alternate at every step.

        ``ad``: whether the rows, all of one domain, are ads; used only with statistics per domain.
        """
        mean, variance = self.running_mean, self.running_var
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if ad and self.per_domain:
            mean, variance = self.get_buffer("ad_mean"), self.get_buffer("ad_var")
            if self.affine:
                weight, bias = weight + self.ad_weight, bias + self.ad_bias
        assert mean is not None and variance is not None and self.num_batches_tracked is not None
        if not training:
            return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, self.eps)
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        assert momentum is not None
        if len(x) >= MIN_ROWS and not self.running:
            return functional.batch_norm(x, mean, variance, weight, bias, True, momentum, self.eps)
        out = functional.batch_norm(x, mean.clone(), variance.clone(), weight, bias, False, 0.0, self.eps)
        with torch.no_grad():
            off = x.detach() - mean
            if not self.running:
                share = momentum * len(x) / MIN_ROWS
                mean.add_(off.mean(0), alpha=share)
                variance.lerp_(off.square().mean(0), share)
                return out
            # The k-th chunk has the weight 1 / (k + 1), because the initial statistics count as a chunk. With the momentum alone
            # they would have an effect for 1 / momentum chunks; without them a network whose outputs still grow diverges.
            part = (1.0 / (self.num_batches_tracked + 1)).clamp(min=momentum) * min(1.0, len(x) / MIN_ROWS)
            mean.add_(off.mean(0) * part)
            variance.lerp_(off.square().mean(0), part)
        return out
