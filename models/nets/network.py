"""``CtrNet``: the network of all network arms (CPM, A-CTR, the ads-only control and their variants)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ecdctr.models.nets.batch_norm import BatchNorm
from ecdctr.models.nets.historical_attention import HistoricalAttention
from ecdctr.models.nets.input_encoder import Encoded, TableLayout, TableRows
from ecdctr.models.nets.kernels import cross, gather_rows, product
from ecdctr.models.settings import ModelSettings

__all__ = ["MAX_LOSS", "CtrNet", "HistoryInput", "embed", "is_batch_norm", "is_history"]

MAX_LOSS = 50.0
"""Maximum mean loss of a step; above it, the step is rolled back. The logits of a healthy model are far below 50."""


@dataclass(frozen=True, slots=True, eq=False)
class HistoryInput:
    """The TPM history of one kind of id (user or item) for the rows of a batch.

    Either the vectors of each month, for a network whose attention is trained, or merged vectors.

    Attributes
    ----------
    inverse
        For each row, the index of its id in the arrays below, ``(n,)``.
    rows, mask
        ``(m, K, d)`` and ``(m, K)``; None when merged.
    vectors, present
        Merged vectors ``(m, d)`` and flags ``(m,)``; None when not merged.
    """

    inverse: Tensor
    rows: Tensor | None = None
    mask: Tensor | None = None
    vectors: Tensor | None = None
    present: Tensor | None = None


def is_batch_norm(name: str) -> bool:
    """Whether a parameter or buffer of :class:`CtrNet` belongs to batch norm, by name."""
    return "norm" in name


def is_history(name: str) -> bool:
    """Whether a parameter belongs to the attention over TPM snapshots, by name."""
    return name.startswith("history_")


class CtrNet(nn.Module):
    """Embeddings, bags (mean), numbers, TPM history -> interaction and MLP with batch norm -> logit.

    The inputs from TPM are the vectors of user and item, flags of whether they are present, and the element-wise product of the
    vectors, because TPM is trained with their dot product.

    ``dcn``: DCN-V2 cross layers ``x_(l+1) = x_0 * (W_l x_l + b_l) + x_l`` (Wang et al., WWW 2021) in parallel with
    the MLP (its "parallel" form); the output reads both. ``dot``: the inputs of the MLP are the vectors and the products
    of all pairs of them. ``none``: the MLP alone.

    Parameters
    ----------
    layouts
        Layouts of the embedding tables.
    n_dense
        Numeric columns; they enter through a batch norm without affine part.
    model
        Layer sizes, and kinds of interaction, history and batch norm.
    history_dim
        Size of a TPM vector; None if the network does not read TPM.
    domain_flag
        Whether a row's domain is an input (for a network that learns both domains); batch norm then has separate
        running statistics for each domain.
    """

    def __init__(
        self,
        layouts: Sequence[TableLayout],
        n_dense: int,
        model: ModelSettings,
        history_dim: int | None,
        domain_flag: bool = False,
    ) -> None:
        super().__init__()
        self.layouts = tuple(layouts)
        self.interaction = model.interaction
        self.domain_flag = domain_flag
        self.n_dense = n_dense
        self.vector_dim = model.dim
        self.low = model.products == "bfloat16"
        norm: dict[str, Any] = {
            "momentum": model.batch_norm_momentum,
            "running": model.batch_norm == "running",
            "per_domain": domain_flag,
        }
        width = sum(layout.n_vectors * layout.dim for layout in layouts) + n_dense + domain_flag
        vectors = sum(layout.n_vectors for layout in layouts if layout.dim == model.dim)
        if n_dense:
            self.dense_norm = BatchNorm(n_dense, affine=False, **norm)
        self.history_user: HistoricalAttention | None = None
        self.history_item: HistoricalAttention | None = None
        if history_dim is not None:
            assert model.history != "none"
            self.history_user = HistoricalAttention(history_dim, model.history)
            self.history_item = HistoricalAttention(history_dim, model.history)
            width += 3 * history_dim + 2
            vectors += 2
            if self.interaction == "dot" and history_dim != model.dim:
                self.history_projection = nn.Linear(history_dim, model.dim, bias=False)
        mlp_width = width
        if self.interaction == "dot":
            mlp_width += vectors * (vectors - 1) // 2
            # A buffer of integers moves with the module without being a parameter.
            self.register_buffer("pairs", torch.triu_indices(vectors, vectors, 1), persistent=False)
        if self.interaction == "dcn":
            self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(model.cross_layers))
            self.out_cross = nn.Linear(width, 1, bias=False)
        widths = [mlp_width, *model.hidden]
        # No bias before a batch norm, which would remove it.
        self.linear = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))
        self.norm = nn.ModuleList(BatchNorm(b, **norm) for b in model.hidden)
        self.out = nn.Linear(widths[-1], 1)

    @property
    def reads_history(self) -> bool:
        return self.history_user is not None

    def forward(
        self,
        rows: Sequence[Tensor],
        encoded: Encoded,
        history: tuple[HistoryInput, HistoryInput] | None,
        training: bool,
    ) -> Tensor:
        """Logits of a batch.

        Parameters
        ----------
        rows
            The distinct embedding rows of each table, ``(m_t, dim_t)``.
        encoded
            The batch.
        history
            User and item; required if and only if the network reads TPM.
        training
            Whether to normalise by the statistics of the batch instead of the running statistics.

        Returns
        -------
        Tensor
            ``(n,)``.
        """
        parts: list[Tensor] = []
        vectors: list[Tensor] = []
        for layout, table, values in zip(self.layouts, encoded.tables, rows, strict=True):
            embedded = embed(layout, table, values)
            parts.append(embedded.flatten(1))
            if layout.dim == self.vector_dim:
                vectors.append(embedded)
        if self.n_dense:
            parts.append(self.dense_norm.run(encoded.dense, training, encoded.ad))
        if self.domain_flag:
            parts.append(encoded.domain.unsqueeze(1))
        if self.history_user is not None and self.history_item is not None:
            assert history is not None
            read: list[Tensor] = []
            for attention, given in zip((self.history_user, self.history_item), history, strict=True):
                vector, present = _read(attention, given)
                parts += [vector, present]
                read.append(vector)
                if self.interaction == "dot":
                    vectors.append(self._as_vector(vector).unsqueeze(1))
            parts.append(read[0] * read[1])
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return self._logit(x, vectors, training, encoded.ad)

    def _as_vector(self, history: Tensor) -> Tensor:
        if history.shape[1] == self.vector_dim:
            return history
        projected: Tensor = self.history_projection(history)
        return projected

    def _logit(self, x: Tensor, vectors: list[Tensor], training: bool, ad: bool) -> Tensor:
        hidden = x
        if self.interaction == "dot":
            stacked = vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=1)
            products = stacked @ stacked.transpose(1, 2)
            pairs = self.get_buffer("pairs")
            hidden = torch.cat([x, products[:, pairs[0], pairs[1]]], dim=1)
        for linear, norm in zip(self.linear, self.norm, strict=True):
            assert isinstance(norm, BatchNorm) and isinstance(linear, nn.Linear)
            hidden = torch.relu_(norm.run(product(hidden, linear.weight, self.low), training, ad))
        logit: Tensor = self.out(hidden)
        if self.interaction == "dcn":
            crossed = x
            for layer in self.cross:
                assert isinstance(layer, nn.Linear)
                crossed = cross(x, crossed, layer.weight, layer.bias, self.low)
            logit = logit + self.out_cross(crossed)
        return logit.squeeze(1)


def embed(layout: TableLayout, table: TableRows, values: Tensor) -> Tensor:
    """Vectors of a batch from one table's distinct rows, ``(n, n_vectors, dim)``.

    Single-valued features first, then the mean of each bag (an empty one: 0).
    """
    gathered = gather_rows(values, table.inverse, table.order, table.starts)
    embedded = gathered.view(-1, len(layout.columns), layout.dim)
    if table.bag_mask is None:
        return embedded
    pieces = [embedded[:, : layout.n_single]]
    for first, width in layout.bags:
        mask = table.bag_mask[:, first - layout.n_single : first - layout.n_single + width]
        total = (embedded[:, first : first + width] * mask.unsqueeze(2)).sum(1)
        pieces.append((total / mask.sum(1, keepdim=True).clamp(min=1.0)).unsqueeze(1))
    return torch.cat(pieces, dim=1)


def _read(attention: HistoricalAttention, given: HistoryInput) -> tuple[Tensor, Tensor]:
    """Each row's history vector ``(n, d)`` and present flag ``(n, 1)``."""
    if given.vectors is not None and given.present is not None:
        vectors, present = given.vectors, given.present
    else:
        assert given.rows is not None and given.mask is not None
        vectors = attention(given.rows, given.mask)
        present = given.mask.amax(1) if given.mask.shape[1] else given.mask.new_zeros(len(given.mask))
    return (
        functional.embedding(given.inverse, vectors),
        functional.embedding(given.inverse, present.unsqueeze(1)),
    )
