"""The tests that try to break it: random kill -9, rebalances and a take-over, then the books are checked.

``make chaos`` runs the long form; ``tests/chaos/test_chaos.py`` a shorter one inside ``make test``.
"""

from __future__ import annotations

import itertools
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console

from ecdctr import factory
from ecdctr.commands.rebuild import rebuild
from ecdctr.models.training import audit
from ecdctr.replay.sources import Simulator
from ecdctr.state.journals import Journal
from ecdctr.streams.embedded import EmbeddedBroker
from ecdctr.streams.producer import produce
from ecdctr.streams.topics import ensure_topics
from tests.chaos.workers import Workers
from tests.support.waiting import PATIENCE_S


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
        self.outcome = Outcome(rows=0)
        self.slices: list[pl.DataFrame] = []

    def run(self) -> Outcome:
        """Do it all; the caller judges the outcome."""
        began = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        with EmbeddedBroker(log_file=self.folder / "broker.log") as broker:
            self.workers = Workers(
                self.folder, broker.address, self.simulator,
                f"worker.decoders={self.decoders}",
            )  # fmt: skip
            self.settings = self.workers.settings
            ensure_topics(self.settings.kafka, self.settings.topics)
            frames = list(self.simulator.frames())
            self.slices = [pl.concat(part) for part in _split(frames, self.kills + 1)]
            self._produce_slice()
            try:
                self._torment()
            finally:
                self.workers.end()
            self._check_books()
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

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
        worker = self.workers.start()
        done = 0
        for i in range(self.kills):
            target = done + int(self.rng.uniform(0.05, 0.95) * (self.outcome.rows - done))
            self.workers.wait_for(lambda t=target: self.workers.learned() >= t, worker, f"learn row {target}")
            if i in rebalance_at:
                self._foreign_member()
            standby = self.workers.start("--standby") if i == takeover_at else None
            if standby is not None:
                self.workers.wait_for(lambda: "standby: waiting" in self.workers.log(), standby, "stand by")
            done = self.outcome.rows
            self._produce_slice()
            self.workers.kill(worker)
            self.outcome.kills += 1
            if standby is None:
                worker = self.workers.start()
                continue
            died, before = time.monotonic(), self.workers.steps()
            worker = standby
            self.workers.wait_for(lambda b=before: self.workers.steps() > b, worker, "take over")
            self.outcome.takeover_s = time.monotonic() - died
        self.workers.wait_for(lambda: self.workers.learned() >= self.outcome.rows, worker, "learn every row")
        worker.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        self.outcome.exit_code = worker.wait(timeout=PATIENCE_S)
        self.outcome.end_s = time.monotonic() - asked

    def _foreign_member(self) -> None:
        """Another process joins the group for a moment, and leaves."""
        script = str(Path(__file__).with_name("foreign_member.py"))
        process = self.workers.launch([sys.executable, script, str(self.workers.config)], subprocess.PIPE)
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        if ready and b"assigned" in process.stdout.readline():
            self.outcome.rebalances += 1
        process.send_signal(signal.SIGKILL if self.outcome.rebalances % 2 else signal.SIGTERM)
        process.wait(timeout=PATIENCE_S)

    # -- the books

    def _check_books(self) -> None:
        with factory.kafka_log(self.settings, factory.decoder(self.settings)) as log:
            ends = log.end(log.partitions())
        assert sum(ends.values()) == self.outcome.rows
        self.outcome.steps = self.workers.steps()
        entries = Journal(self.workers.journal, read_only=True).entries()
        self.outcome.months = sum(entry.kind == "month" for entry in entries)
        self.outcome.lost, self.outcome.doubled = audit(
            Journal(self.workers.journal, read_only=True).entries(), ends
        )
        self.outcome.steps_redone = sum(
            int(line.split("journal: ")[1].split()[0])
            for line in self.workers.log().splitlines()
            if "journal: " in line and "steps redone" in line
        )
        self.outcome.verdict = rebuild(Console(stderr=True), self.settings).verdict


def _split(frames: list[pl.DataFrame], parts: int) -> list[list[pl.DataFrame]]:
    """The log in ``parts`` runs of rows of about equal length."""
    whole = pl.concat(frames)
    edges = np.linspace(0, whole.height, parts + 1).astype(int)
    return [[whole[a:b]] for a, b in itertools.pairwise(edges.tolist())]
