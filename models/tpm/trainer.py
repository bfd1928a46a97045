"""TPM, the tiny pre-training model: long-term natural clicks -> monthly user and item vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ecdctr.events.batch import Batch
from ecdctr.events.schema import ColumnGroup, FeatureSchema
from ecdctr.models.nets import (
    MAX_LOSS,
    EmbeddingTable,
    Encoded,
    FlatModule,
    IdMap,
    InputEncoder,
    TableLayout,
    choose_device,
    embed,
    gradient_of,
    initialise,
    use_threads,
)
from ecdctr.models.settings import ModelSettings, TpmSettings
from ecdctr.models.tpm.months import Month, month_of
from ecdctr.state.checkpoints import Capture, Loaded, Rows
from ecdctr.state.snapshots import RocksEmbeddingStore, SnapshotManifest, Vectors

__all__ = ["IdTable", "SnapshotSink", "TpmModel", "TpmTrainer", "month_of"]


class SnapshotSink(Protocol):
    """Receives the vectors of a closed month: an :class:`EmbeddingStore`, or an object that writes to one later."""

    def write(
        self, month: str, dim: int, last_ts: int, users: Vectors, items: Vectors, **more: Any
    ) -> SnapshotManifest | None:
        """See :func:`ecdctr.state.snapshots.snapshot.write_snapshot`.

        Returns None if the sink writes the snapshot later. The caller must not change the arrays afterwards.
        """
        ...


ID_FIELDS = ("user_id", "item_id")
"""Fields for which TPM stores one embedding row per id. Features that read these fields get no hashed table."""


class IdTable:
    """Embedding rows addressed by 64-bit id; the table grows as ids are added. All unknown ids share row 0.

    Parameters
    ----------
    table
        The rows; extended as ids are added.
    """

    def __init__(self, table: EmbeddingTable) -> None:
        self.map = IdMap()
        self.table = table

    def rows(self, ids: NDArray[np.uint64], *, add: bool) -> NDArray[np.int64]:
        """Row of each distinct id. Unknown ids are added if ``add`` is true, otherwise mapped to row 0."""
        if not add:
            return self.map.find(ids) + 1
        rows = self.map.add(ids) + 1
        if len(self.map) + 1 > self.table.rows:
            self.table.grow(max(2 * self.table.rows, len(self.map) + 1))
        return rows

    def vectors(self) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """All ids with their vectors."""
        values: NDArray[np.float32] = self.table.weight[1 : len(self.map) + 1].cpu().numpy().copy()
        return self.map.ids(), values


class TpmModel(nn.Module):
    """Embeddings -> shallow MLP -> logit, plus the dot product of user and item vector.

    There is no batch norm and no interaction layer, so that what is learned is stored in the embedding rows; only the rows of
    users and items are transferred. The dot product makes the vectors of a user and an item comparable without the MLP, which
    is not transferred. CPM gets their element-wise product as an input.

    Parameters
    ----------
    layouts
        Layouts of the tables of the hashed features.
    settings
        Sizes.
    """

    def __init__(self, layouts: tuple[TableLayout, ...], settings: TpmSettings) -> None:
        super().__init__()
        width = settings.dim * (2 + sum(layout.n_vectors for layout in layouts))
        widths = [width, *settings.hidden]
        self.layouts = layouts
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(widths[-1], 1)

    def forward(self, user: Tensor, item: Tensor, rows: list[Tensor], encoded: Encoded) -> Tensor:
        """Logits ``(n,)`` from user and item vectors ``(n, d)`` and the distinct rows of the other features."""
        parts = [user, item]
        for layout, table, values in zip(self.layouts, encoded.tables, rows, strict=True):
            parts.append(embed(layout, table, values).flatten(1))
        hidden = torch.cat(parts, dim=1)
        for linear in self.linear:
            hidden = torch.relu_(linear(hidden))
        logit: Tensor = self.out(hidden)
        return logit.squeeze(1) + (user * item).sum(1)


@dataclass(frozen=True, slots=True, eq=False)
class _Ids:
    """Distinct ids of a chunk in one id table."""

    rows: NDArray[np.int64]
    at: Tensor
    inverse: Tensor


class TpmTrainer:
    """Learns natural rows in event order and writes a snapshot at each month's end.

    Rows are learned in chunks of exactly ``tpm.batch``, except at the end of a month; therefore a month's snapshot depends only
    on the rows and their order, not on how they were divided into batches.

    Parameters
    ----------
    schema
        Features; TPM reads the ids themselves and the features marked ``tpm``.
    model
        Initial values, seed and device, as for the other models.
    tpm
        Settings of TPM.
    snapshots
        Receives closed months: a store, its folder, or a sink. If None, months are not saved.
    device
        Overrides ``model.device``.

    Attributes
    ----------
    month
        The current month; None before the first row and after :meth:`close_month`.
    written
        Labels of the months whose vectors were passed to the sink, including those of a restored state.
    rows_learned, rows_skipped, rows_late
        Numbers of rows so far: learned; skipped because the loss or a gradient was not finite or the loss exceeded ``MAX_LOSS``;
        learned in a later month than their own. Rows of an incomplete chunk are not counted yet.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        model: ModelSettings,
        tpm: TpmSettings,
        snapshots: SnapshotSink | Path | None = None,
        device: str | None = None,
    ) -> None:
        use_threads(model.threads)
        self.settings, self.schema = tpm, schema
        self.device = choose_device(device or model.device)
        self._store: SnapshotSink | None = (
            RocksEmbeddingStore(snapshots) if isinstance(snapshots, Path) else snapshots
        )
        hashed = [
            replace(g, dim=tpm.dim) for g in schema.categorical if g.tpm and g.spec.field not in ID_FIELDS
        ]
        self.encoder = InputEncoder(schema, self.device, hashed)
        self.net = TpmModel(self.encoder.layouts, tpm)
        initialise(self.net, model.seed)
        self.flat = FlatModule(self.net, self.device, tpm.lr)

        def table(rows: int, stream: int) -> EmbeddingTable:
            return EmbeddingTable(
                rows,
                tpm.dim,
                seed=model.seed,
                stream=stream,
                sd=model.embedding_init,
                accumulator=model.adagrad_accumulator,
                device=self.device,
            )

        # ``stream`` selects the random numbers of the initial values. The other models use the embedding size as stream, so
        # larger numbers are used here.
        self.users, self.items = IdTable(table(1024, 1 << 32)), IdTable(table(1024, 2 << 32))
        self.tables = [table(layout.rows, 3 << 32) for layout in self.encoder.layouts]
        self._features: list[ColumnGroup] = hashed
        self.month: Month | None = None
        self._first_ts = self._last_ts = -1
        self._month_rows = 0
        self._waiting: list[Batch] = []
        self._n_waiting = 0
        self.written: list[str] = []
        self.rows_learned = self.rows_skipped = self.rows_late = 0

    # -- learn

    def learn(self, batch: Batch) -> list[SnapshotManifest]:
        """Learn natural rows, once each.

        1. Rows of the current month are learned, and late rows of earlier months with them.
        2. A row after the month's end closes it (:meth:`close_month`); the row's own month becomes the current one.

        Returns
        -------
        list of SnapshotManifest
            Manifests of the closed months; months that the sink writes later are not included.
        """
        closed: list[SnapshotManifest] = []
        while len(batch):
            if self.month is None:
                self.month = month_of(int(batch.ts.min()), self.settings)
            inside = batch.ts < self.month.end_ms
            self._learn(batch if inside.all() else batch.take(inside))
            if inside.all():
                break
            manifest = self.close_month()
            if manifest is not None:
                closed.append(manifest)
            batch = batch.take(~inside)
        return closed

    def close_month(self) -> SnapshotManifest | None:
        """Close the current month and pass its vectors to the sink.

        1. The rows of the incomplete chunk are learned.
        2. The snapshot contains the vector of every id trained so far, not only of the month's ids: the vector of an absent id
           is retained, and training continues from the same tables, so that all months share one coordinate system.
        3. ``last_ts`` is the latest event time of the rows from which these vectors were trained.
        4. Training continues from the current parameters; the next row determines the next month.

        Returns
        -------
        SnapshotManifest or None
            None if the month has no learned rows, there is no store, or the sink writes it later.
        """
        self._flush()
        month, self.month = self.month, None
        rows, self._month_rows = self._month_rows, 0
        first, self._first_ts = self._first_ts, -1
        if month is None or not rows or self._store is None:
            return None
        manifest = self._store.write(
            month.label,
            self.settings.dim,
            self._last_ts,
            self.users.vectors(),
            self.items.vectors(),
            first_ts=first,
            features=["user_id", "item_id", *(g.name for g in self._features)],
        )
        self.written.append(month.label)
        return manifest

    def finish(self) -> list[str]:
        """Close the current month with the rows received so far; called at the end of the input.

        Returns
        -------
        list of str
            Labels of all months passed to the sink, oldest first.
        """
        self.close_month()
        return list(self.written)

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """Click probabilities ``(n,)``; nothing is learned, unknown ids share one row."""
        with torch.no_grad():
            user, item = self._ids(self.users, batch.user, False), self._ids(self.items, batch.item, False)
            encoded = self.encoder.encode(batch)
            rows = [t.gather(r.at) for t, r in zip(self.tables, encoded.tables, strict=True)]
            logit = self.net(
                functional.embedding(user.inverse, self.users.table.gather(user.at)),
                functional.embedding(item.inverse, self.items.table.gather(item.at)),
                rows,
                encoded,
            )
            out: NDArray[np.float32] = torch.sigmoid(logit).cpu().numpy()
        return out

    @property
    def last_ts(self) -> int:
        """Latest event time received so far, ms, including rows of an incomplete chunk; -1 before the first row."""
        return max([self._last_ts, *(int(b.ts.max()) for b in self._waiting)])

    def _learn(self, batch: Batch) -> None:
        size = self.settings.batch
        begin = 0
        while begin < len(batch):
            part = batch.take(slice(begin, begin + size - self._n_waiting))
            begin += len(part)
            self._waiting.append(part)
            self._n_waiting += len(part)
            if self._n_waiting == size:
                self._flush()

    def _flush(self) -> None:
        waiting, self._waiting, self._n_waiting = self._waiting, [], 0
        if waiting:
            self._learn_chunk(Batch.concat(waiting))

    def _learn_chunk(self, batch: Batch) -> None:
        assert self.month is not None
        encoded = self.encoder.encode(batch)
        ids = [self._ids(self.users, batch.user, True), self._ids(self.items, batch.item, True)]
        targets = [self.users.table, self.items.table, *self.tables]
        at = [i.at for i in ids] + [r.at for r in encoded.tables]
        for table, index in zip(
            targets, [*(i.rows for i in ids), *(r.index for r in encoded.tables)], strict=True
        ):
            table.unsaved.mark(index)  # even if the step fails: new ids are in the map from here on
        leaves = [table.gather(a).requires_grad_() for table, a in zip(targets, at, strict=True)]
        self.flat.zero_gradient()
        logit = self.net(
            functional.embedding(ids[0].inverse, leaves[0]),
            functional.embedding(ids[1].inverse, leaves[1]),
            leaves[2:],
            encoded,
        )
        total = functional.binary_cross_entropy_with_logits(logit, encoded.label, reduction="sum")
        torch.autograd.backward([total / self.settings.batch])
        gradients = [gradient_of(leaf) for leaf in leaves]
        squares = [g.square().mean(1) for g in gradients]
        check = self.flat.gradient.sum() + sum(s.sum() for s in squares)
        loss = float(total.detach()) / len(batch)
        if not math.isfinite(loss) or loss > MAX_LOSS or not bool(torch.isfinite(check)):
            self.rows_skipped += len(batch)
            return
        self.flat.step()
        for table, a, leaf, gradient, square in zip(targets, at, leaves, gradients, squares, strict=True):
            table.update(a, leaf.detach(), gradient, square, self.settings.embedding_lr)
        self.rows_learned += len(batch)
        self.rows_late += int((batch.ts < self.month.begin_ms).sum())
        self._month_rows += len(batch)
        first, last = int(batch.ts.min()), int(batch.ts.max())
        self._first_ts = first if self._first_ts < 0 else min(self._first_ts, first)
        self._last_ts = max(self._last_ts, last)

    def _ids(self, table: IdTable, ids: NDArray[np.uint64], add: bool) -> _Ids:
        unique, inverse = np.unique(ids, return_inverse=True)
        rows = table.rows(unique, add=add)
        return _Ids(rows, torch.from_numpy(rows).to(self.device), torch.from_numpy(inverse).to(self.device))

    # -- state

    def capture(self) -> Capture:
        """Dense tensors, the rows of the incomplete chunk, and the embedding rows (with their ids) that changed since the last
        capture."""
        rows: Rows = {}
        for name, ids in (("user", self.users), ("item", self.items)):
            index = ids.table.unsaved.take()
            rows[f"tpm/{name}"] = (index, ids.table.payload(index))
            rows[f"tpm/{name}_id"] = (index, ids.map.ids()[index - 1].reshape(-1, 1))
        for i, table in enumerate(self.tables):
            index = table.unsaved.take()
            rows[f"tpm/table{i}"] = (index, table.payload(index))
        dense = {f"tpm/{name}": value for name, value in self.flat.state().items()}
        if self._waiting:
            columns = Batch.concat(self._waiting).columns()
            dense |= {f"tpm-waiting/{name}": column for name, column in columns.items()}
        return Capture(dense=dense, rows=rows, meta={"tpm": self._meta()})

    def _meta(self) -> dict[str, Any]:
        return {
            "month": None if self.month is None else list(self.month),
            "first_ts": self._first_ts,
            "last_ts": self._last_ts,
            "month_rows": self._month_rows,
            "written": list(self.written),
            "rows": [self.rows_learned, self.rows_skipped, self.rows_late],
        }

    def restore(self, loaded: Loaded, *, other_store: bool = False) -> None:
        """Restore a captured state. The trainer must be in its initial state. Training then gives bit-identical results.

        ``other_store``: later captures are saved to another checkpoint store, so the first of them must contain all rows.
        """
        self.flat.load_state(
            {n.removeprefix("tpm/"): v for n, v in loaded.dense.items() if n.startswith("tpm/")}
        )
        for name, ids in (("user", self.users), ("item", self.items)):
            index, payload = loaded.rows[f"tpm/{name}"]
            known = loaded.rows[f"tpm/{name}_id"][1].reshape(-1)
            ids.rows(known, add=True)  # in the order of row numbers: each id gets its previous row
            ids.table.load(index, payload)
            if other_store:
                ids.table.unsaved.mark(index)
        for i, table in enumerate(self.tables):
            index, payload = loaded.rows[f"tpm/table{i}"]
            table.load(index, payload)
            if other_store:
                table.unsaved.mark(index)
        meta = loaded.meta["tpm"]
        self.month = None if meta["month"] is None else Month(*meta["month"])
        self._first_ts, self._last_ts = int(meta["first_ts"]), int(meta["last_ts"])
        self._month_rows = int(meta["month_rows"])
        self.written = list(meta["written"])
        self.rows_learned, self.rows_skipped, self.rows_late = (int(n) for n in meta["rows"])
        waiting: dict[str, Any] = {
            name.removeprefix("tpm-waiting/"): value
            for name, value in loaded.dense.items()
            if name.startswith("tpm-waiting/")
        }
        self._waiting = [Batch(**waiting)] if waiting else []
        self._n_waiting = sum(map(len, self._waiting))
