"""``HistoricalAttention``: combines the K monthly TPM vectors of an id into one vector."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["FrozenHistory", "HistoricalAttention", "HistoryMode"]

HistoryMode = Literal["attention", "mean", "latest"]


class HistoricalAttention(nn.Module):
    r"""``h = MeanPool(softmax(H Wq (H Wk)^T / sqrt(d)) H Wv)`` over the months in which an id is present.

    The pooled softmax is a weight of each month, so ``h = (sum_k w_k H_k) Wv`` is the same value with one small product less
    per month. Months in which the id is absent are neither queries nor keys. An id that is absent in all months has a
    learned default vector, and its present flag is 0.

    ``Wv`` is initialised to the identity and the scores are initially small: before training, ``h`` is close to the mean of
    the present vectors. (PAPER: E-CDCTR, arXiv 2408.16238, historical embeddings; the projections are this project's.)

    Parameters
    ----------
    dim
        Size ``d`` of a TPM vector.
    mode
        ``attention``; ``mean`` of the present months; ``latest`` present month.
    """

    def __init__(self, dim: int, mode: HistoryMode = "attention") -> None:
        super().__init__()
        self.dim, self.mode = dim, mode
        self.default = nn.Parameter(torch.zeros(dim))
        if mode == "attention":
            self.query = nn.Parameter(torch.empty(dim, dim))
            self.key = nn.Parameter(torch.empty(dim, dim))
            self.value = nn.Parameter(torch.empty(dim, dim))

    def forward(self, H: Tensor, mask: Tensor) -> Tensor:
        """Vectors of ids.

        Parameters
        ----------
        H
            TPM vectors, oldest month first, float32 ``(m, K, d)``; absent ones are ignored.
        mask
            1 where the id is present in the month, float32 ``(m, K)``.

        Returns
        -------
        Tensor
            ``(m, d)``.
        """
        m, k, _ = H.shape
        if k == 0:
            return self.default.expand(m, self.dim)
        present = mask.amax(1, keepdim=True)
        weights = self._weights(H, mask)
        pooled = (weights.unsqueeze(2) * H).sum(1)
        if self.mode == "attention":
            pooled = pooled @ self.value
        return pooled * present + self.default * (1.0 - present)

    def _weights(self, H: Tensor, mask: Tensor) -> Tensor:
        """Share of each month in the pooled vector, ``(m, K)``; all 0 for an absent id."""
        if self.mode == "latest":
            order = torch.arange(1, mask.shape[1] + 1, device=mask.device)
            latest = (mask * order).argmax(1, keepdim=True)
            return torch.zeros_like(mask).scatter_(1, latest, 1.0) * mask
        share = mask / mask.sum(1, keepdim=True).clamp(min=1.0)
        if self.mode == "mean":
            return share
        queries = (H @ self.query).unsqueeze(2)
        keys = (H @ self.key).unsqueeze(1)
        score = (queries * keys).sum(3) * (1.0 / math.sqrt(self.dim))
        score = score + (mask.unsqueeze(1) - 1.0) * 1e9
        return (torch.softmax(score, dim=2) * share.unsqueeze(2)).sum(1)


class FrozenHistory:
    """A :class:`HistoricalAttention` with fixed parameters. Its result for a row is bit-identical whatever the other rows are.

    In a matrix product the result of a row may depend on the other rows. A merged row must not depend on them: it is cached,
    and after a restart it is computed again together with other rows, and must have the same bits. All operations here are
    therefore elementwise in double precision, in a fixed order, and rounded once.

    Parameters
    ----------
    attention
        The attention; it is copied, and later training does not change the copy.
    """

    def __init__(self, attention: HistoricalAttention) -> None:
        self.dim, self.mode = attention.dim, attention.mode
        self.default: NDArray[np.float32] = attention.default.detach().cpu().numpy().copy()
        if self.mode == "attention":
            query, key, value = (
                p.detach().cpu().numpy().astype(np.float64)
                for p in (attention.query, attention.key, attention.value)
            )
            # H Wq (H Wk)^T = H (Wq Wk^T) H^T
            self._bilinear = _fixed_order_product(query, key.T) / math.sqrt(self.dim)
            self._value = value

    def merge(
        self, H: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Merged rows.

        Parameters
        ----------
        H, mask
            ``(m, K, d)``, ``(m, K)``, oldest month first.

        Returns
        -------
        tuple
            Vectors ``(m, d)`` and whether the id is present at all ``(m,)``. Equal to
            :class:`HistoricalAttention` up to float32 rounding.
        """
        m, k, d = H.shape
        out = np.empty((m, d), np.float32)
        out[:] = self.default
        present: NDArray[np.bool_] = np.asarray(mask.any(1))
        if not present.any():
            return out, present
        # Months and components first: every operation below runs over contiguous ids.
        rows = np.ascontiguousarray(H[present].astype(np.float64).transpose(1, 2, 0))  # (K, d, ids)
        here = np.ascontiguousarray(mask[present].T)  # (K, ids)
        weights = self._weights(rows, here)
        pooled = weights[0] * rows[0]
        for month in range(1, k):
            pooled += weights[month] * rows[month]
        if self.mode == "attention":
            pooled = _project(pooled, self._value)
        out[present] = pooled.T.astype(np.float32)
        return out, present

    def _weights(self, rows: NDArray[np.float64], here: NDArray[np.bool_]) -> NDArray[np.float64]:
        k = len(rows)
        if self.mode == "latest":
            weights = np.zeros(here.shape)
            taken = np.zeros(here.shape[1], np.bool_)
            for month in reversed(range(k)):
                weights[month] = here[month] & ~taken
                taken |= here[month]
            return weights
        count = np.zeros(here.shape[1])
        for month in range(k):
            count += here[month]
        if self.mode == "mean":
            return here / count
        weights = np.zeros(here.shape)
        for asking in range(k):
            query = _project(rows[asking], self._bilinear)
            scores = np.full(here.shape, -np.inf)
            for month in range(k):
                score = query[0] * rows[month, 0]
                for i in range(1, self.dim):
                    score += query[i] * rows[month, i]
                np.copyto(scores[month], score, where=here[month])
            top = scores[0].copy()
            for month in range(1, k):
                np.maximum(top, scores[month], out=top)
            scores = np.exp(scores - top)
            total = scores[0].copy()
            for month in range(1, k):
                total += scores[month]
            weights += scores * (here[asking] / (total * count))
        return weights


def _project(rows: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """``matrix^T rows`` for rows ``(d, ids)``, summed over components in a fixed order."""
    out: NDArray[np.float64] = matrix[0][:, None] * rows[0]
    for i in range(1, len(matrix)):
        out += matrix[i][:, None] * rows[i]
    return out


def _fixed_order_product(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = a[:, 0, None] * b[0]
    for i in range(1, len(b)):
        out += a[:, i, None] * b[i]
    return out
