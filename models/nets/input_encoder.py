"""``InputEncoder``: converts a ``Batch`` to tensors and finds the distinct embedding rows that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecdctr.events.batch import AD, Batch
from ecdctr.events.schema import ColumnGroup, FeatureSchema

__all__ = ["Encoded", "InputEncoder", "TableLayout", "TableRows"]


@dataclass(frozen=True, slots=True, eq=False)
class TableLayout:
    """Layout of one fused embedding table. All features with the same embedding size share a table.

    Attributes
    ----------
    dim, rows
        Embedding size and number of rows. Each feature has ``buckets + 1`` rows, the first of which is the row for missing
        values.
    columns, offsets
        Columns of ``Batch.features`` in this table, single-valued features first, then bags; and for each of them, the first
        table row of its feature.
    n_single
        Number of columns of single-valued features.
    bags
        For each bag, the index of its first column in ``columns`` and its number of columns.
    """

    dim: int
    rows: int
    columns: NDArray[np.int64]
    offsets: NDArray[np.int64]
    n_single: int
    bags: tuple[tuple[int, int], ...]

    @property
    def n_vectors(self) -> int:
        """Number of vectors per row of a batch from this table."""
        return self.n_single + len(self.bags)


@dataclass(frozen=True, slots=True, eq=False)
class TableRows:
    """The distinct rows of one table that a batch needs.

    Attributes
    ----------
    index
        Distinct row numbers, ascending, int64, on the host.
    at
        The same on the device.
    inverse
        For each cell (row, column) of the batch, the position of its table row in ``index``, ``(n * C,)``, as
        ``torch.unique(return_inverse=True)`` returns it.
    order, starts
        Cell numbers sorted by table row, ``(n * C,)``, and for each distinct table row the position in ``order`` at which its
        cells begin, ``(m,)``.
    bag_mask
        1 where a bag's column holds an id, 0 where it is padding; ``(n, C - n_single)``; None without bags.
    """

    index: NDArray[np.int64]
    at: Tensor
    inverse: Tensor
    order: Tensor
    starts: Tensor
    bag_mask: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A batch encoded for the networks.

    It does not depend on a network's parameters, so all arms with the same features share it.

    Attributes
    ----------
    n
        Number of rows.
    tables
        Distinct rows of each table, in the order of :attr:`InputEncoder.layouts`.
    dense, label, domain
        Float32, ``(n, D)``, ``(n,)``, ``(n,)``; domain 1 is an ad.
    ad
        Whether the first row is an ad. All rows of a batch that is learned have the same domain.
    """

    n: int
    tables: tuple[TableRows, ...]
    dense: Tensor
    label: Tensor
    domain: Tensor
    ad: bool


def layouts_of(features: Sequence[ColumnGroup]) -> tuple[TableLayout, ...]:
    """One fused table for each embedding size, in ascending order."""
    layouts = []
    for dim in sorted({g.dim for g in features}):
        groups = [g for g in features if g.dim == dim]
        groups.sort(key=lambda g: g.is_bag)  # stable: singles first, each kind in schema order
        columns: list[int] = []
        offsets: list[int] = []
        bags: list[tuple[int, int]] = []
        rows = 0
        for group in groups:
            if group.is_bag:
                bags.append((len(columns), group.width))
            columns.extend(range(group.first_col, group.first_col + group.width))
            offsets.extend([rows] * group.width)
            rows += group.buckets + 1
        layouts.append(
            TableLayout(
                dim=dim,
                rows=rows,
                columns=np.array(columns, np.int64),
                offsets=np.array(offsets, np.int64),
                n_single=sum(not g.is_bag for g in groups),
                bags=tuple(bags),
            )
        )
    return tuple(layouts)


class InputEncoder:
    """Converts rows of a batch to :class:`Encoded`.

    Distinct rows are found by sorting integer keys that combine the row number with its position. This is about four times as
    fast as ``torch.unique`` or ``numpy.unique``, and it also gives the order that the backward pass needs.

    Parameters
    ----------
    schema
        The features.
    device
        Device of the tensors.
    features
        Features to encode; default: all categorical features and bags.
    """

    def __init__(
        self, schema: FeatureSchema, device: torch.device, features: Sequence[ColumnGroup] | None = None
    ) -> None:
        self.schema = schema
        self.device = device
        self.layouts = layouts_of(schema.categorical if features is None else features)
        self._in_order = [
            np.array_equal(layout.columns, np.arange(schema.n_features)) for layout in self.layouts
        ]

    def encode(self, batch: Batch) -> Encoded:
        """Tensors of a batch of any size, 0 rows included."""
        return Encoded(
            n=len(batch),
            tables=tuple(self._rows(i, batch.features) for i in range(len(self.layouts))),
            dense=self._tensor(np.array(batch.dense, np.float32)),  # a copy: columns may be read-only
            label=self._tensor(np.array(batch.label, np.float32)),
            domain=self._tensor((batch.domain == AD).astype(np.float32)),
            ad=bool(len(batch) and batch.domain[0] == AD),
        )

    def _rows(self, i: int, features: NDArray[np.int32]) -> TableRows:
        layout = self.layouts[i]
        ids = features if self._in_order[i] else features[:, layout.columns]
        keys = (ids + layout.offsets).ravel()
        bits = len(keys).bit_length()
        keys <<= bits
        keys |= np.arange(len(keys))
        keys.sort()
        order = keys & ((1 << bits) - 1)
        keys >>= bits
        begins = np.empty(len(keys), np.bool_)
        begins[:1] = True
        np.not_equal(keys[1:], keys[:-1], out=begins[1:])
        starts = np.flatnonzero(begins)
        index = keys[starts]
        inverse = np.empty(len(keys), np.int64)
        inverse[order] = np.cumsum(begins) - 1
        mask = None
        if layout.bags:
            mask = self._tensor((ids[:, layout.n_single :] != 0).astype(np.float32))
        return TableRows(
            index, self._tensor(index), self._tensor(inverse), self._tensor(order), self._tensor(starts), mask
        )

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        host = torch.from_numpy(array)
        if self.device.type == "cpu":
            return host
        return host.pin_memory().to(self.device, non_blocking=True)
