"""A small world for tests of models: features, batches, snapshots, trainers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.step import Step
from ecdctr.events.time import DAY_MS
from ecdctr.models.settings import ModelSettings, ScheduleSettings, TpmSettings
from ecdctr.models.training import Gate, StepResult, Trainer
from ecdctr.state.checkpoints import Capture, Loaded, merge_rows
from ecdctr.state.row_logs import AdWindow
from ecdctr.state.snapshots import MemoryEmbeddingStore

START_MS = 1_767_225_600_000  # 2026-01-01


def small_schema(dim: int = 4) -> FeatureSchema:
    """Every kind of feature, two widths, a bag."""
    return FeatureSchema(
        [
            FeatureSpec(name="user", field="user_id", buckets=60, tpm=True),
            FeatureSpec(name="item", field="item_id", buckets=40, tpm=True),
            FeatureSpec(name="site", buckets=10, dim=3, tpm=True),
            FeatureSpec(name="tags", kind="bag", buckets=20, max_length=3, tpm=True),
            FeatureSpec(name="price", kind="numeric"),
            FeatureSpec(name="age", kind="numeric"),
        ],
        dim=dim,
    )


@dataclass
class World:
    """Creates everything that a test of models needs; the same settings and seeds give the same objects."""

    schema: FeatureSchema = field(default_factory=small_schema)
    tpm: TpmSettings = field(
        default_factory=lambda: TpmSettings(dim=4, month="10d", month_origin="2026-01-01", batch=64)
    )
    users: int = 50
    items: int = 30

    def model(self, **changes: Any) -> ModelSettings:
        base: dict[str, Any] = {
            "dim": 4,
            "hidden": (8, 6),
            "natural_batch": 64,
            "ad_batch": 32,
            "cross_layers": 2,
            "transfer": "reload",
        }
        return ModelSettings(**(base | changes))

    def trainer(
        self,
        *,
        store: MemoryEmbeddingStore | None = None,
        window: AdWindow | None = None,
        schedule: dict[str, Any] | None = None,
        gate: Gate | None = None,
        **changes: Any,
    ) -> Trainer:
        settings = ScheduleSettings(
            **({"release_every": "2d", "first_release_after": "1d"} | (schedule or {}))
        )
        if window is None:
            window = self.window()
        return Trainer(
            self.schema, self.model(**changes), settings, self.tpm, store, window, device="cpu", gate=gate
        )

    def window(self, days: int = 30) -> AdWindow:
        return AdWindow(None, self.schema.n_features, self.schema.n_dense, days)

    def batch(
        self, n: int, domain: int = NATURAL, *, at: int = START_MS, seed: int = 0, span: int = 1000
    ) -> Batch:
        """``n`` random rows from event time ``at`` on; clicks depend on the user, the item and the price."""
        rng = np.random.default_rng([seed, domain, n])
        user, item = rng.integers(0, self.users, n), rng.integers(0, self.items, n)
        features = np.empty((n, self.schema.n_features), np.int32)
        features[:, 0], features[:, 1] = user % 60 + 1, item % 40 + 1
        features[:, 2] = rng.integers(0, 11, n)
        features[:, 3:] = rng.integers(0, 21, (n, 3))
        dense = rng.normal(size=(n, 2)).astype(np.float32)
        z = np.sin(user * 1.7) + np.cos(item * 2.3) + 0.5 * dense[:, 0] - 1.0 - domain
        return Batch(
            ts=at + np.sort(rng.integers(0, span, n)),
            domain=np.full(n, domain, np.uint8),
            user=user.astype(np.uint64) * np.uint64(7919) + np.uint64(3),
            item=item.astype(np.uint64) * np.uint64(104729) + np.uint64(5),
            features=features,
            dense=dense,
            label=(rng.random(n) < 1 / (1 + np.exp(-z))).astype(np.float32),
        )

    def stream(self, steps: int, *, seed: int = 0, hours: int = 3, begin: int = START_MS) -> list[Batch]:
        """Batches of both domains and all sizes, ``hours`` of event time apart."""
        rng = np.random.default_rng([seed, 99])
        return [
            self.batch(
                int(rng.integers(0, 90)),
                AD if rng.random() < 0.5 else NATURAL,
                at=begin + i * hours * 3_600_000,
                seed=seed * 10_000 + i,
            )
            for i in range(steps)
        ]

    def store(self, months: int = 3, *, seed: int = 0, begin: int = START_MS) -> MemoryEmbeddingStore:
        """Snapshots of ten days each that contain about two thirds of the ids; the last one ends before ``begin``."""
        store = MemoryEmbeddingStore()
        rng = np.random.default_rng([seed, 5])
        every = self.batch(4000)
        for month in range(months):
            vectors = []
            for column in (every.user, every.item):
                ids = np.unique(column)
                ids = ids[rng.random(len(ids)) < 0.66]
                vectors.append((ids, rng.normal(0, 0.5, (len(ids), self.tpm.dim)).astype(np.float32)))
            last = begin - 1 - (months - 1 - month) * 10 * DAY_MS
            store.write(f"m{month}", self.tpm.dim, last, vectors[0], vectors[1], first_ts=last - 10 * DAY_MS)
        return store


def play(trainer: Trainer, batches: list[Batch]) -> list[StepResult]:
    """Run the steps as the engine does: months and releases that are due follow each step."""
    results = []
    for batch in batches:
        results.append(trainer.step(Step.from_batch(batch)))
        months = trainer.months_due(trainer.clock)
        if months is not None:
            trainer.use_months(months)
        if trainer.release_due(trainer.clock) is not None:
            trainer.release(trainer.clock)
    return results


def loaded(captures: list[Capture]) -> Loaded:
    """What a store loads after these captures were saved one after another."""
    return Loaded("test", captures[-1].dense, merge_rows([c.rows for c in captures]), captures[-1].meta)


def copy_of(world: World, window: AdWindow) -> AdWindow:
    """A window of its own with the same rows."""
    other = world.window()
    for chunk in window.chunks(1000):
        other.append(chunk)
    return other
