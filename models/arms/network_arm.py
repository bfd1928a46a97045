"""``Arm``: a network with its tables and optimisers, learning from a stream in steps that can be taken back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ecdctr.events.batch import Batch
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

__all__ = ["PREDICT_ROWS", "Arm", "ArmSpec", "History", "Prepared"]

PREDICT_ROWS = 8192
"""Rows of one forward pass without gradient: bounds the memory of a very large batch."""

History = Literal["none", "learned", "merged"]


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """What makes one arm differ from another.

    Attributes
    ----------
    name
        Its name in scores, reports and checkpoints.
    domains
        Domains whose rows teach it (0 natural, 1 ad).
    history
        How it reads the TPM snapshots: not at all; through an attention that learns; merged through a frozen one.
    lr, embedding_lr
        Of Adam and of the rows' Adagrad.
    batch
        Rows of a step, at most. A step of fewer rows weighs by its share of this number, so that a row teaches the
        same whether the stream came in full batches or in drops.
    domain_flag
        Whether the network is told a row's domain.
    ad_batch
        Ad rows of a step, where an arm learns both domains; None: ``batch``. A row weighs the same in either domain.
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
        """Rows of a step of one domain, at most."""
        return self.ad_batch if ad and self.ad_batch is not None else self.batch


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A batch made ready for one arm: shared tensors, and the history that this arm reads."""

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


class Arm:
    """One model that learns from the stream.

    A step is ``begin``, then for each chunk ``compute`` and ``apply``, then ``commit`` (or ``rollback``, which leaves
    parameters, optimiser state and batch norm as they were at ``begin``, bit for bit). Arms that learn from the same
    rows compute first and apply when all of them can, so that a step happens in all of them or in none.

    Parameters
    ----------
    spec
        What it is.
    encoder
        Gives the tables' layout.
    n_dense
        Numeric columns.
    model
        Sizes, initial values.
    history_dim
        Size of a TPM vector.
    device
        Where it lives.
    like
        An untouched arm whose tables start equal: saves drawing them again.
    """

    def __init__(
        self,
        spec: ArmSpec,
        encoder: InputEncoder,
        n_dense: int,
        model: ModelSettings,
        history_dim: int,
        device: torch.device,
        like: Arm | None = None,
    ) -> None:
        self.spec = spec
        self.device = device
        self.embedding_lr = spec.embedding_lr
        self.reader: HistoryReader | None = None
        self.net = CtrNet(
            encoder.layouts, n_dense, model, None if spec.history == "none" else history_dim, spec.domain_flag
        )
        initialise(self.net, model.seed)
        self._seed = model.seed
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

    @property
    def reads_history(self) -> bool:
        return self.net.reads_history

    @property
    def history_reader(self) -> HistoryReader | None:
        """Where its history comes from; None: it reads none."""
        return self.reader if self.reads_history else None

    # -- predict

    def prepare(self, encoded: Encoded, batch: Batch) -> Prepared:
        """Look up what this arm reads beside the features."""
        if not self.reads_history:
            return Prepared(encoded, None)
        assert self.reader is not None, f"arm {self.spec.name} reads history but has no reader"
        return Prepared(encoded, self.reader.read(batch))

    def logits(self, prepared: Prepared) -> Tensor:
        """Logits with the running statistics of batch norm, ``(n,)``."""
        with torch.no_grad():
            rows = self._effective(prepared.encoded, self._own(prepared.encoded))
            return self.net(rows, prepared.encoded, prepared.history, training=False)  # type: ignore[no-any-return]

    def _own(self, encoded: Encoded) -> list[Tensor]:
        """Copies of this arm's own rows for a batch."""
        return [t.gather(r.at) for t, r in zip(self.tables, encoded.tables, strict=True)]

    def _effective(self, encoded: Encoded, own: list[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Rows that the network reads; asked for before each forward pass."""
        return own

    def predict(self, prepared: Prepared) -> NDArray[np.float32]:
        """Click probabilities, float32 ``(n,)``."""
        if prepared.encoded.n == 0:
            return np.empty(0, np.float32)
        out: NDArray[np.float32] = torch.sigmoid(self.logits(prepared)).cpu().numpy()
        return out

    # -- learn

    def begin(self, chunks: int) -> None:
        """Remember what ``rollback`` needs; a step of one chunk changes nothing but batch norm before ``apply``."""
        counts = [b.clone() for b in self.counts()]
        self._undo = _Undo(self.flat.buffers.clone(), counts, self.flat.undo() if chunks > 1 else None, [])

    def compute(self, prepared: Prepared) -> float:
        """Loss and gradients of a chunk; nothing is applied.

        Returns
        -------
        float
            Mean binary cross-entropy, or NaN when loss, gradients or batch norm's statistics are not finite or the loss
            has exploded: then the step must be rolled back.
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
        total = self.flat.gradient.sum() + self.flat.buffers.sum()
        for square in squares:
            total = total + square.sum()
        return bool(torch.isfinite(total))

    def apply(self) -> None:
        """Take the step that the last ``compute`` prepared."""
        pending, self._pending = self._pending, None
        undo = self._undo
        assert pending is not None and undo is not None, "apply follows begin and a compute that succeeded"
        self.flat.step()
        for table, rows, own, leaf, square in zip(
            self.tables, pending.encoded.tables, pending.own, pending.leaves, pending.squares, strict=True
        ):
            values = own.detach()
            if undo.flat is not None:
                undo.rows.append((table, table.undo(rows.at)))
            table.mark(rows.index)
            table.update(rows.at, values, gradient_of(leaf), square, self.embedding_lr)

    def commit(self) -> None:
        """The step stands."""
        self._undo = None

    def rollback(self) -> None:
        """Back to ``begin``."""
        undo, self._undo, self._pending = self._undo, None, None
        assert undo is not None, "rollback follows begin"
        self.flat.buffers.copy_(undo.buffers)
        for now, before in zip(self.counts(), undo.counts, strict=True):
            now.copy_(before)
        if undo.flat is not None:
            self.flat.revert(undo.flat)
            for table, rows in reversed(undo.rows):
                table.revert(rows)

    def learn(self, chunks: Sequence[Prepared]) -> float:
        """Learn chunks in order, all or nothing.

        Returns
        -------
        float
            Mean loss over all rows; NaN: rolled back.
        """
        total, rows = 0.0, 0
        self.begin(len(chunks))
        for chunk in chunks:
            loss = self.compute(chunk)
            if math.isnan(loss):
                self.rollback()
                return math.nan
            self.apply()
            total += loss * chunk.encoded.n
            rows += chunk.encoded.n
        self.commit()
        return total / rows if rows else 0.0

    def counts(self) -> list[Tensor]:
        """Batch norm's counters of batches."""
        return [b for n, b in self.net.named_buffers() if n.endswith("num_batches_tracked")]

    # -- keep

    def set_rates(self, lr: float, embedding_lr: float) -> None:
        """Change the learning rates."""
        self.flat.set_lr(lr)
        self.embedding_lr = embedding_lr

    def dense_state(self) -> dict[str, NDArray[Any]]:
        """Copies of every dense tensor, by name."""
        return {f"{self.spec.name}/{name}": value for name, value in self.flat.state().items()}

    def table_names(self) -> list[str]:
        return [f"{self.spec.name}/rows{table.dim}" for table in self.tables]

    def take_rows(self) -> Rows:
        """Rows changed since the last call, with their payload (values, then accumulator)."""
        out: Rows = {}
        for name, table in zip(self.table_names(), self.tables, strict=True):
            index = table.unsaved.take()
            out[name] = (index, table.payload(index))
        return out

    def load(self, dense: Mapping[str, NDArray[Any]], rows: Rows) -> None:
        """Set an untouched arm to a captured state: dense tensors, and every row ever captured."""
        prefix = f"{self.spec.name}/"
        self.flat.load_state({n.removeprefix(prefix): v for n, v in dense.items() if n.startswith(prefix)})
        for name, table in zip(self.table_names(), self.tables, strict=True):
            if name in rows:
                table.load(*rows[name])

    def reset(self) -> None:
        """Back to the initial tables (the dense state is set by ``load``)."""
        for table in self.tables:
            table.reset()
