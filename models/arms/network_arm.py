"""``NetworkArm``: a network with its embedding tables and optimisers; its steps can be undone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.models.arms.interface import ArmInput, ArmState
from ecdctr.models.nets import (
    MAX_LOSS,
    CtrNet,
    EmbeddingTable,
    Encoded,
    FlatModule,
    FlatUndo,
    HistoryInput,
    InputEncoder,
    RowUndo,
    gradient_of,
    initialise,
    is_batch_norm,
)
from ecdctr.models.settings import ModelSettings
from ecdctr.models.tpm import HistoryReader
from ecdctr.state.checkpoints import Rows

__all__ = ["PREDICT_ROWS", "ArmSpec", "History", "NetworkArm", "Prepared"]

PREDICT_ROWS = 8192
"""Rows of one forward pass without gradients; bounds the memory that a very large batch needs."""

History = Literal["none", "learned", "merged"]


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """The properties by which network arms differ.

    Attributes
    ----------
    name
        Name in losses and checkpoints.
    domains
        Domains whose rows the arm learns (0 natural, 1 ad).
    history
        How the arm reads the TPM snapshots: not at all, through an attention that learns, or merged through a frozen
        attention.
    lr, embedding_lr
        Learning rates of Adam (dense parameters) and of the embedding rows' Adagrad.
    batch
        Maximum number of rows of a chunk. The gradient of a smaller chunk is weighted by its share of this number, so that
        a row has the same weight whether the stream arrives in full or in partial batches.
    domain_flag
        Whether a row's domain is an input of the network.
    ad_batch
        Maximum number of ad rows of a chunk, for an arm that learns both domains. If None, ``batch`` is used. A row has
        the same weight in either domain.
    """

    name: str
    domains: tuple[int, ...]
    history: History
    lr: float
    embedding_lr: float
    batch: int
    domain_flag: bool = False
    ad_batch: int | None = None

    def size(self, ad: bool) -> int:
        """Maximum number of rows of a chunk of one domain."""
        return self.ad_batch if ad and self.ad_batch is not None else self.batch


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """The inputs of one arm for a chunk of rows: the shared tensors, and the TPM history that this arm reads."""

    encoded: Encoded
    history: tuple[HistoryInput, HistoryInput] | None


@dataclass(slots=True)
class _Undo:
    buffers: Tensor
    counts: list[Tensor]
    flat: FlatUndo | None
    rows: list[tuple[EmbeddingTable, RowUndo]]


@dataclass(slots=True)
class _Pending:
    encoded: Encoded
    own: list[Tensor]
    leaves: list[Tensor]
    squares: list[Tensor]


class NetworkArm:
    """A network with its embedding tables and optimisers. Implements :class:`StagedArm`.

    :meth:`stage` computes all chunks of a step. If a step has one chunk, :meth:`commit` applies it; if it has several, each
    chunk is applied before the next one is computed. In either case :meth:`rollback` restores parameters, optimiser state and
    batch norm bit for bit.

    Parameters
    ----------
    spec
        Name, domains, history, learning rates, chunk sizes.
    encoder
        Defines the layout of the tables.
    n_dense
        Number of numeric columns.
    model
        Layer sizes and initial values.
    history_dim
        Length of a TPM vector.
    device
        Device of the tensors.
    like
        An arm in its initial state whose tables have the same initial values; copying them is faster than drawing them
        again.
    """

    def __init__(
        self,
        spec: ArmSpec,
        encoder: InputEncoder,
        n_dense: int,
        model: ModelSettings,
        history_dim: int,
        device: torch.device,
        like: NetworkArm | None = None,
    ) -> None:
        self.spec = spec
        self.device = device
        self.reader: HistoryReader | None = None
        self.net = CtrNet(
            encoder.layouts, n_dense, model, None if spec.history == "none" else history_dim, spec.domain_flag
        )
        initialise(self.net, model.seed)
        self.flat = FlatModule(self.net, device, spec.lr, last=is_batch_norm)
        self.tables: list[EmbeddingTable] = [
            EmbeddingTable(
                layout.rows,
                layout.dim,
                seed=model.seed,
                stream=layout.dim,
                sd=model.embedding_init,
                accumulator=model.adagrad_accumulator,
                device=device,
                like=None if like is None else like.tables[i],
            )
            for i, layout in enumerate(encoder.layouts)
        ]
        self._undo: _Undo | None = None
        self._pending: _Pending | None = None
        self._remember_initial()

    def _remember_initial(self) -> None:
        """Copy the dense initial state, for :meth:`reset`; the tables can compute theirs."""
        self._initial = self.flat.values.data.clone(), self.flat.buffers.clone()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def domains(self) -> tuple[int, ...]:
        return self.spec.domains

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    @property
    def based_on(self) -> tuple[str, ...]:
        return ()

    @property
    def reads_history(self) -> bool:
        """Whether TPM vectors are an input of the network."""
        return self.net.reads_history

    @property
    def history_reader(self) -> HistoryReader | None:
        """Reader of the TPM history; None if the network has no such input."""
        return self.reader if self.reads_history else None

    # -- predict

    def prepare(self, encoded: Encoded, batch: Batch) -> Prepared:
        """Add the TPM history of the rows if this arm reads it."""
        if not self.reads_history:
            return Prepared(encoded, None)
        assert self.reader is not None, f"arm {self.name} reads TPM vectors but has no reader"
        return Prepared(encoded, self.reader.read(batch))

    def _chunks(self, rows: ArmInput) -> list[Prepared]:
        """The rows in chunks of this arm's size; arms with the same reader share the vectors that it read."""
        will_learn = rows.will_learn and (AD if rows.ad else NATURAL) in self.domains
        size = min(self.spec.size(rows.ad) if will_learn else PREDICT_ROWS, len(rows))
        return [
            rows.derive((id(self.history_reader), size, i), partial(self.prepare, encoded, batch))
            for i, (batch, encoded) in enumerate(rows.chunks(size))
        ]

    def predict(self, rows: ArmInput) -> NDArray[np.float32]:
        """Click probabilities ``(n,)``, with the running statistics of batch norm."""
        parts = [self.predict_chunk(part) for part in self._chunks(rows)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])

    def predict_chunk(self, prepared: Prepared) -> NDArray[np.float32]:
        """Click probabilities of a chunk, ``(n,)``."""
        if prepared.encoded.n == 0:
            return np.empty(0, np.float32)
        out: NDArray[np.float32] = torch.sigmoid(self.logits(prepared)).cpu().numpy()
        return out

    def logits(self, prepared: Prepared) -> Tensor:
        """Logits of a chunk with the running statistics of batch norm, ``(n,)``."""
        with torch.no_grad():
            rows = self._effective(prepared.encoded, self._own(prepared.encoded))
            return self.net(rows, prepared.encoded, prepared.history, training=False)  # type: ignore[no-any-return]

    def _own(self, encoded: Encoded) -> list[Tensor]:
        """Copies of this arm's own embedding rows for a chunk."""
        return [t.gather(r.at) for t, r in zip(self.tables, encoded.tables, strict=True)]

    def _effective(self, encoded: Encoded, own: list[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Embedding rows that the network reads; called before each forward pass."""
        return own

    # -- learn

    def learn(self, rows: ArmInput) -> None:
        self.learn_chunks(self._chunks(rows))

    def stage(self, rows: ArmInput) -> float:
        return self._stage(self._chunks(rows))

    def learn_chunks(self, chunks: Sequence[Prepared]) -> float:
        """Learn chunks in their order, all of them or none.

        Returns
        -------
        float
            Mean loss of all rows; NaN if the chunks were rolled back.
        """
        loss = self._stage(chunks)
        if math.isnan(loss):
            self.rollback()
        else:
            self.commit()
        return loss

    def _stage(self, chunks: Sequence[Prepared]) -> float:
        total, rows = 0.0, 0
        self.begin(len(chunks))
        for chunk in chunks:
            loss = self.compute(chunk)
            if math.isnan(loss):
                return math.nan
            if len(chunks) > 1:
                self.apply()
            total, rows = total + loss * chunk.encoded.n, rows + chunk.encoded.n
        return total / rows if rows else 0.0

    def begin(self, chunks: int) -> None:
        """Copy the state that ``rollback`` needs. With a single chunk, only batch norm changes before ``apply``."""
        counts = [b.clone() for b in self.counts()]
        self._undo = _Undo(self.flat.buffers.clone(), counts, self.flat.undo() if chunks > 1 else None, [])

    def compute(self, prepared: Prepared) -> float:
        """Loss and gradients of a chunk; nothing is applied.

        Returns
        -------
        float
            Mean binary cross-entropy. NaN if the loss, a gradient or a batch norm statistic is not finite, or if the loss
            exceeds ``MAX_LOSS``; the step must then be rolled back.
        """
        encoded = prepared.encoded
        own = self._own(encoded)
        leaves = [rows.requires_grad_() for rows in self._effective(encoded, own)]
        self.flat.zero_gradient()
        logit = self.net(leaves, encoded, prepared.history, training=True)
        total = functional.binary_cross_entropy_with_logits(logit, encoded.label, reduction="sum")
        torch.autograd.backward([total / self.spec.batch])
        loss = float(total.detach()) / encoded.n
        squares = [gradient_of(leaf).square().mean(1) for leaf in leaves]
        self._pending = _Pending(encoded, own, leaves, squares)
        if not math.isfinite(loss) or loss > MAX_LOSS or not self._finite(squares):
            self._pending = None
            return math.nan
        return loss

    def _finite(self, squares: Sequence[Tensor]) -> bool:
        # Batch norm's running variance overflows before any gradient does: a whole batch is then normalised to 0, its
        # loss looks harmless, and every later prediction would be the same.
        # Adam averages the squares of the gradient: if one is infinite, that parameter is never changed again.
        total = self.flat.gradient.square().sum() + self.flat.buffers.sum()
        for square in squares:
            total = total + square.sum()
        return bool(torch.isfinite(total))

    def apply(self) -> None:
        """Apply the gradients of the last :meth:`compute`."""
        pending, self._pending = self._pending, None
        undo = self._undo
        assert pending is not None and undo is not None, (
            "apply() was called without begin() and a successful compute()"
        )
        self.flat.step()
        for table, rows, own, leaf, square in zip(
            self.tables, pending.encoded.tables, pending.own, pending.leaves, pending.squares, strict=True
        ):
            values = own.detach()
            if undo.flat is not None:
                undo.rows.append((table, table.undo(rows.at)))
            table.mark(rows.index)
            table.update(rows.at, values, gradient_of(leaf), square, self.spec.embedding_lr)

    def commit(self) -> None:
        if self._pending is not None:
            self.apply()
        self._undo = None

    def rollback(self) -> None:
        undo, self._undo, self._pending = self._undo, None, None
        assert undo is not None, "rollback() was called without begin()"
        self.flat.buffers.copy_(undo.buffers)
        for now, before in zip(self.counts(), undo.counts, strict=True):
            now.copy_(before)
        if undo.flat is not None:
            self.flat.revert(undo.flat)
            for table, rows in reversed(undo.rows):
                table.revert(rows)

    def counts(self) -> list[Tensor]:
        """Batch norm's counters of batches."""
        return [b for n, b in self.net.named_buffers() if n.endswith("num_batches_tracked")]

    # -- state

    def dense_state(self) -> dict[str, NDArray[Any]]:
        """Copies of every dense tensor, by name."""
        return {f"{self.name}/{name}": value for name, value in self.flat.state().items()}

    def table_names(self) -> list[str]:
        """Names of the embedding tables in checkpoints."""
        return [f"{self.name}/rows{table.dim}" for table in self.tables]

    def capture(self) -> ArmState:
        rows: Rows = {}
        for name, table in zip(self.table_names(), self.tables, strict=True):
            index = table.unsaved.take()
            rows[name] = (index, table.payload(index))
        return ArmState(self.dense_state(), rows)

    def load(self, state: ArmState) -> None:
        prefix = f"{self.name}/"
        dense = {n.removeprefix(prefix): v for n, v in state.dense.items() if n.startswith(prefix)}
        self.flat.load_state(dense)
        for name, table in zip(self.table_names(), self.tables, strict=True):
            if name in state.rows:
                table.load(*state.rows[name])

    def reset(self) -> None:
        for table in self.tables:
            table.reset()
        values, buffers = self._initial
        self.flat.values.data.copy_(values)
        self.flat.buffers.copy_(buffers)
        self.flat.reset_adam()
        for count in self.counts():
            count.zero_()

    def digest(self, into: hashlib.blake2b) -> None:
        for key, value in sorted(self.dense_state().items()):
            into.update(f"{key}{value.shape}".encode())
            into.update(np.ascontiguousarray(value).tobytes())
        for table in self.tables:
            into.update(f"{self.name}{table.dim}".encode())
            into.update(table.weight.cpu().numpy().data)
            into.update(table.accumulator.cpu().numpy().data)
