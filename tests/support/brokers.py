"""Real brokers: one for the whole session of a process, and one for a test that stops or pauses it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecdctr.state.errors import BrokerUnavailableError
from ecdctr.streams.embedded import EmbeddedBroker
from ecdctr.streams.embedded.broker import _binary


def start_broker(log: Path | None = None) -> EmbeddedBroker:
    """A running broker; the test is skipped where there is no binary for it, and fails if the binary does not start."""
    try:
        _binary()
    except BrokerUnavailableError as error:
        pytest.skip(str(error))
    return EmbeddedBroker(log_file=log, start_timeout_s=60.0).start()


@pytest.fixture(scope="session")
def broker() -> Iterator[EmbeddedBroker]:
    """For tests that do not stop or pause it; each creates its own topics."""
    running = start_broker()
    yield running
    running.stop()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """For tests that stop, pause or restart it."""
    running = start_broker(tmp_path / "broker.log")
    yield running
    os.kill(running.pid, signal.SIGCONT)
    running.stop()
