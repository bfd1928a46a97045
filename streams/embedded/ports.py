"""A free port for a server that another process opens."""

from __future__ import annotations

import random
import socket
from pathlib import Path

__all__ = ["free_port"]

_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 20_000
_TRIES = 50
# Independent of any seed, so that processes that start together choose different ports.
_random = random.SystemRandom()


def free_port() -> int:
    """A loopback port on which no process listens, below the range of ports of outgoing connections.

    A port of that range can be taken by any client of the machine between this call and the start of the server,
    and a client that reconnects to its stopped server's port there can even connect to itself.
    """
    for port in _random.sample(range(_LOWEST, _first_outgoing()), _TRIES):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_outgoing() -> int:
    """First port of the range for outgoing connections; Linux's default if it cannot be read."""
    try:
        first = int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    return first if first >= _LOWEST + _TRIES else 32_768
