"""A state folder of an older version opens, its journal is redone, and training continues from it.

The folder was written by ``ecdctr worker`` before the packages were moved, with RocksDB snapshots, live months and
releases; the worker was killed (signal 9) between two checkpoints. The log that it learned from is recorded with it, and
contains further records that have not been learned. ``record_state.py`` made both.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from rich.console import Console

from ecdctr import factory
from ecdctr.commands.rebuild import rebuild
from ecdctr.events.schema import FeatureSchema
from ecdctr.models.training import audit
from ecdctr.state.checkpoints import CheckpointStore
from ecdctr.state.folder_format import check_format
from ecdctr.state.row_logs import AdWindow, ScoreLog
from ecdctr.state.snapshots import RocksEmbeddingStore
from tests.compat.machine import difference
from tests.compat.state_folder import Site, facts, read_topics, unpack
from tests.support.brokers import start_broker
from tests.support.waiting import PATIENCE_S

FACTS = facts()
WHY_NO_BITS = difference(FACTS["machine"])
same_bits = pytest.mark.skipif(WHY_NO_BITS is not None, reason=str(WHY_NO_BITS))
TOTAL = {kind: FACTS["rows_learned"][kind] + FACTS["rows_to_come"][kind] for kind in ("natural", "ad")}


@pytest.fixture(scope="module")
def broker():
    """A separate broker, because the names and offsets of the recorded topics are fixed."""
    started = start_broker()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def on_broker(broker, tmp_path_factory):
    """The recorded folder, and its log at the same offsets of a fresh broker."""
    site = Site(unpack(tmp_path_factory.mktemp("old")), broker.address)
    site.restore_log()
    yield site
    site.end()


@pytest.fixture(scope="module")
def resumed(on_broker):
    """The same after a worker of the present version has learned the rest; ``before`` is the audit made before that."""
    on_broker.before = rebuild(Console(quiet=True), on_broker.settings)
    on_broker.send_rest()
    worker = on_broker.start()
    on_broker.train(worker)
    on_broker.exit_code = on_broker.terminate(worker)
    return on_broker


def test_everything_in_the_folder_opens(tmp_path):
    site = Site(unpack(tmp_path))
    store = CheckpointStore(site.folders.checkpoints)
    names = [info.name for info in store.list()]
    assert names == FACTS["checkpoints"]
    loaded = [store.load(name) for name in names]  # checksums are compared
    assert {checkpoint.meta["fingerprint"] for checkpoint in loaded} == {FACTS["fingerprint"]}
    assert factory.tpm_states(site.settings).newest() is not None

    entries = site.entries()
    assert [e.step for e in entries] == list(range(FACTS["last_step"] + 1))
    kinds = {e.kind for e in entries}
    assert {kind: sum(e.kind == kind for e in entries) for kind in kinds} == FACTS["entries"]

    snapshots = RocksEmbeddingStore(site.folders.snapshots)
    assert snapshots.months() == FACTS["snapshots"]
    for month in snapshots.months():
        snapshots.verify(month)
    snapshots.close()

    scores = ScoreLog(site.folders.scores, read_only=True)
    newest = loaded[-1].meta
    assert len(scores) >= sum(newest["scores"].values()) > 0
    assert set(factory.arms(site.settings)) == set(scores.arms)
    schema = FeatureSchema(site.settings.features, site.settings.model.dim)
    days = site.settings.schedule.ad_window_days
    window = AdWindow(site.folders.ad_window, schema.n_features, schema.n_dense, days)
    window.truncate({int(day): n for day, n in newest["ad_window"].items()})
    assert len(window) == newest["progress"]["rows"]["ad"]
    window.close()


def test_an_engine_of_the_present_version_has_the_same_fingerprint(tmp_path):
    site = Site(unpack(tmp_path))
    assert factory.memory_engine(site.settings).fingerprint == FACTS["fingerprint"]


@pytest.mark.broker
@pytest.mark.slow
def test_a_worker_redoes_the_journal_and_continues_with_exact_counts(resumed):
    log = resumed.log()
    assert resumed.exit_code == 0, log
    newest = CheckpointStore(resumed.folders.checkpoints).newest()
    assert newest is not None
    last_recorded = int(FACTS["checkpoints"][-1].split("-step-")[1])
    assert f"journal: {FACTS['last_step'] - last_recorded} steps to redo" in log
    for complaint in ("is damaged", "cannot be used", "do not fit", "other features or networks"):
        assert complaint not in log
    assert newest.meta["progress"]["rows"] == TOTAL
    assert newest.meta["progress"]["skipped_rows"] == 0
    assert audit(iter(resumed.entries()), resumed.ends()) == (0, 0)

    ads = ScoreLog(resumed.folders.scores, read_only=True).read(domain=1)
    assert len(ads["ts"]) == TOTAL["ad"]
    for folder in (resumed.folders.scores, resumed.folders.ad_window):
        days = {path.stem for path in folder.glob("*.rows")}
        assert days == {path.stem for path in folder.glob("*.sums")} != set(), "they got checksums"
    check_format(resumed.folders.root)
    assert (resumed.folders.root / "format.json").exists()
    assert newest.meta["inputs"]["topics.ad"] == resumed.settings.topics.ad

    entries = resumed.entries()
    assert any(e.kind == "release" and e.step > FACTS["last_step"] for e in entries)
    topics = resumed.settings.topics
    letters = list(read_topics(resumed.settings.kafka, map(topics.dead_letter, topics.domains), {}))
    assert len(letters) == FACTS["dead_letters"] + FACTS["dead_letters_to_come"]


@pytest.mark.broker
@pytest.mark.slow
@same_bits
def test_the_recorded_journal_gives_the_recorded_checkpoint_bit_for_bit(resumed):
    assert resumed.before.identical, resumed.before.verdict
    assert resumed.before.base is None
    assert resumed.before.checkpoint == FACTS["checkpoints"][-1]


@pytest.mark.broker
@pytest.mark.slow
@same_bits
def test_replay_of_the_journal_is_identical_after_training_continued(resumed):
    assert "predicts otherwise" not in resumed.log()
    done = subprocess.run(
        [sys.executable, "-m", "ecdctr", "replay", "--journal", "--config", str(resumed.config)],
        capture_output=True, text=True, timeout=2 * PATIENCE_S, cwd=resumed.config.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("identical"), done.stdout
