"""A separate site for each test: topics on a real broker, a state folder, and workers as separate processes."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import pytest
from kafka import KafkaProducer
from rich.console import Console

from ecdctr import factory
from ecdctr.commands.rebuild import Rebuilt, rebuild
from ecdctr.events.settings import FeatureSpec
from ecdctr.models.training import audit
from ecdctr.settings import Settings, dump_toml, load_settings
from ecdctr.state.checkpoints import CheckpointStore
from ecdctr.state.journals import Journal, JournalEntry
from ecdctr.state.positions import Positions
from ecdctr.state.snapshots import write_snapshot
from ecdctr.streams.producer import produce
from ecdctr.streams.topics import ensure_topics
from tests.support.brokers import Broker, OwnBroker, unique_name
from tests.support.journals import JournalReader
from tests.support.topics import read_topic
from tests.support.waiting import PATIENCE_S, wait_for, wait_until_equal
from tests.support.worker_processes import RunningProcess, start_worker

START_MS = 1_700_000_000_000
USERS, ITEMS = 60, 40
SPECS = (
    FeatureSpec(name="user", field="user_id", buckets=1000),
    FeatureSpec(name="item", field="item_id", buckets=1000),
    FeatureSpec(name="price", kind="numeric"),
)
_STYLE = re.compile(r"\x1b\[[0-9;]*m| +(?=\n)")  # colours, and the spaces that pad a line
T = TypeVar("T")


def frame(rows: int, first: int = 0, ad_every: int = 4) -> pl.DataFrame:
    """Events ``first .. first + rows`` of an endless seeded log, one a second: any cut gives the same rows."""
    number = np.arange(first, first + rows)
    bits = np.random.Generator(np.random.Philox(key=5)).random((first + rows, 4))[first:]
    user, item = (bits[:, 0] * USERS).astype(int), (bits[:, 1] * ITEMS).astype(int)
    price = bits[:, 2]
    p = 1 / (1 + np.exp(-(0.08 * (user % 20) - 0.1 * (item % 15) + price - 0.5)))
    return pl.DataFrame(
        {
            "domain": np.where(number % ad_every == 0, "ad", "natural"),
            "event_id": number,
            "ts": START_MS + 1000 * number,
            "user_id": [f"u{u}" for u in user],
            "item_id": item,
            "label": (bits[:, 3] < p).astype(int),
            "price": price,
        }
    )


class Site:
    """Two topics, one state folder, and the workers that a test starts on it.

    Parameters
    ----------
    broker
        A broker of a fixture, or an address.
    copy_of
        A site whose topics this one uses.
    """

    def __init__(
        self, folder: Path, broker: Broker | OwnBroker | str, *overrides: str, copy_of: Site | None = None
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.name = copy_of.name if copy_of else unique_name("s")
        self.broker = broker
        address = broker if isinstance(broker, str) else broker.address
        self.log_path = folder / "worker.log"
        self.processes: list[RunningProcess] = []
        base = load_settings(
            None,
            [
                f'kafka.brokers=["{address}"]',
                f"topics.natural={self.name}-natural",
                f"topics.ad={self.name}-ad",
                "topics.partitions=2",
                f'state.folder="{folder / "state"}"',
                "state.checkpoint_every_s=1000",
                "state.checkpoint_every_steps=20",
                f"worker.group={self.name}",
                "worker.max_idle_s=0.5",
                "worker.max_wait_s=0.5",
                "monitor.port=0",
                "model.dim=4",
                "model.hidden=[8]",
                "model.history=none",
                "model.threads=1",
                "model.natural_batch=64",
                "model.ad_batch=16",
                "tpm.dim=4",
                "schedule.first_release_after=10m",
                "schedule.release_every=20m",
                *overrides,
            ],
            environ={},
        ).settings
        self.settings: Settings = factory.use_features(base, SPECS, configured=False)
        self.config = folder / "ecdctr.toml"
        self.config.write_text(dump_toml(self.settings), encoding="utf-8")
        self.folders = factory.Folders(self.settings.state.folder)
        self._journal = JournalReader(self.folders.journal)
        if copy_of is None:
            self.make_topics()

    # -- actions

    def make_topics(self) -> None:
        ensure_topics(self.settings.kafka, self.settings.topics)

    def produce(self, rows: int | pl.DataFrame, first: int = 0) -> None:
        """Rows ``first .. first + rows`` of the log, or a frame."""
        rows = frame(rows, first) if isinstance(rows, int) else rows
        produce([rows], self.settings.kafka, self.settings.topics)

    def send(self, topic: str, values: list[bytes]) -> None:
        """Send messages without encoding them, to the partitions in turn."""
        producer = KafkaProducer(**self.settings.kafka.kafka_python())
        try:
            for i, value in enumerate(values):
                producer.send(topic, value, partition=i % self.settings.topics.partitions).get(
                    timeout=PATIENCE_S
                )
        finally:
            producer.close()

    def start(self, *options: str, new_interpreter: bool = False) -> RunningProcess:
        """Start a worker; its output is appended to the log.

        ``new_interpreter``: as a user starts it; otherwise the imports are already done (``worker_processes.py``).
        """
        process = start_worker(
            ["worker", "--config", str(self.config), *options], self.log_path, new_interpreter=new_interpreter
        )
        self.processes.append(process)
        return process

    def wait(
        self,
        done: Callable[[], T],
        what: str,
        worker: RunningProcess | None = None,
    ) -> T:
        """Wait until ``done`` returns a true value, and return it; fail if the worker ends before."""

        return wait_for(done, what, alive=self._alive(worker), detail=self.log)

    def wait_until_equal(self, read: Callable[[], T], expected: T, what: str, worker: RunningProcess) -> None:
        """Read until the value is ``expected``; fail if the worker ends before."""
        wait_until_equal(read, expected, what, alive=self._alive(worker))

    @staticmethod
    def _alive(worker: RunningProcess | None) -> Callable[[], str | None]:
        def alive() -> str | None:
            if worker is None or worker.poll() is None:
                return None
            return f"the worker ended with {worker.returncode}"

        return alive

    def train(self, rows: int, worker: RunningProcess) -> None:
        """Wait until this many offsets are learned, and the step that learned the last one has ended."""
        self.wait(lambda: self.learned() >= rows, f"learn {rows} rows", worker)

    def terminate(self, worker: RunningProcess) -> tuple[int, float]:
        """Send SIGTERM; returns the exit code and the seconds until the end."""
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        return worker.wait(timeout=PATIENCE_S), time.monotonic() - began

    @contextmanager
    def paused(self, worker: RunningProcess) -> Iterator[None]:
        """Suspend the worker (SIGSTOP); a signal sent in the meantime is delivered afterwards."""
        worker.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            worker.send_signal(signal.SIGCONT)

    def kill(self, worker: RunningProcess) -> None:
        """kill -9."""
        worker.send_signal(signal.SIGKILL)
        worker.wait()

    def copy(self, folder: Path, *overrides: str) -> Site:
        """The same topics with a copy of the state folder, without shared hard links: damage stays in the copy."""
        shutil.copytree(self.folders.root, folder / "state")
        return Site(folder, self.broker, *overrides, copy_of=self)

    def end(self) -> None:
        """Kill all workers that still run."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    # -- observations

    def log(self) -> str:
        """The output of all workers."""
        return _STYLE.sub("", self.log_path.read_text(errors="replace")) if self.log_path.exists() else ""

    def says(self, text: str) -> Callable[[], bool]:
        """A condition for :meth:`wait`: the log contains this text."""
        return lambda: text in self.log()

    def entries(self) -> list[JournalEntry]:
        return (
            list(Journal(self.folders.journal, read_only=True).entries())
            if self.folders.journal.is_dir()
            else []
        )

    def learned(self) -> int:
        """Offsets that the journal has planned, both topics."""
        return self._journal.update().learned

    def checkpoints(self) -> list[str]:
        """Names, oldest first."""
        return [info.name for info in CheckpointStore(self.folders.checkpoints).list()]

    def at_checkpoint(self) -> dict[tuple[str, int], int]:
        """Positions of the newest checkpoint."""
        loaded = CheckpointStore(self.folders.checkpoints).newest()
        assert loaded is not None
        return dict(Positions.from_json(loaded.meta["positions"]))

    def ends(self) -> dict[tuple[str, int], int]:
        with factory.kafka_log(self.settings, factory.decoder(self.settings)) as log:
            return log.end(log.partitions())

    def books(self) -> tuple[int, int]:
        """Number of offsets that the journal lost, and that it holds twice."""
        return audit(iter(self.entries()), self.ends())

    def rebuild(self, settings: Settings | None = None) -> Rebuilt:
        """Compare the newest checkpoint with the journal redone from the log by a fresh model."""
        return rebuild(Console(quiet=True), settings or self.settings)

    def read(self, topic: str) -> list:
        """All records of a topic; none where there is no such topic."""
        return read_topic(self.settings.kafka, topic)

    def snapshots(self, months: dict[str, int]) -> None:
        """Write TPM snapshots to RocksDB: ``{month: event second that its last row precedes}``."""
        decoded = factory.decoder(self.settings).from_frame(frame(4000)).batch
        users, items = np.unique(decoded.user), np.unique(decoded.item)
        rng = np.random.default_rng(1)
        for month, second in months.items():
            write_snapshot(
                self.folders.snapshots, month, 4, START_MS + 1000 * second - 1,
                (users, rng.normal(size=(len(users), 4)).astype(np.float32)),
                (items, rng.normal(size=(len(items), 4)).astype(np.float32)),
            )  # fmt: skip


@pytest.fixture(scope="session")
def killed(broker, tmp_path_factory) -> Iterator[Site]:
    """A worker was killed with signal 9: several checkpoints, and steps in the journal past the newest one.

    It reads TPM snapshots from RocksDB, one of which took effect midway, and it has made CPM releases.
    """
    made = Site(tmp_path_factory.mktemp("killed"), broker, "model.history=attention")
    made.snapshots({"month-1": 0, "month-2": 1500})
    made.produce(4000)
    worker = made.start()
    made.train(4000, worker)
    made.kill(worker)
    assert {e.kind for e in made.entries()} == {"natural", "ad", "month", "release"}
    assert len(made.checkpoints()) >= 3
    yield made
    made.end()


@pytest.fixture
def site(broker, tmp_path) -> Iterator[Site]:
    """A site on the shared broker."""
    made = Site(tmp_path / "site", broker)
    yield made
    made.end()
