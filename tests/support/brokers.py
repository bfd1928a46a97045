"""Real brokers: the embedded one and Apache Kafka.

What holds on one has to hold on the other, so the fixtures ``broker`` and ``own_broker`` run their tests on both. A test
that needs what only one of them has, or that would take too long twice, is marked with the reason::

    @pytest.mark.brokers("embedded", reason="it restarts with an empty log")
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from ecdctr.state.errors import BrokerUnavailableError
from ecdctr.streams.embedded import EmbeddedBroker
from ecdctr.streams.embedded.broker import _binary
from tests.support.apache_kafka import ApacheKafka, missing

__all__ = [
    "KINDS",
    "Broker",
    "OwnBroker",
    "apache_broker",
    "broker",
    "drop_other_brokers",
    "embedded_broker",
    "own_broker",
    "start_broker",
    "unique_name",
]

KINDS = ("embedded", "apache")
_names = itertools.count()


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker of one node.

    Attributes
    ----------
    kind
        One of :data:`KINDS`.
    address
        ``host:port`` for clients.
    """

    kind: str
    address: str


class OwnBroker:
    """A broker of one test, which may suspend, kill and restart it.

    Parameters
    ----------
    kind
        One of :data:`KINDS`; the test is skipped where it cannot run.
    folder
        Its log and data.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._running: EmbeddedBroker | ApacheKafka
        if kind == "embedded":
            self._running = start_broker(folder / "broker.log")
        else:
            if (reason := missing()) is not None:
                pytest.skip(reason)
            self._running = ApacheKafka(folder).start()
        self.address = self._running.address

    @property
    def pid(self) -> int:
        """Process id."""
        return self._running.pid if isinstance(self._running, EmbeddedBroker) else self._running.nodes[0].pid

    def suspend(self) -> None:
        """SIGSTOP: connections stay open, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """kill -9."""
        if isinstance(self._running, EmbeddedBroker):
            os.kill(self.pid, signal.SIGKILL)
            self._running.stop()
        else:
            self._running.kill()

    def start_empty(self) -> None:
        """Start it again after :meth:`kill`, on the same address, with an empty log."""
        if isinstance(self._running, EmbeddedBroker):
            port = int(self.address.rpartition(":")[2])
            self._running = EmbeddedBroker(
                port=port, log_file=self._folder / "broker.log", start_timeout_s=60.0
            )
        self._running.start()

    def stop(self) -> None:
        """End it."""
        if isinstance(self._running, ApacheKafka):
            self._running.kill()  # nothing reads its log again, so it need not be whole
            return
        with suppress(BrokerUnavailableError):
            self.resume()
        self._running.stop()


def unique_name(prefix: str) -> str:
    """A name for topics and groups that no other test uses, in whichever process it runs."""
    return f"{prefix}{os.getpid()}-{next(_names)}"


def start_broker(log: Path | None = None) -> EmbeddedBroker:
    """A running broker; the test is skipped where there is no binary for it, and fails if the binary does not start."""
    try:
        _binary()
    except BrokerUnavailableError as error:
        pytest.skip(str(error))
    return EmbeddedBroker(log_file=log, start_timeout_s=60.0).start()


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[EmbeddedBroker]:
    """One embedded broker for each process that runs tests."""
    running = start_broker()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def apache_broker(tmp_path_factory: pytest.TempPathFactory) -> ApacheKafka:
    """One node of Apache Kafka for tests that do not stop or reconfigure it; they are skipped where it cannot run.

    All processes of a run share it: the first one that needs it starts it, and it ends with that process, which
    pytest-xdist ends after the last test of the run.
    """
    if (reason := missing()) is not None:
        pytest.skip(reason)
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "apache-kafka"
    folder.mkdir(exist_ok=True)
    started = folder / "started.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if started.exists():
            return ApacheKafka.attached(folder, json.loads(started.read_text()))
        kafka = ApacheKafka(folder).start()
        started.write_text(json.dumps(kafka.to_json()))
    return kafka


@pytest.fixture(scope="session", params=KINDS)
def broker(request: pytest.FixtureRequest) -> Broker:
    """For tests that do not stop or pause it; each creates its own topics (:func:`unique_name`)."""
    found = request.getfixturevalue(f"{request.param}_broker")
    return Broker(request.param, found.address)


@pytest.fixture(params=KINDS)
def own_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OwnBroker]:
    """For tests that stop, pause or restart it."""
    running = OwnBroker(request.param, tmp_path / "broker")
    yield running
    running.stop()


def drop_other_brokers(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Remove the tests whose mark ``brokers`` excludes the broker that they would run on.

    Raises
    ------
    pytest.UsageError
        A mark without a reason, or with a broker that does not exist.
    """
    dropped = [item for item in items if not _wanted(item)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]


def _wanted(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("brokers")
    if mark is None:
        return True
    if not set(mark.args) <= set(KINDS) or len(mark.args) != 1 or not mark.kwargs.get("reason"):
        raise pytest.UsageError(
            f'{item.nodeid}: write @pytest.mark.brokers("embedded" or "apache", reason="...")'
        )
    parameters: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    return all(value == mark.args[0] for value in parameters.values() if value in KINDS)
