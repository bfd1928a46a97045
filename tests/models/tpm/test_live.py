"""TPM trained from the running stream: when months close, when they are read, and that crashes lose nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecdctr.events.batch import AD, DOMAIN_NAMES, NATURAL, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.step import Step, StepKind
from ecdctr.models.arms import select_arms
from ecdctr.models.settings import ModelSettings, ScheduleSettings, TpmSettings
from ecdctr.models.tpm.live import LiveSink, LiveTpm, tpm_shape
from ecdctr.models.tpm.trainer import TpmTrainer
from ecdctr.models.training import Engine, Trainer
from ecdctr.state.checkpoints import Capture, CheckpointStore, MemoryCheckpointStore
from ecdctr.state.errors import StateError
from ecdctr.state.journals import Journal, JournalEntry, MemoryJournal
from ecdctr.state.positions import Part
from ecdctr.state.row_logs import AdWindow, ScoreLog
from ecdctr.state.settings import StateSettings
from ecdctr.state.snapshots import MemoryEmbeddingStore, RocksEmbeddingStore, SnapshotCheck, SnapshotWriter

HOUR = 3_600_000
DAY = 24 * HOUR
SPECS = (
    FeatureSpec(name="user", field="user_id", buckets=200, tpm=True),
    FeatureSpec(name="item", field="item_id", buckets=50, tpm=True),
    FeatureSpec(name="site", buckets=10, tpm=True),
)
SCHEMA = FeatureSchema(SPECS, 4)
MODEL = ModelSettings(dim=4, hidden=(8,), cross_layers=1, natural_batch=32, ad_batch=16, threads=1)
ARMS = select_arms(MODEL).scored
TPM = TpmSettings(dim=4, month="2d", batch=48)
SCHEDULE = ScheduleSettings(release_every="12h", first_release_after="12h", ad_window_days=5)
STEPS = 72  # six days, three months


def plan(steps: int = STEPS, begin: int = 0) -> list[tuple[StepKind, Batch, int]]:
    """A step every two hours of event time, with offsets as the aligner would give them."""
    positions = dict.fromkeys(DOMAIN_NAMES, 0)
    out = []
    for step in range(steps):
        rng = np.random.default_rng([step, 7])
        domain = AD if step % 3 == 2 else NATURAL
        n = int(rng.integers(20, 40))
        user, item = rng.integers(1, 200, n), rng.integers(1, 50, n)
        name = DOMAIN_NAMES[domain]
        first = positions[name]
        positions[name] += n
        ts = begin + 2 * step * HOUR + np.sort(rng.integers(0, 2 * HOUR, n))
        batch = Batch(
            ts=ts.astype(np.int64),
            domain=np.full(n, domain, np.uint8),
            user=user.astype(np.uint64),
            item=item.astype(np.uint64),
            features=np.stack([user, item, rng.integers(1, 11, n)], axis=1).astype(np.int32),
            dense=np.empty((n, 0), np.float32),
            label=(rng.random(n) < 0.3).astype(np.float32),
            parts=(Part(name, 0, first, first + n),),
        )
        out.append((StepKind.from_domain(domain), batch, int(ts.max())))
    return out


def make_live_tpm(tpm: TpmSettings, sink: LiveSink, trained: CheckpointStore | None) -> LiveTpm:
    shape = tpm_shape(SCHEMA.fingerprint(), tpm.dim, tpm.hidden)
    return LiveTpm(lambda to: TpmTrainer(SCHEMA, MODEL, tpm, to), sink, trained, shape)


def make_engine(folder: Path, *, live: bool = True, tpm: TpmSettings = TPM, every: int = 7) -> Engine:
    """An engine on a folder, as a worker uses it."""
    window = AdWindow(folder / "ad-window", SCHEMA.n_features, SCHEMA.n_dense, 5)
    store = RocksEmbeddingStore(folder / "snapshots")
    sink = SnapshotWriter(RocksEmbeddingStore(folder / "snapshots"))
    tpm_model = make_live_tpm(tpm, sink, CheckpointStore(folder / "tpm"))
    return Engine(
        Trainer(SCHEMA, MODEL, SCHEDULE, tpm, store, window, live_tpm=tpm_model),
        journal=Journal(folder / "journal"),
        checkpoints=CheckpointStore(folder / "checkpoints"),
        scores=ScoreLog(folder / "scores", ARMS),
        ad_window=window,
        settings=StateSettings(folder=folder, checkpoint_every_steps=every, checkpoint_every_s=1e9),
        fingerprint="test",
        live_tpm=live,
    )


def run(engine: Engine, steps: list[tuple[StepKind, Batch, int]], stop: int | None = None) -> None:
    """Recover, then run the steps that the positions do not cover yet."""
    for entry in engine.recover():
        engine.redo(entry, rows_of(steps, entry))
    for kind, batch, clock in steps[:stop]:
        part = batch.parts[0]
        if part.first >= engine.positions.get((part.topic, 0), 0):
            engine.run(Step(kind, batch, clock))
            engine.trainer.live_tpm.settle()  # so that every run reads a month from the same step on


def redone(folder: Path, steps: list[tuple[StepKind, Batch, int]]) -> Engine:
    """Redo the folder's journal from step 0 in memory; its snapshots are read and compared, nothing is written."""
    window = AdWindow(None, SCHEMA.n_features, SCHEMA.n_dense, 5)
    store = RocksEmbeddingStore(folder / "snapshots")
    tpm_model = make_live_tpm(TPM, SnapshotCheck(store), None)
    engine = Engine(
        Trainer(SCHEMA, MODEL, SCHEDULE, TPM, store, window, live_tpm=tpm_model),
        journal=MemoryJournal(),
        checkpoints=MemoryCheckpointStore(),
        scores=ScoreLog(None, ARMS),
        ad_window=window,
        settings=StateSettings(folder=folder, checkpoint_every_steps=10**9, checkpoint_every_s=1e9),
        fingerprint="test",
    )
    for entry in Journal(folder / "journal", read_only=True).entries():
        engine.redo(entry, rows_of(steps, entry))
    return engine


def rows_of(steps: list[tuple[StepKind, Batch, int]], entry: JournalEntry) -> Batch | None:
    return next((b for _, b, _ in steps if entry.parts and b.parts == entry.parts), None)


def offline(steps: list[tuple[StepKind, Batch, int]]) -> tuple[MemoryEmbeddingStore, TpmTrainer]:
    """The months that `ecdctr tpm train` makes of the same rows, without the last one."""
    store = MemoryEmbeddingStore()
    trainer = TpmTrainer(SCHEMA, MODEL, TPM, store)
    trainer.learn(Batch.concat([b for kind, b, _ in steps if kind == "natural"]))
    return store, trainer


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    engine = make_engine(tmp_path_factory.mktemp("straight"))
    run(engine, plan())
    engine.checkpoint(wait=True)
    yield engine
    engine.close()


def test_months_close_in_the_stream_and_are_used_from_the_next_release_on(straight: Engine) -> None:
    folder = straight.settings.folder
    store = RocksEmbeddingStore(folder / "snapshots")
    assert store.months() == ["1970-01-01", "1970-01-03"]
    entries = list(Journal(folder / "journal", read_only=True).entries())
    assert entries[0].kind == "tpm" and entries[0].extra == {"learns": True, "from": None}
    for number, month in enumerate(store.months()):
        end = 2 * DAY * (number + 1)
        assert store.manifest(month).last_ts < end
        begins = next(e for e in entries if e.kind == "month" and month in e.extra["months"])
        following = next(e for e in entries if e.kind == "release" and e.step > begins.step)
        assert end < begins.clock < end + 4 * HOUR, (
            "the month is used from the step after the one that closed it"
        )
        report = next(r for r in straight.releases if r.clock_ms == following.clock)
        assert report.months[-1] == month
        assert all(month not in r.months for r in straight.releases if r.clock_ms < begins.clock)
    store.close()


def test_live_snapshots_equal_those_of_the_offline_pipeline_bit_for_bit(straight: Engine) -> None:
    expected, trainer = offline(plan())
    store = RocksEmbeddingStore(straight.settings.folder / "snapshots")
    assert store.months() == expected.months()
    for month in store.months():
        assert store.manifest(month) == expected.manifest(month)
        store.verify(month)
    tpm_model = straight.trainer.live_tpm.trainer
    assert (tpm_model.rows_learned, tpm_model.month) == (trainer.rows_learned, trainer.month)
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("crashes", [(24, 25), (1, 26, 30), (48, 49, 50, 71)])
def test_a_crash_around_a_months_end_changes_nothing(
    tmp_path: Path, straight: Engine, crashes: tuple[int, ...]
) -> None:
    """Steps 24 and 48 close a month."""
    steps = plan()
    for stop in crashes:
        engine = make_engine(tmp_path)
        run(engine, steps, stop)
        engine._finish_save()  # as after a kill: no close(), no last checkpoint
        engine.journal.close()
    engine = make_engine(tmp_path)
    run(engine, steps)
    assert engine.trainer.state_hash() == straight.trainer.state_hash()
    assert engine.first_difference is None
    engine.close()


@pytest.mark.slow
def test_a_snapshot_lost_in_a_crash_is_made_again(tmp_path: Path, straight: Engine) -> None:
    """Killed after the month closed and before its snapshot was on disk: no checkpoint is newer than the month."""
    steps, closed = plan(), []
    engine = make_engine(tmp_path, every=10**6)
    sink = engine.trainer.live_tpm.sink
    sink.write = lambda *args, **more: closed.append(args[0])  # is never written to disk
    sink.settle = lambda months=None: (_ for _ in ()).throw(StateError("no space left on device"))
    for entry in engine.recover():
        raise AssertionError(entry)
    for kind, batch, clock in steps[:40]:
        engine.run(Step(kind, batch, clock))
    assert closed == ["1970-01-01"]
    engine.checkpoint()
    engine._finish_save()
    assert engine.progress.checkpoint_failures == 1 and engine.checkpoints.list() == []
    engine.journal.close()

    engine = make_engine(tmp_path)
    run(engine, steps)
    store = RocksEmbeddingStore(tmp_path / "snapshots")
    assert store.months() == ["1970-01-01", "1970-01-03"]
    first = straight.settings.folder / "snapshots"
    for month in store.months():
        assert store.manifest(month) == RocksEmbeddingStore(first).manifest(month)
    store.close()
    engine.close()


def test_rows_of_a_failed_checkpoint_are_in_the_next_one(tmp_path: Path) -> None:
    steps = plan()
    engine = make_engine(tmp_path, every=10**6)
    settle = engine.trainer.live_tpm.sink.settle
    list(engine.recover())
    for i, (kind, batch, clock) in enumerate(steps[:40]):
        engine.run(Step(kind, batch, clock))
        settle()
        if i == 30:
            engine.trainer.live_tpm.sink.settle = lambda months=None: (_ for _ in ()).throw(
                StateError("full")
            )
            engine.checkpoint(wait=True)
            engine.trainer.live_tpm.sink.settle = settle
    engine.checkpoint(wait=True)
    assert (engine.progress.checkpoint_failures, engine.progress.checkpoints) == (1, 1)
    engine.journal.close()
    other = make_engine(tmp_path)
    assert list(other.recover()) == []
    assert other.trainer.state_hash() == engine.trainer.state_hash()
    other.close()


def test_the_journal_alone_gives_the_same_model_and_the_same_months(tmp_path: Path, straight: Engine) -> None:
    again = redone(straight.settings.folder, plan())
    assert again.trainer.state_hash() == straight.trainer.state_hash()
    assert again.first_difference is None and again.trainer.live_tpm.sink.differences == []


def test_live_training_continues_from_offline_training(tmp_path: Path) -> None:
    """Months of files, then the stream: the same result as one pass over both; rows already learned are skipped."""
    steps = plan()
    history, rest = steps[:30], steps[20:]  # the stream begins with rows that the files contain, too
    _, trained = offline(history)
    capture = trained.capture()
    CheckpointStore(tmp_path / "tpm").save(
        Capture(
            capture.dense,
            capture.rows,
            capture.meta | {"step": 1, "shape": tpm_shape(SCHEMA.fingerprint(), 4, TPM.hidden)},
        )
    )
    RocksEmbeddingStore(tmp_path / "snapshots").close()
    engine = make_engine(tmp_path)
    run(engine, rest)
    engine.checkpoint(wait=True)
    expected, trainer = offline(steps)
    store = RocksEmbeddingStore(tmp_path / "snapshots")
    assert store.months() == ["1970-01-03"], "the first month was closed by offline training"
    assert store.manifest("1970-01-03") == expected.manifest("1970-01-03")
    assert engine.trainer.live_tpm.trainer.rows_learned == trainer.rows_learned
    engine.journal.close()
    other = make_engine(tmp_path)  # its checkpoint contains the state of offline training
    assert list(other.recover()) == []
    assert other.trainer.state_hash() == engine.trainer.state_hash()
    store.close()
    other.close()


def test_tpm_of_another_size_is_refused(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    run(engine, plan(10))
    engine.close()
    other = make_engine(tmp_path, tpm=TPM.model_copy(update={"hidden": (16,)}))
    with pytest.raises(StateError, match="other features or sizes of TPM"):
        list(other.recover())
    other.journal.close()


def test_live_training_is_switched_as_configured_and_journaled(tmp_path: Path) -> None:
    steps = plan()
    learned = []
    for live, stop in ((False, 10), (True, 20), (False, 30), (True, 40)):
        engine = make_engine(tmp_path, live=live)
        run(engine, steps, stop)
        tpm_model = engine.trainer.live_tpm.trainer
        learned.append(0 if tpm_model is None else tpm_model.rows_learned)
        state = engine.trainer.state_hash()
        engine.close()
    assert learned[0] == 0 < learned[1] and learned[2] - learned[1] == 0 < learned[3] - learned[2]
    kinds = [e for e in Journal(tmp_path / "journal", read_only=True).entries() if e.kind == "tpm"]
    assert [e.extra["learns"] for e in kinds] == [True, False, True]
    assert redone(tmp_path, steps).trainer.state_hash() == state
