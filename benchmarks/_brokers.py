"""The broker of a benchmark: the embedded one, or a node of Apache Kafka (`make kafka` fetches its jars)."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ecdctr.streams.embedded import EmbeddedBroker
from tests.support.apache_kafka import ApacheKafka

__all__ = ["KINDS", "add_option", "running"]

KINDS = ("embedded", "apache")


def add_option(parser: argparse.ArgumentParser) -> None:
    """``--brokers embedded|apache``."""
    parser.add_argument(
        "--brokers", choices=KINDS, default=KINDS[0], help="the embedded broker, or one node of Apache Kafka"
    )


@contextmanager
def running(kind: str) -> Iterator[str]:
    """The address of a broker that runs within the block.

    Raises
    ------
    RuntimeError
        Apache Kafka cannot run on this machine.
    """
    if kind == "embedded":
        with EmbeddedBroker() as broker:
            yield broker.address
        return
    with tempfile.TemporaryDirectory(prefix="ecdctr-kafka-") as folder, ApacheKafka(Path(folder)) as kafka:
        yield kafka.address
