"""The recorded state folder with its log: how both are written, and how they are restored on a fresh broker."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from ecdctr import factory
from ecdctr.events.kafka import true_ends
from ecdctr.events.settings import KafkaSettings
from ecdctr.settings import Settings, dump_toml, load_settings
from ecdctr.state.journals import Journal, JournalEntry
from ecdctr.state.positions import Positions
from ecdctr.streams.topics import ensure_topics
from tests.support.waiting import PATIENCE_S, wait_for

RECORDED = Path(__file__).parent / "old_state"
STATE, LOG, CONFIG, FACTS = (
    RECORDED / name for name in ("state.tar.gz", "log.jsonl.gz", "ecdctr.toml", "facts.json")
)


@dataclass(frozen=True)
class Record:
    """One record of a topic; bytes are stored as the characters of the same codes (Latin-1)."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: str | None
    value: str | None
    headers: list[list[str]]
    learned: bool
    """False: the record was sent after the worker had ended."""


def read_topics(
    connection: KafkaSettings, topics: Iterable[str], learned: dict[str, int]
) -> Iterator[Record]:
    """Every record of the topics, by partition and offset.

    Parameters
    ----------
    connection
        The broker.
    topics
        Their names.
    learned
        End offset of what had been learned, by ``"<topic> <partition>"``.
    """
    consumer = KafkaConsumer(**connection.kafka_python(), group_id=None, auto_offset_reset="earliest")
    try:
        tps = [TopicPartition(t, p) for t in topics for p in sorted(consumer.partitions_for_topic(t) or ())]
        ends = true_ends(consumer, tps)
        for tp in tps:
            consumer.assign([tp])
            consumer.seek_to_beginning()
            while consumer.position(tp) < ends[tp]:
                for r in consumer.poll(timeout_ms=200).get(tp, ()):
                    headers = [[name, _text(value)] for name, value in r.headers or ()]
                    before = r.offset < learned.get(f"{tp.topic} {tp.partition}", 0)
                    yield Record(
                        tp.topic, tp.partition, r.offset, r.timestamp, _text(r.key), _text(r.value), headers, before
                    )  # fmt: skip
    finally:
        consumer.close()


def write_log(path: Path, records: Iterable[Record]) -> None:
    """One JSON object a line, compressed; the same records give the same bytes."""
    lines = (json.dumps(asdict(record), separators=(",", ":")) for record in records)
    path.write_bytes(gzip.compress("\n".join(lines).encode(), 9, mtime=0))


def read_log(path: Path) -> list[Record]:
    """Inverse of :func:`write_log`."""
    return [Record(**json.loads(line)) for line in gzip.decompress(path.read_bytes()).splitlines()]


def send_again(connection: KafkaSettings, records: Iterable[Record]) -> None:
    """Send the records to their partitions; each must get the offset that it had."""
    producer = KafkaProducer(**connection.kafka_python(), acks="all", enable_idempotence=True, linger_ms=20)
    try:
        sent = [(r, _send(producer, r)) for r in records]
        producer.flush()
        for record, future in sent:
            found = future.get(timeout=PATIENCE_S).offset
            assert found == record.offset, f"{record.topic} {record.partition}: {found}, not {record.offset}"
    finally:
        producer.close()


def _send(producer: KafkaProducer, record: Record) -> Any:
    return producer.send(
        record.topic,
        value=_bytes(record.value),
        key=_bytes(record.key),
        headers=[(name, _bytes(value)) for name, value in record.headers],
        partition=record.partition,
        timestamp_ms=record.timestamp,
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("latin-1")


def pack(folder: Path, path: Path) -> None:
    """A state folder as an archive without names and times of the machine that wrote it."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    aside = path.with_suffix(".tar")
    with tarfile.open(aside, "w") as tar:
        tar.add(folder, "state", filter=plain)
    path.write_bytes(gzip.compress(aside.read_bytes(), 9, mtime=0))
    aside.unlink()


def unpack(folder: Path) -> Path:
    """The recorded state folder as ``<folder>/state``; returns ``folder``."""
    with tarfile.open(STATE) as tar:
        tar.extractall(folder, filter="data")
    return folder


def facts() -> dict[str, Any]:
    """Facts about the recorded folder and log."""
    return json.loads(FACTS.read_text(encoding="utf-8"))


class Site:
    """A state folder with the recorded configuration, and workers of the present version on it.

    Parameters
    ----------
    folder
        The state folder is ``<folder>/state``; see :func:`unpack`.
    address
        A broker's address; None where none is needed.
    """

    def __init__(self, folder: Path, address: str | None = None) -> None:
        address = address or "127.0.0.1:1"
        overrides = [f'kafka.brokers=["{address}"]', f'state.folder="{folder / "state"}"']
        self.settings: Settings = load_settings(CONFIG, overrides, environ={}).settings
        self.config = folder / "ecdctr.toml"
        self.config.write_text(dump_toml(self.settings), encoding="utf-8")
        self.folders = factory.Folders(self.settings.state.folder)
        self.log_path = folder / "worker.log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def restore_log(self) -> None:
        """Create the topics with their recorded number of partitions, and send every record that had been learned."""
        ensure_topics(self.settings.kafka, self.settings.topics)
        send_again(self.settings.kafka, [r for r in read_log(LOG) if r.learned])

    def send_rest(self) -> None:
        """Send the records that have not been learned yet."""
        send_again(self.settings.kafka, [r for r in read_log(LOG) if not r.learned])

    def command(self, *words: str) -> list[str]:
        """The arguments of a command of the present version on this site."""
        return [sys.executable, "-m", "ecdctr", *words, "--config", str(self.config)]

    def start(self) -> subprocess.Popen[bytes]:
        """Start a worker; its output is appended to the log."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ECDCTR_")} | {
            "COLUMNS": "2000"
        }
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(self.command("worker"), stdout=log, stderr=log, env=environment)
        self.processes.append(process)
        return process

    def log(self) -> str:
        """The output of all workers."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def entries(self) -> list[JournalEntry]:
        """The whole journal."""
        if not self.folders.journal.is_dir():
            return []
        return list(Journal(self.folders.journal, read_only=True).entries())

    def positions(self) -> Positions:
        """Next offset of every partition, as the journal has planned it."""
        positions = Positions()
        for entry in self.entries():
            positions.advance(entry.parts)
        return positions

    def ends(self) -> dict[tuple[str, int], int]:
        """End offset of every partition of the two click topics."""
        with factory.kafka_log(self.settings, factory.decoder(self.settings)) as log:
            return log.end(log.partitions())

    def wait(self, worker: subprocess.Popen[bytes], done: Callable[[], bool], what: str) -> None:
        """Wait until ``done`` returns a true value; fail if the worker ends before."""

        def alive() -> str | None:
            return None if worker.poll() is None else f"the worker ended with {worker.returncode}"

        wait_for(done, what, alive=alive, detail=self.log)

    def train(self, worker: subprocess.Popen[bytes]) -> None:
        """Wait until the journal has planned every record of the click topics."""
        ends = self.ends()

        def all_planned() -> bool:
            positions = self.positions()
            return all(positions.get(key, 0) >= end for key, end in ends.items())

        self.wait(worker, all_planned, "learn every record")

    def terminate(self, worker: subprocess.Popen[bytes]) -> int:
        """Send SIGTERM; returns the exit code."""
        worker.send_signal(signal.SIGTERM)
        return worker.wait(timeout=PATIENCE_S)

    def end(self) -> None:
        """Kill all workers that still run."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
