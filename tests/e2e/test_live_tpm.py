"""TPM on a real broker: months from a Kafka range, and from the running stream with a kill -9 around a month's end."""

from __future__ import annotations

import pytest
from rich.console import Console

from ecdctr.commands.rebuild import rebuild
from ecdctr.commands.tpm_train import train_tpm
from ecdctr.settings import Loaded
from ecdctr.state.snapshots import RocksEmbeddingStore, SnapshotManifest
from tests.support.sites import Site, frame

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.brokers(
        "embedded", reason="when a month closes does not depend on the broker, and takes long"
    ),
]

FIRST = 5_600
"""Number of the first event: 800 seconds before 2023-11-15 (UTC), where a month of one day ends."""


@pytest.fixture
def live(broker, tmp_path):
    """A site whose worker trains the tiny model from one partition per topic, so that rows have one order."""
    made = Site(
        tmp_path / "live",
        broker,
        "topics.partitions=1",
        "model.history=attention",
        "tpm.live=true",
        "tpm.month=1d",
        "tpm.batch=100",
        "schedule.release_every=5m",
        "schedule.first_release_after=5m",
    )
    yield made
    made.end()


def months(folder) -> dict[str, SnapshotManifest]:
    store = RocksEmbeddingStore(folder)
    found = {month: store.manifest(month) for month in store.months()}
    for month in found:
        store.verify(month)
    store.close()
    return found


def test_a_month_closes_live_is_used_and_survives_kill_9(live, tmp_path):
    total = 1_800
    live.produce(frame(860, FIRST))
    # 1. Killed as soon as the month's snapshot is on disk, and again when it is in use.
    worker = live.start()
    live.wait(lambda: live.folders.snapshots.is_dir() and "2023-11-14" in months(live.folders.snapshots),
              "the snapshot of the month that closed", worker)  # fmt: skip
    live.kill(worker)
    live.produce(frame(total - 860, FIRST + 860))
    worker = live.start()
    live.wait(lambda: any(e.kind == "month" for e in live.entries()), "the month in use", worker)
    live.kill(worker)
    worker = live.start()
    live.train(total, worker)
    code, _ = live.terminate(worker)
    assert code == 0, live.log()
    assert live.books() == (0, 0)

    # 2. It takes part from a release after the month's end on.
    entries = live.entries()
    begins = next(e for e in entries if e.kind == "month")
    assert begins.extra["months"] == ["2023-11-14"]
    assert any(e.kind == "release" and e.step > begins.step for e in entries)
    (manifest,) = months(live.folders.snapshots).values()
    assert manifest.last_ts < begins.clock

    # 3. Redone from the log: the same model and the same snapshot, bit for bit.
    redone = rebuild(Console(quiet=True), live.settings)
    assert redone.identical, redone.verdict
    assert redone.engine.trainer.versions["tpm"] == ["2023-11-14"]

    # 4. `ecdctr tpm train kafka` makes the same snapshot of the same rows, in another state folder.
    state = live.settings.state.model_copy(update={"folder": tmp_path / "offline"})
    settings = live.settings.model_copy(update={"state": state})
    loaded = Loaded(settings, {"features": "test"})
    quiet = Console(quiet=True)
    assert train_tpm(quiet, quiet, loaded, "kafka") == ["2023-11-14", "2023-11-15"]
    assert months(tmp_path / "offline" / "snapshots")["2023-11-14"] == manifest


def test_a_range_of_offsets_is_trained_and_the_worker_continues_from_there(live, tmp_path):
    """Past months by command, later ones from the stream: the snapshot equals that of one pass over both."""
    quiet = Console(quiet=True)
    first, rest = frame(1_000, FIRST), frame(800, FIRST + 1_000)
    live.produce(first)
    loaded = Loaded(live.settings, {"features": "test"})
    assert train_tpm(quiet, quiet, loaded, "kafka", until="2023-11-15") == ["2023-11-14"]
    live.produce(rest)
    worker = live.start()
    live.train(1_800, worker)
    live.terminate(worker)
    assert "TPM continues from" in live.log()
    (enabled,) = [e for e in live.entries() if e.kind == "tpm"]
    assert enabled.extra["from"] is not None
    assert any(e.kind == "month" and e.extra["months"] == ["2023-11-14"] for e in live.entries())
    redone = rebuild(quiet, live.settings)
    assert redone.identical, redone.verdict
    # What it has learned since is what one pass over all rows would have learned.
    state = live.settings.state.model_copy(update={"folder": tmp_path / "offline"})
    whole = Loaded(live.settings.model_copy(update={"state": state}), {"features": "test"})
    assert train_tpm(quiet, quiet, whole, "kafka") == ["2023-11-14", "2023-11-15"]
    mine = redone.engine.trainer.live_tpm.trainer
    mine.close_month()
    store = RocksEmbeddingStore(tmp_path / "offline" / "snapshots")
    ids, vectors = mine.users.vectors()
    found, present = store.lookup("user", ids, ["2023-11-15"])
    assert present.all() and (found[:, 0] == vectors).all()
    store.close()
