"""``EmbeddingTable``: embedding rows with row-wise Adagrad; the cost of a step depends on the batch, not on the table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecdctr.models.nets.dirty_rows import DirtyRows

__all__ = ["EmbeddingTable", "RowBackup", "RowUndo", "gradient_of", "initial_rows"]

_CHUNK = 4096
"""Rows that share one counter block. Part of the definition of a row's initial value: never change it."""

_EPS = 1e-30
"""Lower bound under the square root, for initial accumulators close to 0."""


def initial_rows(
    seed: int, stream: int, first: int, n: int, dim: int, sd: float, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Rows ``first .. first + n`` of an unbounded random table, uniform with mean 0 and standard deviation ``sd``.

    A row's value depends on ``(seed, stream, row, dim, sd)`` alone: tables may grow, be cut or be filled in any
    order. The bits are Philox's raw counter output and the transform is one multiplication and one addition, so
    that neither a new numpy nor a new torch changes a model's initial state (the distributions of both may change).

    Parameters
    ----------
    seed, stream
        Identify the table; each below 2^64.
    first, n, dim
        Row range and embedding size.
    sd
        Standard deviation; if 0, all values are 0.
    out
        Where to write, float32 ``(n, dim)``, C order.

    Examples
    --------
    >>> whole = initial_rows(7, 0, 0, 10_000, 3, 0.01)
    >>> bool((initial_rows(7, 0, 5_000, 10, 3, 0.01) == whole[5_000:5_010]).all())
    True
    """
    rows = np.empty((n, dim), np.float32) if out is None else out
    if not sd:
        rows[:] = 0.0
        return rows
    scale = np.float32(2.0 * math.sqrt(3.0) * sd)
    end = first + n
    for chunk in range(first // _CHUNK, -(-end // _CHUNK)):
        bits = np.random.Philox(
            key=np.array([seed, stream], np.uint64), counter=np.array([0, chunk, 0, 0], np.uint64)
        )
        raw = bits.random_raw(_CHUNK * dim // 2).astype("<u8", copy=False).view("<u4")
        # 24 bits fit a float32 exactly; the half step makes the values symmetric around 0.
        unit = (raw >> np.uint32(8)).astype(np.float32)
        unit += np.float32(0.5 - 2**23)
        unit *= np.float32(2**-24) * scale
        low, high = max(first, chunk * _CHUNK), min(end, (chunk + 1) * _CHUNK)
        block = unit.reshape(_CHUNK, dim)
        rows[low - first : high - first] = block[low - chunk * _CHUNK : high - chunk * _CHUNK]
    return rows


@dataclass(frozen=True, slots=True)
class RowUndo:
    """Values of a few rows before an update."""

    index: Tensor
    weight: Tensor
    accumulator: Tensor


class EmbeddingTable:
    """``rows x dim`` parameters, each row with one Adagrad accumulator.

    Row-wise Adagrad: ``a_r += mean_j g_rj^2``, ``w_r -= lr * g_r / sqrt(a_r)`` (one accumulator per row instead of
    one per number, as large recommender systems do). Only rows of the batch are read or written.

    Parameters
    ----------
    rows, dim
        Size.
    seed, stream
        Identify the initial values, see :func:`initial_rows`; tables with equal seed and stream start equal.
    sd
        Standard deviation of the initial values.
    accumulator
        Initial accumulator.
    device
        Device of the tensors and of index tensors; arrays of row numbers (:meth:`mark`, :meth:`payload`, :meth:`load`) and the
        sets of changed rows are on the host.
    like
        A table in its initial state with the same seed and stream, whose values are copied instead of drawn again.

    Attributes
    ----------
    weight, accumulator
        Float32, ``(rows, dim)`` and ``(rows,)``.
    unsaved
        Rows changed since the last capture.
    unreleased
        Rows changed since the last release.
    backup
        While set, every row is copied there before its first change.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        seed: int,
        stream: int,
        sd: float,
        accumulator: float,
        device: torch.device,
        like: EmbeddingTable | None = None,
    ) -> None:
        self.rows, self.dim, self.initial_accumulator = rows, dim, accumulator
        self._initial_key = (seed, stream, sd)
        self.weight: Tensor
        if like is not None:
            assert (like.rows, like.dim, like._initial_key) == (rows, dim, self._initial_key)
            self.weight = like.weight.clone()
        else:
            host = torch.empty(rows, dim)
            initial_rows(seed, stream, 0, rows, dim, sd, out=host.numpy())
            self.weight = host.to(device)
        self.accumulator = torch.full((rows,), accumulator, device=device)
        self.unsaved = DirtyRows(rows)
        self.unreleased = DirtyRows(rows)
        self.backup: RowBackup | None = None

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def gather(self, index: Tensor) -> Tensor:
        """Copy of rows, ``(m, dim)``."""
        return self.weight.index_select(0, index)

    def mark(self, index: NDArray[np.int64]) -> None:
        """Record that rows are about to change; ``index`` has no duplicates."""
        if self.backup is not None:
            self.backup.save(index)
        self.unsaved.mark(index)
        self.unreleased.mark(index)

    def update(self, index: Tensor, rows: Tensor, gradient: Tensor, square: Tensor, lr: float) -> None:
        """One Adagrad step on distinct rows.

        Parameters
        ----------
        index
            Row numbers, int64, ``(m,)``, distinct.
        rows
            Their current values, ``(m, dim)``.
        gradient
            Of the loss with respect to those rows, ``(m, dim)``.
        square
            ``gradient.square().mean(1)``, which the caller needs for its own check for NaN.
        lr
            Learning rate.
        """
        total = self.accumulator.index_select(0, index).add_(square)
        step = total.clamp(min=_EPS).rsqrt_().mul_(-lr)
        self.accumulator.index_copy_(0, index, total)
        self.weight.index_copy_(0, index, torch.addcmul(rows, gradient, step.unsqueeze(1)))

    def undo(self, index: Tensor) -> RowUndo:
        """Copy rows before they change, so that :meth:`revert` can restore them."""
        return RowUndo(index, self.gather(index), self.accumulator.index_select(0, index))

    def revert(self, undo: RowUndo) -> None:
        """Restore rows."""
        self.weight.index_copy_(0, undo.index, undo.weight)
        self.accumulator.index_copy_(0, undo.index, undo.accumulator)

    def payload(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows as they are stored in checkpoints, ``(m, dim + 1)``: values, then the accumulator."""
        at = torch.from_numpy(index).to(self.device)
        both = torch.cat([self.gather(at), self.accumulator.index_select(0, at).unsqueeze(1)], dim=1)
        out: NDArray[np.float32] = both.cpu().numpy()
        return out

    def load(self, index: NDArray[np.int64], payload: NDArray[np.float32]) -> None:
        """Inverse of :meth:`payload`; the rows are not recorded as changed."""
        at = torch.from_numpy(np.ascontiguousarray(index, np.int64)).to(self.device)
        values = torch.from_numpy(np.ascontiguousarray(payload, np.float32)).to(self.device)
        self.weight.index_copy_(0, at, values[:, : self.dim])
        self.accumulator.index_copy_(0, at, values[:, self.dim])

    def grow(self, rows: int) -> None:
        """Add rows with their initial values, up to ``rows`` in all."""
        seed, stream, sd = self._initial_key
        more = torch.from_numpy(initial_rows(seed, stream, self.rows, rows - self.rows, self.dim, sd))
        self.weight = torch.cat([self.weight, more.to(self.device)])
        filled = torch.full((rows - self.rows,), self.initial_accumulator, device=self.device)
        self.accumulator = torch.cat([self.accumulator, filled])
        self.unsaved.grow(rows)
        self.unreleased.grow(rows)
        self.rows = rows

    def reset(self) -> None:
        """Return to the initial values."""
        seed, stream, sd = self._initial_key
        host = torch.empty(self.rows, self.dim)
        initial_rows(seed, stream, 0, self.rows, self.dim, sd, out=host.numpy())
        self.weight.copy_(host)
        self.accumulator.fill_(self.initial_accumulator)
        self.unsaved.take()
        self.unreleased.take()


class RowBackup:
    """Copies of the rows of a table before their first change, so that any number of changes can be undone.

    Memory is bounded by the distinct rows that change, plus one flag per row of the table.

    Parameters
    ----------
    table
        The table.
    """

    def __init__(self, table: EmbeddingTable) -> None:
        self._table = table
        self._saved = DirtyRows(table.rows)
        self._undo: list[RowUndo] = []

    def save(self, index: NDArray[np.int64]) -> None:
        """Copy the rows that have not been saved yet. Called with distinct rows before they change."""
        new = self._saved.mark(index)
        if len(new):
            self._undo.append(self._table.undo(torch.from_numpy(new).to(self._table.device)))

    def revert(self) -> None:
        """Restore every row, bit for bit."""
        for undo in self._undo:
            self._table.revert(undo)


def gradient_of(leaf: Tensor) -> Tensor:
    """The gradient of gathered rows after a backward pass."""
    assert leaf.grad is not None
    return leaf.grad
