"""Chaos on Apache Kafka: brokers are killed and one hangs, workers are killed, transactions are aborted; then the books.

``make chaos BROKERS=apache`` runs the long form; ``tests/chaos/test_chaos.py`` a short one inside ``make test``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from ecdctr.commands.rebuild import rebuild
from ecdctr.replay.sources import Simulator
from ecdctr.state.journals import Journal
from ecdctr.streams.embedded import free_port
from ecdctr.streams.topics import ensure_topics
from tests.chaos.committed import CommittedReader
from tests.chaos.feeder import Feeder
from tests.chaos.health import HealthSampler, Lie
from tests.chaos.workers import PARTITIONS, Workers
from tests.support.apache_kafka import ApacheKafka, KafkaNode
from tests.support.waiting import PATIENCE_S, wait_for

__all__ = ["ClusterChaos", "ClusterOutcome"]

DOWN_S = 12.0
"""A killed broker stays away for longer than the controller waits for it (9 s), so that its partitions get new leaders."""
MOST_STEPS = 20
"""A worker is killed after at most this number of further steps, redone ones not counted."""
DAYS = 12


@dataclass
class ClusterOutcome:
    """What the run was put through, and what is left of it.

    Attributes
    ----------
    rows
        Committed rows of both topics.
    lost, doubled
        Committed offsets that no step covers, and that several do; plus trained rows that are missing or too many.
    longest_without_step_s
        Longest time for which committed records waited and no step was made, whatever the reason.
    """

    rows: int = 0
    lost: int = -1
    doubled: int = -1
    identical: bool = False
    verdict: str = ""
    health_lies: int = -1
    longest_without_step_s: float = 0.0
    worker_kills: int = 0
    broker_kills: int = 0
    broker_hung_s: float = 0.0
    transactions: int = 0
    aborted: int = 0
    steps: int = 0
    exit_code: int | None = None
    seconds: float = 0.0
    lies: list[Lie] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The last line of the long form."""
        names = (
            "rows", "lost", "doubled", "identical", "health_lies", "longest_without_step_s", "worker_kills", "broker_kills",
            "broker_hung_s", "transactions", "aborted", "steps", "exit_code", "seconds",
        )  # fmt: skip
        found = {name: getattr(self, name) for name in names}
        return {name: round(value, 1) if isinstance(value, float) else value for name, value in found.items()}

    def missed(self, longest_without_step_s: float) -> list[str]:
        """The promises that were not kept."""
        broken = {
            "lost": self.lost != 0,
            "doubled": self.doubled != 0,
            "identical": not self.identical,
            "health_lies": self.health_lies != 0,
            "longest_without_step_s": self.longest_without_step_s > longest_without_step_s,
            "exit_code": self.exit_code != 0,
        }
        return [name for name, is_broken in broken.items() if is_broken]


class ClusterChaos:
    """One run on three nodes.

    1. Rows are sent at a steady rate (:class:`Feeder`).
    2. Meanwhile one node after another is killed and started again, then the leader of an ad partition is suspended; there
       is always a majority of nodes that work.
    3. Meanwhile the worker is killed and started again at seeded points of the log.
    4. Meanwhile ``/healthz`` is compared with the truth (:class:`HealthSampler`).
    5. When every row is learned, the worker is stopped and the books are checked.

    Parameters
    ----------
    worker_kills, broker_kills
        Number of kill -9.
    hang_s
        Seconds for which a node is suspended; 0: none is.
    rows_per_s
        Rate of the feeder.
    say
        Called with each event.
    """

    def __init__(
        self, folder: Path, *, rows: int, worker_kills: int, broker_kills: int, hang_s: float, rows_per_s: float,
        seed: int = 0, say: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.folder, self.worker_kills, self.broker_kills, self.hang_s = (
            folder,
            worker_kills,
            broker_kills,
            hang_s,
        )
        self.rows_per_s = rows_per_s
        self._rng = np.random.default_rng(seed)
        per_day = rows // DAYS
        ads = per_day // 21
        self._simulator = Simulator(
            seed, days=DAYS, live_from=0, users=500, items=200, natural_per_day=per_day - ads, ads_per_day=ads
        )
        self.outcome = ClusterOutcome()
        self._say, self._began = say, time.monotonic()
        self._brokers_done = threading.Event()
        self._ended = threading.Event()
        self._brokers_error: BaseException | None = None

    def run(self) -> ClusterOutcome:
        """Do it all; the caller judges the outcome."""
        self._began = time.monotonic()
        rows = pl.concat(self._simulator.frames())
        port = free_port()
        kafka = ApacheKafka(self.folder / "kafka", nodes=3)
        workers = Workers(
            self.folder, kafka.address, self._simulator,
            "topics.replication=3", "worker.max_behind_s=10", "monitor.watchdog_s=20",
            f"monitor.port={port}",
        )  # fmt: skip
        topics = list(workers.settings.topics.domains)
        with ExitStack() as stack:
            stack.enter_context(kafka)
            stack.callback(workers.end)
            ensure_topics(workers.settings.kafka, workers.settings.topics)
            committed = stack.enter_context(CommittedReader(kafka.address, dict.fromkeys(topics, PARTITIONS)))
            feeder = stack.enter_context(
                Feeder(kafka.address, rows, topics, PARTITIONS, committed, self.rows_per_s)
            )
            # Nodes end with the thread that started them: this one lives as long as the cluster.
            breaking = threading.Thread(target=self._break_brokers, args=(kafka, topics), daemon=True)
            stack.callback(breaking.join)
            stack.callback(self._ended.set)
            sampler = stack.enter_context(HealthSampler(port, workers.journal, committed))
            breaking.start()
            self._torment(workers, feeder, committed)
            self._check_books(workers, committed, feeder, sampler)
        self.outcome.seconds = time.monotonic() - self._began
        return self.outcome

    def _note(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:6.1f} s  {text}")

    # -- brokers

    def _break_brokers(self, kafka: ApacheKafka, topics: list[str]) -> None:
        try:
            for number in range(self.broker_kills):
                node = kafka.nodes[number % len(kafka.nodes)]
                self._note(f"broker {node.number} is killed")
                node.kill()
                self.outcome.broker_kills += 1
                self._ended.wait(DOWN_S)
                kafka.start_node(node)
                self._wait_in_sync(kafka, topics)
            if self.hang_s and not self._ended.is_set():
                self._hang(kafka.leader(topics[1]))
                self._wait_in_sync(kafka, topics)
        except BaseException as error:
            self._brokers_error = error
        finally:
            self._brokers_done.set()
            self._ended.wait()

    def _hang(self, node: KafkaNode) -> None:
        self._note(f"broker {node.number} hangs")
        node.suspend()
        began = time.monotonic()
        try:
            self._ended.wait(self.hang_s)
        finally:
            node.resume()
            self.outcome.broker_hung_s = time.monotonic() - began
            self._note(f"broker {node.number} goes on")

    def _wait_in_sync(self, kafka: ApacheKafka, topics: list[str]) -> None:
        """Before the next node goes: of three replicas, two must be in sync."""
        names = [*topics, "__transaction_state"]

        def whole() -> bool:
            if self._ended.is_set():
                return True
            found = [kafka.nodes[0].in_sync(name) for name in names]
            return all(counts and set(counts.values()) == {len(kafka.nodes)} for counts in found)

        wait_for(whole, "bring every replica in sync", within_s=2 * PATIENCE_S, every_s=0.5)
        self._note("all replicas are in sync")

    # -- workers

    def _torment(self, workers: Workers, feeder: Feeder, committed: CommittedReader) -> None:
        worker = workers.start()
        for number in range(self.worker_kills):
            target = feeder.rows * (number + self._rng.uniform(0.1, 0.9)) / self.worker_kills
            before = workers.steps() + int(self._rng.integers(MOST_STEPS))
            workers.wait_for(
                lambda t=target: feeder.finished or feeder.sent >= t, worker, f"see row {target:.0f} sent"
            )
            workers.wait_for(lambda b=before: workers.steps() > b, worker, "make some steps")
            self._note(
                f"worker is killed at {workers.learned():,} learned offsets, {feeder.sent:,} rows sent"
            )
            workers.kill(worker)
            self.outcome.worker_kills += 1
            worker = workers.start()
        workers.wait_for(lambda: feeder.finished, worker, "see every row sent")
        self._note("every row is sent")
        workers.wait_for(self._brokers_done.is_set, worker, "see the end of the faults")
        if self._brokers_error is not None:
            raise RuntimeError("the brokers could not be broken as planned") from self._brokers_error
        committed.catch_up()
        workers.wait_for(lambda: committed.waiting(workers.positions())[0] == 0, worker, "learn every row")
        self._note("every row is learned")
        worker.terminate()
        self.outcome.exit_code = worker.wait(timeout=PATIENCE_S)

    # -- the books

    def _check_books(
        self, workers: Workers, committed: CommittedReader, feeder: Feeder, sampler: HealthSampler
    ) -> None:
        out = self.outcome
        if sampler.error is not None:
            raise RuntimeError("health could not be sampled") from sampler.error
        committed.catch_up()
        out.rows, out.steps = committed.rows, workers.steps()
        out.transactions, out.aborted = feeder.transactions, feeder.aborted
        assert set(committed.ids.values()) == {1} and len(committed.ids) == feeder.rows, (
            "the log has each row once"
        )
        out.lost, out.doubled = _covered(workers, committed)
        rebuilt = rebuild(Console(stderr=True, quiet=True), workers.settings)
        out.identical, out.verdict = rebuilt.identical, rebuilt.verdict
        trained = sum(dict(rebuilt.engine.progress.rows).values())
        out.lost += max(0, out.rows - trained)
        out.doubled += max(0, trained - out.rows)
        out.lies, out.health_lies = sampler.lies, len(sampler.lies)
        out.longest_without_step_s = sampler.longest_without_step_s
        self._note(
            f"{sampler.answers} of {sampler.samples} requests of /healthz were answered; the longest time without a step "
            f"ended after {sampler.longest_at_s:.0f} s; {feeder.repeated} rows were sent again"
        )


def _covered(workers: Workers, committed: CommittedReader) -> tuple[int, int]:
    """Committed offsets that no step of the journal covers, and that more than one does."""
    offsets = {key: np.array(found, np.int64) for key, found in committed.offsets.items()}
    times = {key: np.zeros(len(found) + 1, np.int64) for key, found in offsets.items()}
    for entry in Journal(workers.journal, read_only=True).entries():
        for part in entry.parts:
            key = (part.topic, part.partition)
            first, end = np.searchsorted(offsets[key], (part.first, part.end))
            times[key][first] += 1
            times[key][end] -= 1
    covered = [np.cumsum(found)[:-1] for found in times.values()]
    return sum(int((n == 0).sum()) for n in covered), sum(int((n > 1).sum()) for n in covered)


def stderr(text: str) -> None:
    """Print an event at once."""
    print(text, file=sys.stderr, flush=True)
