"""One process of Apache Kafka: its start, its end, and the cluster as it sees it.

The jars come from the folder that ``ECDCTR_KAFKA_LIBS`` names, or from ``.kafka/libs``, which ``make kafka`` fills.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

__all__ = ["KafkaNode", "java", "missing"]

ROOT = Path(__file__).resolve().parents[3]
_STOP_S = 60.0
_LOG_LINES = 60
_JVM = ("-Xmx384m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")


def missing() -> str | None:
    """What is missing on this machine to run Apache Kafka; None if nothing is."""
    if shutil.which("java") is None:
        return "Apache Kafka needs Java: there is no `java` on the PATH"
    if not any(libs().glob("kafka_2.13-*.jar")):
        return f"no jars of Apache Kafka in {libs()}: run `make kafka`, or set ECDCTR_KAFKA_LIBS"
    return None


def libs() -> Path:
    return Path(os.environ.get("ECDCTR_KAFKA_LIBS") or ROOT / ".kafka" / "libs")


def java(main: str, *arguments: str | Path) -> list[str]:
    command = ["java", *_JVM, "-Dorg.slf4j.simpleLogger.showDateTime=true"]
    command += ["-cp", f"{libs()}/*", main, *map(str, arguments)]
    # The kernel ends the node with the process that started it, even if that is killed.
    return ["setpriv", "--pdeathsig", "KILL", *command] if shutil.which("setpriv") else command


class KafkaNode:
    """One node: broker and controller in one process.

    Tests get nodes from :attr:`ApacheKafka.nodes`.

    Parameters
    ----------
    number
        Its ``node.id``.
    folder
        Configuration, data and log.
    ports
        ``{listener: port}``, ``CONTROLLER`` included.
    foreign_pid
        Process id of a node that another process of this test run has started; it can be used, but not stopped.
    """

    def __init__(
        self, number: int, folder: Path, ports: Mapping[str, int], foreign_pid: int | None = None
    ) -> None:
        self.number, self.folder, self.ports = number, folder, dict(ports)
        self.log_file = folder / "node.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._foreign_pid = foreign_pid

    @property
    def pid(self) -> int:
        """Process id of the running node."""
        if self._process is not None:
            return self._process.pid
        if self._foreign_pid is not None:
            return self._foreign_pid
        raise RuntimeError(f"node {self.number} is not running")

    @property
    def running(self) -> bool:
        """Whether its process exists (a suspended one does)."""
        if self._foreign_pid is not None:
            return Path(f"/proc/{self._foreign_pid}").exists()
        return self._process is not None and self._process.poll() is None

    @property
    def ended(self) -> bool:
        """Whether it was started and has ended without being stopped or killed."""
        return self._process is not None and self._process.poll() is not None

    def launch(self) -> None:
        """Start the process; :meth:`ApacheKafka.start_node` also waits until it answers.

        The node ends with the thread that calls this, so that a run that is killed leaves none behind.
        """
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                java("kafka.Kafka", self.folder / "server.properties"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
            )  # fmt: skip

    def stop(self) -> None:
        """Stop gracefully (SIGTERM): leaders move to other nodes first. A node that takes too long is killed."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def suspend(self) -> None:
        """SIGSTOP: the connections stay open, and the node does not respond."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def log_tail(self) -> str:
        """The last warnings, errors and stack traces of its output; everything else is left out."""
        if not self.log_file.exists():
            return "(no output)"
        lines = self.log_file.read_text(errors="replace").splitlines()
        # Lines that begin with a tab are of the printed configuration, but for those of a stack trace.
        wrong = [
            line for line in lines if " INFO " not in line and (not line.startswith("\t") or "\tat " in line)
        ]
        return "\n".join((wrong or lines)[-_LOG_LINES:])

    # -- the cluster as this node shows it

    def brokers(self) -> set[int]:
        """Numbers of the brokers that it names; none while it does not respond."""
        cluster = self._metadata(None)
        return set() if cluster is None else {broker.nodeId for broker in cluster.brokers()}

    def leaders(self, topic: str) -> dict[int, int]:
        """``{partition: number of its leader}``; partitions without a leader are left out."""
        cluster = self._metadata(topic)
        if cluster is None:
            return {}
        partitions = cluster.partitions_for_topic(topic) or ()
        found = {p: cluster.leader_for_partition(TopicPartition(topic, p)) for p in partitions}
        return {partition: leader for partition, leader in found.items() if leader not in (None, -1)}

    def in_sync(self, topic: str) -> dict[int, int]:
        """``{partition: number of its replicas that are in sync}``."""
        cluster = self._metadata(topic)
        if cluster is None:
            return {}
        return {p: len(found.isr) for p, found in cluster._partitions.get(topic, {}).items()}

    def _metadata(self, topic: str | None) -> Any:
        """The cluster's metadata as this node returns it; None while it does not respond."""
        if not self.running:
            return None

        async def ask() -> Any:
            client = AIOKafkaClient(
                bootstrap_servers=f"127.0.0.1:{self.ports['PLAINTEXT']}", request_timeout_ms=2_000
            )
            try:
                await client.bootstrap()
                if topic is not None:
                    await client.set_topics([topic])
                return client.cluster
            except (KafkaError, OSError):
                return None
            finally:
                await client.close()

        return asyncio.run(ask())
