"""``AllowedHosts``: the names by which a browser may address the server (protection against DNS rebinding)."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

__all__ = ["AllowedHosts", "check_host_pattern"]

_PATTERN = re.compile(r"\*|\.?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_ALWAYS = ("localhost", ".localhost")


def check_host_pattern(text: str) -> str:
    """The pattern in lower case; ValueError if it is none.

    >>> check_host_pattern("Trainer.example.com"), check_host_pattern(".example.com"), check_host_pattern("*")
    ('trainer.example.com', '.example.com', '*')
    >>> check_host_pattern("https://trainer:9108")
    Traceback (most recent call last):
    ValueError: 'https://trainer:9108' is not a host name: write it without scheme and port, as in trainer.example.com
    """
    pattern = text.strip().lower()
    if not _PATTERN.fullmatch(pattern):
        raise ValueError(
            f"{text!r} is not a host name: write it without scheme and port, as in trainer.example.com"
        )
    return pattern


class AllowedHosts:
    """Decides whether a request with a ``Host`` header is answered.

    A page of another site can let its own name point to this server's address, and then read from this server as if both were one
    site. Its requests still have that site's name in ``Host``. A request is answered if the header is

    - an IP address: a page that was loaded from an address cannot have another server's content,
    - ``localhost``, or a name below it,
    - this machine's own name, and the one that the server listens on,
    - a name of the configuration: ``name``, ``.example.com`` (the name and all below it) or ``*`` (any name).

    A request without the header is answered: every browser sends it.

    Parameters
    ----------
    patterns
        Names of the configuration.
    bound
        Name or address that the server listens on.

    Examples
    --------
    >>> hosts = AllowedHosts(["trainer", ".example.com"])
    >>> [hosts.allow(h) for h in ("127.0.0.1:9108", "[::1]:9108", "localhost", "trainer:80", "ctr.example.com", None)]
    [True, True, True, True, True, True]
    >>> [hosts.allow(h) for h in ("evil.test", "example.com.evil.test", "notexample.com", "127.0.0.1.evil.test")]
    [False, False, False, False]
    """

    def __init__(self, patterns: Iterable[str] = (), bound: str = "") -> None:
        own = socket.gethostname().lower()
        names = (own, own.partition(".")[0], bound.rstrip(".").lower())
        self._patterns = (*_ALWAYS, *filter(None, names), *map(check_host_pattern, patterns))

    def allow(self, header: str | None) -> bool:
        """Whether a request with this ``Host`` header is answered."""
        if header is None:
            return True
        name = _without_port(header.strip())
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return any(_matches(name, pattern) for pattern in self._patterns)
        return True


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].rstrip(".").lower()


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("."):
        return name == pattern[1:] or name.endswith(pattern)
    return pattern in ("*", name)
