"""Builds the decoder, the trainer and the engine from the configuration."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.decoding import decoder, input_settings, reads_snapshots
from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka import KafkaLog
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.models.arms import arms_fingerprint, select_arms
from ecdctr.models.settings import ModelSettings
from ecdctr.models.streaming_features import StreamingFeatures, extended_specs
from ecdctr.models.tpm import LiveSink, LiveTpm, SnapshotSink, TpmTrainer, tpm_shape
from ecdctr.models.training import Engine, Trainer
from ecdctr.replay.metrics import PairedGate
from ecdctr.replay.play import BufferedScores, FrozenArm, RowNotes
from ecdctr.settings import Settings
from ecdctr.state.checkpoints import CheckpointStore, MemoryCheckpointStore
from ecdctr.state.errors import ConfigError
from ecdctr.state.folder_format import write_format
from ecdctr.state.journals import Journal, MemoryJournal, NoJournal
from ecdctr.state.positions import Positions
from ecdctr.state.row_logs import AdWindow, ScoreLog
from ecdctr.state.settings import StateSettings
from ecdctr.state.snapshots import (
    EmbeddingStore,
    RocksEmbeddingStore,
    SnapshotCheck,
    SnapshotWriter,
    link_snapshots,
)

if TYPE_CHECKING:
    from ecdctr.streams.worker import Worker

__all__ = [
    "Folders",
    "arms",
    "decoder",
    "frozen_arm",
    "input_settings",
    "kafka_log",
    "live_engine",
    "memory_engine",
    "model_settings",
    "reads_snapshots",
    "replay_engine",
    "shape_of_tpm",
    "snapshot_store",
    "tpm_states",
    "tpm_trainer",
    "use_features",
    "worker",
]


class Folders:
    """Paths of the parts of a state folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoints = root / "checkpoints"
        self.journal = root / "journal"
        self.snapshots = root / "snapshots"
        self.tpm = root / "tpm"
        self.ad_window = root / "ad-window"
        self.scores = root / "scores"


def arms(settings: Settings) -> tuple[str, ...]:
    """Arms that this configuration scores: columns ``p_<arm>`` of the score log."""
    return select_arms(settings.model).scored


def use_features(settings: Settings, specs: Sequence[FeatureSpec], *, configured: bool) -> Settings:
    """The settings with a source's own features, unless the user configured some."""
    return settings if configured else settings.model_copy(update={"features": tuple(specs)})


def snapshot_store(settings: Settings, folder: Path | None = None) -> EmbeddingStore | None:
    """The TPM snapshots of the state folder (or another); None when the models do not read any."""
    if not reads_snapshots(settings):
        return None
    folder = Folders(settings.state.folder if folder is None else folder).snapshots
    return RocksEmbeddingStore(folder, cache_rows=settings.state.cache_rows)


def tpm_trainer(
    settings: Settings, sink: SnapshotSink | None = None, *, threads: int | None = None
) -> TpmTrainer:
    """A TPM trainer; its months go to ``sink``, by default the state folder."""
    schema = FeatureSchema(settings.features, settings.model.dim)
    to = Folders(settings.state.folder).snapshots if sink is None else sink
    return TpmTrainer(schema, model_settings(settings, threads), settings.tpm, to)


def tpm_states(settings: Settings) -> CheckpointStore:
    """States of TPM that `ecdctr tpm train` saved and from which training continues."""
    return CheckpointStore(Folders(settings.state.folder).tpm, keep=3)


def shape_of_tpm(settings: Settings) -> list[Any]:
    """What two TPM trainers must share for one to load the other's state."""
    fingerprint = FeatureSchema(settings.features, settings.model.dim).fingerprint()
    return tpm_shape(fingerprint, settings.tpm.dim, settings.tpm.hidden)


def _learns_live(settings: Settings) -> bool:
    return settings.tpm.live and reads_snapshots(settings)


def _live_tpm(settings: Settings, sink: LiveSink, threads: int | None) -> LiveTpm:
    def make(to: SnapshotSink) -> TpmTrainer:
        return tpm_trainer(settings, to, threads=threads)

    return LiveTpm(make, sink, tpm_states(settings), shape_of_tpm(settings))


def kafka_log(settings: Settings, events: EventDecoder) -> KafkaLog:
    """The two click topics, read by offset."""
    return KafkaLog(settings.kafka, events, settings.topics.domains)


def _model_schema(settings: Settings) -> FeatureSchema:
    """The features that the models read: the configured ones, and the streaming features if they are on."""
    return FeatureSchema(extended_specs(settings.features, settings.streaming_features), settings.model.dim)


def _streaming(settings: Settings) -> StreamingFeatures | None:
    if settings.streaming_features.mode == "off":
        return None
    return StreamingFeatures(
        FeatureSchema(settings.features, settings.model.dim), settings.streaming_features
    )


def _fingerprint(schema: FeatureSchema, settings: Settings) -> str:
    """Changes when parameters of one configuration would not fit the other."""
    shape = settings.model.model_dump(
        include={"dim", "interaction", "cross_layers", "hidden", "history", "seed", "embedding_init"}
    )
    shape |= arms_fingerprint(settings.model)
    text = json.dumps(
        [schema.fingerprint(), shape, settings.tpm.dim, settings.tpm.k], sort_keys=True, default=str
    )
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def model_settings(settings: Settings, threads: int | None = None) -> ModelSettings:
    """The model's settings with the number of threads filled in.

    One core is left to the event loop that feeds the trainer: torch's threads synchronise at every
    operation, and without a free core a step takes up to twenty times as long.
    """
    wanted = threads or settings.model.threads or max(1, (os.cpu_count() or 2) - 1)
    return settings.model.model_copy(update={"threads": wanted})


def _trainer(
    settings: Settings,
    schema: FeatureSchema,
    window: AdWindow,
    store: EmbeddingStore | None,
    sink: LiveSink | None,
    threads: int | None = None,
) -> Trainer:
    """Built in one way everywhere, so that replays and repeated journals compute what a worker computed, bit for bit."""
    model = model_settings(settings, threads)
    gate = PairedGate() if settings.schedule.gate else None
    live = None if sink is None else _live_tpm(settings, sink, threads)
    return Trainer(
        schema,
        model,
        settings.schedule,
        settings.tpm,
        store,
        window,
        gate=gate,
        live_tpm=live,
        streaming=_streaming(settings),
    )


def worker(settings: Settings, make_engine: Callable[..., Engine] | None = None) -> Worker:
    """The worker of a configuration.

    Parameters
    ----------
    settings
        The configuration.
    make_engine
        Makes its engine from the hooks of :func:`live_engine`, for one whose steps are to be watched; default that
        function itself.
    """
    from ecdctr.streams.worker import Worker  # importing Faust is slow, and few commands need it

    def engine(**hooks: Any) -> Engine:
        return live_engine(settings, **hooks)

    return Worker(
        make_engine=make_engine or engine,
        decoder=decoder(settings),
        make_log=lambda events: kafka_log(settings, events),
        kafka=settings.kafka,
        topics=settings.topics,
        worker=settings.worker,
        monitor=settings.monitor,
        state_folder=settings.state.folder,
        natural_batch=settings.model.natural_batch,
        ad_batch=settings.model.ad_batch,
    )


def live_engine(
    settings: Settings,
    *,
    on_checkpoint: Callable[[Positions], None] | None = None,
    on_skipped: Callable[[Batch, NDArray[np.intp], str], None] | None = None,
) -> Engine:
    """An engine on the state folder; the caller holds the folder's lock.

    Raises
    ------
    StateError
        The folder cannot be used: another version wrote it, it is damaged, or it cannot be written.
    """
    write_format(settings.state.folder)
    folders = Folders(settings.state.folder)
    schema = _model_schema(settings)
    window = AdWindow(folders.ad_window, schema.n_features, schema.n_dense, settings.schedule.ad_window_days)
    sink = SnapshotWriter(RocksEmbeddingStore(folders.snapshots, cache_rows=1))
    trainer = _trainer(settings, schema, window, snapshot_store(settings), sink)
    return Engine(
        trainer,
        journal=Journal(folders.journal, fsync=settings.state.fsync_journal),
        checkpoints=CheckpointStore(folders.checkpoints, keep=settings.state.keep_checkpoints),
        # The monitor reads them again after a restart; damaged rows must not end the worker.
        scores=ScoreLog(folders.scores, arms(settings), skip_damaged=True),
        ad_window=window,
        settings=settings.state,
        fingerprint=_fingerprint(schema, settings),
        on_checkpoint=on_checkpoint,
        on_skipped=on_skipped,
        live_tpm=_learns_live(settings),
        inputs=input_settings(settings),
    )


def memory_engine(settings: Settings, *, threads: int | None = None, notes: RowNotes | None = None) -> Engine:
    """An engine that stores everything in memory, for replays. The TPM snapshots of the state folder are read; months that
    close are compared with them, not written.

    ``threads`` overrides the configured number: only the same number gives the same results bit for bit. ``notes``:
    additional columns of the score log.
    """
    notes = notes or RowNotes()
    schema = _model_schema(settings)
    window = AdWindow(None, schema.n_features, schema.n_dense, settings.schedule.ad_window_days)
    store = snapshot_store(settings)
    trainer = _trainer(settings, schema, window, store, SnapshotCheck(store), threads)
    never = StateSettings(
        folder=settings.state.folder,
        checkpoint_every_s=10**9,
        checkpoint_every_steps=10**15,
        score_days=36_500,
    )
    return Engine(
        trainer,
        journal=MemoryJournal(),
        checkpoints=MemoryCheckpointStore(),
        scores=ScoreLog(None, arms(settings), notes=notes.columns),
        ad_window=window,
        settings=never,
        fingerprint=_fingerprint(schema, settings),
        score_skipped=True,
        note=notes.at_scoring(trainer),
        live_tpm=_learns_live(settings),
    )


def replay_engine(
    settings: Settings, folder: Path, *, checkpoint_every_s: float = 60.0, notes: RowNotes | None = None
) -> Engine:
    """An engine that stores everything that grows with the log on disk, in ``folder``, for replays in constant memory.

    Only the TPM snapshots of the state folder are read. If TPM also learns from the log, it continues from the state that
    `ecdctr tpm train` saved, and months that close are written to ``folder``, together with links to the existing ones.
    ``notes``: additional columns of the score log.
    """
    notes = notes or RowNotes()
    folders = Folders(folder)
    schema = _model_schema(settings)
    window = AdWindow(folders.ad_window, schema.n_features, schema.n_dense, settings.schedule.ad_window_days)
    live = _learns_live(settings)
    if live:
        link_snapshots(Folders(settings.state.folder).snapshots, folders.snapshots)
    store = snapshot_store(settings, folder if live else None)
    sink = SnapshotWriter(RocksEmbeddingStore(folders.snapshots, cache_rows=1), background=False)
    trainer = _trainer(settings, schema, window, store, sink)
    state = StateSettings(
        folder=folder,
        checkpoint_every_s=checkpoint_every_s,
        checkpoint_every_steps=10**15,
        keep_checkpoints=1,
        score_days=36_500,
    )
    return Engine(
        trainer,
        journal=NoJournal(),
        checkpoints=CheckpointStore(folders.checkpoints, keep=state.keep_checkpoints),
        scores=BufferedScores(folders.scores, arms(settings), notes=notes.columns),
        ad_window=window,
        settings=state,
        fingerprint=_fingerprint(schema, settings),
        score_skipped=True,
        note=notes.at_scoring(trainer),
        live_tpm=live,
    )


def frozen_arm(settings: Settings, checkpoint: Path, folder: Path) -> FrozenArm:
    """The model of a checkpoint, which learns nothing; its scores go to ``folder``.

    The TPM snapshots are those of the state folder that contains the checkpoint, if it has any, else those of the
    configured state folder.
    """
    if not checkpoint.is_dir():
        raise ConfigError(
            f"there is no checkpoint {checkpoint}: name its folder, as state/checkpoints/00000003-step-500"
        )
    schema = _model_schema(settings)
    loaded = CheckpointStore(checkpoint.parent).load(checkpoint.name)
    made, wanted = loaded.meta["fingerprint"], _fingerprint(schema, settings)
    if made != wanted:
        raise ConfigError(
            f"checkpoint {checkpoint} was made with other features or networks (fingerprint {made}, configured {wanted}): "
            "replay with the configuration that it was made with"
        )
    own = Folders(checkpoint.parent.parent)
    if own.snapshots.is_dir() and any(own.snapshots.iterdir()):
        settings = settings.model_copy(
            update={"state": settings.state.model_copy(update={"folder": own.root})}
        )
    window = AdWindow(None, schema.n_features, schema.n_dense, settings.schedule.ad_window_days)
    trainer = _trainer(settings, schema, window, snapshot_store(settings), None)
    trainer.restore(loaded)
    return FrozenArm(trainer, ScoreLog(Folders(folder).scores, ("actr", "cpm")))
