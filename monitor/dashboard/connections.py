"""``Connections``: the open connections of the HTTP server, which are limited in number, and in the time that they may take."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

__all__ = ["Connection", "Connections"]

ROOM_S = 1.0
"""How long a new connection waits for the end of the one that makes room for it."""


class Connection:
    """One open connection; one thread answers its requests.

    Attributes
    ----------
    since
        When it was accepted, or answered its last request: monotonic seconds.
    answering
        Whether a request has been read and is being answered.
    stream
        Whether it is an event stream.
    ended
        Set when it should end.
    """

    def __init__(self, peer: socket.socket, now: float) -> None:
        self.peer = peer
        self.since = now
        self.answering = self.stream = False
        self.ended = threading.Event()

    def end(self) -> None:
        """Let its thread end: what it reads or writes fails from now on."""
        self.ended.set()
        with contextlib.suppress(OSError):  # the client has disconnected already
            self.peer.shutdown(socket.SHUT_RDWR)


class Connections:
    """A limited number of connections, of which some may be event streams. New ones are never refused because of idle ones.

    1. If there is no room, the connection that has waited longest for a request is ended; if all are busy, the oldest one.
    2. If there is no room for one more event stream, the oldest stream is ended, unless all are younger than ``keep_s``: pages that
       are open in too many windows would otherwise end each other in turn.
    3. :meth:`end_slow` ends those that have not sent a complete request for ``request_s``.

    Parameters
    ----------
    limit, streams
        Maximum number of connections, and of event streams among them.
    request_s
        Seconds within which a request must be complete; a client that sends nothing may stay connected for as long.
    keep_s
        Seconds for which an event stream is kept in any case.
    now
        Monotonic seconds.
    """

    def __init__(
        self,
        limit: int,
        streams: int,
        *,
        request_s: float,
        keep_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self.streams = limit, streams
        self._request_s, self._keep_s, self._now = request_s, keep_s, now
        self._changed = threading.Condition()
        self._open: dict[socket.socket, Connection] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, peer: socket.socket) -> bool:
        """Register a new connection; False if there is no room even though another one was asked to end."""
        with self._changed:
            if len(self._open) >= self.limit:
                others = [c for c in self._open.values() if not c.ended.is_set()]
                if others:
                    min(others, key=lambda c: (c.answering, c.since)).end()
                if not self._changed.wait_for(lambda: len(self._open) < self.limit, ROOM_S):
                    return False
            self._open[peer] = Connection(peer, self._now())
            return True

    def closed(self, peer: socket.socket) -> None:
        """Remove a connection whose thread ends."""
        with self._changed:
            self._open.pop(peer, None)
            self._changed.notify_all()

    def of(self, peer: socket.socket) -> Connection:
        """The connection of a socket."""
        return self._open[peer]

    def answering(self, peer: socket.socket, now: bool) -> None:
        """Report that a request was read (True), or that it is answered and the next one is waited for."""
        with self._changed:
            connection = self._open[peer]
            connection.answering = now
            connection.since = self._now()

    def open_stream(self, peer: socket.socket) -> bool:
        """Make a connection an event stream; False if there are too many, all of them young."""
        with self._changed:
            if self._streams() >= self.streams:
                others = [c for c in self._open.values() if c.stream and not c.ended.is_set()]
                oldest = min(others, key=lambda c: c.since, default=None)
                if oldest is None or self._now() - oldest.since < self._keep_s:
                    return False
                oldest.end()
                if not self._changed.wait_for(lambda: self._streams() < self.streams, ROOM_S):
                    return False
            self._open[peer].stream = True
            return True

    def _streams(self) -> int:
        return sum(c.stream for c in self._open.values())

    def end_slow(self) -> None:
        """End the connections that have not sent a complete request in time."""
        with self._changed:
            for connection in self._open.values():
                if not connection.answering and self._now() - connection.since > self._request_s:
                    connection.end()

    def end_all(self) -> None:
        """End all connections."""
        with self._changed:
            for connection in self._open.values():
                connection.end()
