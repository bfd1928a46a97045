"""The tests that try to break it: random kill -9, rebalances and a take-over, then the books are checked.

``make chaos`` runs the long form; ``tests/chaos/test_chaos.py`` a shorter one inside ``make test``.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console

from ecdctr import factory
from ecdctr.commands.rebuild import rebuild
from ecdctr.models.training import audit
from ecdctr.replay.sources import Simulator
from ecdctr.settings import dump_toml, load_settings
from ecdctr.state.journals import Journal
from ecdctr.streams.embedded import EmbeddedBroker
from ecdctr.streams.producer import produce
from ecdctr.streams.topics import ensure_topics
from tests.support.journals import JournalReader
from tests.support.waiting import PATIENCE_S, wait_for

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Outcome:
    """What the run was put through, and what is left of it."""

    rows: int
    kills: int = 0
    rebalances: int = 0
    takeover_s: float | None = None
    steps: int = 0
    months: int = 0
    """Times that a TPM month, closed in the stream, came into use."""
    steps_redone: int = 0
    lost: int = -1
    doubled: int = -1
    verdict: str = ""
    exit_code: int | None = None
    end_s: float | None = None
    """Seconds from SIGTERM to the end of the last worker."""
    seconds: float = 0.0
    log: Path = field(default_factory=Path)

    def __str__(self) -> str:
        takeover = "none" if self.takeover_s is None else f"{self.takeover_s:.1f} s"
        return (
            f"rows {self.rows:,}  kills {self.kills}  rebalances {self.rebalances}  take-over {takeover}  "
            f"steps {self.steps:,}  TPM months {self.months}  steps redone {self.steps_redone:,}  lost {self.lost}  doubled {self.doubled}\n"
            f"final parameters against an uninterrupted run of the same journal: {self.verdict}  ({self.seconds:.0f} s)"
        )


class Chaos:
    """One run: ``kills`` kill -9 at seeded points of a log of about ``rows`` rows."""

    def __init__(
        self, folder: Path, *, rows: int, kills: int, rebalances: int, takeover: bool, seed: int = 0,
        decoders: int = 0,
    ) -> None:  # fmt: skip
        self.decoders = decoders
        self.folder, self.kills, self.rebalances, self.takeover = folder, kills, rebalances, takeover
        self.rng = np.random.default_rng(seed)
        days = 12
        per_day = rows // days
        self.simulator = Simulator(
            seed, days=days, live_from=0, users=500, items=200,
            natural_per_day=per_day - per_day // 21, ads_per_day=per_day // 21,
        )  # fmt: skip
        self.outcome = Outcome(rows=0, log=folder / "worker.log")
        self.processes: list[subprocess.Popen[bytes]] = []
        self.slices: list[pl.DataFrame] = []

    def run(self) -> Outcome:
        """Do it all; the caller judges the outcome."""
        began = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        with EmbeddedBroker(log_file=self.folder / "broker.log") as broker:
            self._configure(broker.address)
            ensure_topics(self.settings.kafka, self.settings.topics)
            frames = list(self.simulator.frames())
            self.slices = [pl.concat(part) for part in _split(frames, self.kills + 1)]
            self._produce_slice()
            try:
                self._torment()
            finally:
                for process in self.processes:
                    if process.poll() is None:
                        process.kill()
                        process.wait()
            self._check_books()
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def _configure(self, address: str) -> None:
        settings = load_settings(
            None,
            [
                f'kafka.brokers=["{address}"]',
                "topics.partitions=4",
                f'state.folder="{self.folder / "state"}"',
                "state.checkpoint_every_s=2",
                "state.checkpoint_every_steps=150",
                f"worker.decoders={self.decoders}",
                "worker.session_timeout_s=2",
                "worker.max_idle_s=1",
                "worker.max_wait_s=1",
                "monitor.port=0",
                "model.dim=8",
                "model.hidden=[32, 16]",
                "model.threads=1",
                "model.natural_batch=128",
                "model.ad_batch=32",
                "tpm.live=true",
                "tpm.dim=8",
                "tpm.month=2d",
                'schedule.release_every="2d"',
            ],
            environ={},
        ).settings
        self.settings = factory.use_features(settings, self.simulator.feature_specs(), configured=False)
        self.config = self.folder / "ecdctr.toml"
        self.config.write_text(dump_toml(self.settings), encoding="utf-8")
        self.journal = factory.Folders(self.settings.state.folder).journal
        self.reader = JournalReader(self.journal)

    # -- the torment

    def _produce_slice(self) -> None:
        """Send the next part of the log: every life of the worker finds new rows."""
        self.outcome.rows += sum(
            produce([self.slices.pop(0)], self.settings.kafka, self.settings.topics).values()
        )

    def _torment(self) -> None:
        rebalance_at = set(
            self.rng.choice(self.kills, size=min(self.rebalances, self.kills), replace=False).tolist()
        )
        takeover_at = int(self.rng.integers(self.kills)) if self.takeover else -1
        worker = self._start()
        done = 0
        for i in range(self.kills):
            target = done + int(self.rng.uniform(0.05, 0.95) * (self.outcome.rows - done))
            self._wait_for(lambda t=target: self._trained() >= t, worker, f"learn row {target}")
            if i in rebalance_at:
                self._foreign_member()
            standby = self._start("--standby") if i == takeover_at else None
            if standby is not None:
                self._wait_for(lambda: "standby: waiting" in self._log_text(), standby, "stand by")
            done = self.outcome.rows
            self._produce_slice()
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            self.outcome.kills += 1
            if standby is None:
                worker = self._start()
                continue
            died, before = time.monotonic(), self._steps()
            worker = standby
            self._wait_for(lambda b=before: self._steps() > b, worker, "take over")
            self.outcome.takeover_s = time.monotonic() - died
        self._wait_for(lambda: self._trained() >= self.outcome.rows, worker, "learn every row")
        worker.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        self.outcome.exit_code = worker.wait(timeout=PATIENCE_S)
        self.outcome.end_s = time.monotonic() - asked

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ECDCTR_")}
        with self.outcome.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ecdctr", "worker", "--config", str(self.config), *options],
                stdout=log, stderr=log, env=environment, cwd=ROOT,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def _foreign_member(self) -> None:
        """Another process joins the group, takes partitions away for a moment, and leaves."""
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("foreign_member.py")), str(self.config)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True,
        )  # fmt: skip
        self.processes.append(process)  # type: ignore[arg-type]
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        if ready and "assigned" in process.stdout.readline():
            self.outcome.rebalances += 1
        process.send_signal(signal.SIGKILL if self.outcome.rebalances % 2 else signal.SIGTERM)
        process.wait(timeout=PATIENCE_S)

    # -- looking on

    def _steps(self) -> int:
        steps = self.reader.update().steps
        return steps[-1][0] + 1 if steps else 0

    def _trained(self) -> int:
        return sum(n for _, n in self.reader.update().steps)

    def _log_text(self) -> str:
        return self.outcome.log.read_text(errors="replace")

    def _wait_for(self, done: Callable[[], bool], worker: subprocess.Popen[bytes], what: str) -> None:
        def alive() -> str | None:
            return None if worker.poll() is None else f"the worker ended with {worker.returncode}"

        wait_for(done, what, within_s=2 * PATIENCE_S, alive=alive, detail=self._tail)

    def _tail(self) -> str:
        return "\n".join(self._log_text().splitlines()[-40:])

    # -- the books

    def _check_books(self) -> None:
        with factory.kafka_log(self.settings, factory.decoder(self.settings)) as log:
            ends = log.end(log.partitions())
        assert sum(ends.values()) == self.outcome.rows
        self.outcome.steps = self._steps()
        entries = Journal(self.journal, read_only=True).entries()
        self.outcome.months = sum(entry.kind == "month" for entry in entries)
        self.outcome.lost, self.outcome.doubled = audit(Journal(self.journal, read_only=True).entries(), ends)
        self.outcome.steps_redone = sum(
            int(line.split("journal: ")[1].split()[0])
            for line in self._log_text().splitlines()
            if "journal: " in line and "steps redone" in line
        )
        self.outcome.verdict = rebuild(Console(stderr=True), self.settings).verdict


def _split(frames: list[pl.DataFrame], parts: int) -> list[list[pl.DataFrame]]:
    """The log in ``parts`` runs of rows of about equal length."""
    whole = pl.concat(frames)
    edges = np.linspace(0, whole.height, parts + 1).astype(int)
    return [[whole[a:b]] for a, b in itertools.pairwise(edges.tolist())]
