"""The worker's HTTP server: ``/metrics``, health, JSON, server-sent events and the dashboard page."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from ecdctr.monitor.allowed_hosts import AllowedHosts
from ecdctr.monitor.dashboard.connections import Connections
from ecdctr.monitor.dashboard.health import Health
from ecdctr.monitor.dashboard.snapshot_json import SnapshotJson
from ecdctr.state.errors import ConfigError

__all__ = ["MonitorServer"]

log = logging.getLogger("ecdctr.monitor")

MAX_CONNECTIONS = 64
"""Maximum number of concurrent connections; each occupies a thread."""

MAX_STREAMS = 16
"""Maximum number of event streams (one per open page) among them."""

KEEP_STREAM_S = 10.0
"""Age from which an event stream may be ended to make room for another one."""

HEARTBEAT_S = 15.0
"""Interval of comments in an idle stream, because proxies and browsers drop silent connections."""

REQUEST_TIMEOUT_S = 30.0
"""A client that has not sent a complete request, or not received a complete response, within this time is disconnected."""

STREAM_TIMEOUT_S = 10.0
"""A page that has not taken an event within this time is disconnected."""

HEADERS = {
    # Browsers load only files of this server, even if the name of a feature or an item contains HTML.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "LICENSE": "text/plain",
}


class MonitorServer:
    """HTTP server that handles requests in its own threads, at most one per connection; see :class:`Connections` for the limits.

    =====================  ==============================================================================
    ``/``                  the dashboard
    ``/metrics``           metrics in the Prometheus text format
    ``/healthz``           200, or 503 if a restart may help: records wait, brokers answer, and no step is
                           completed, or training has failed; the body gives the reasons as JSON
    ``/readyz``            200 while the worker is training or nothing waits, and nothing is wrong
    ``/api/snapshot``      everything that the page shows; ``/api/snapshot/drift`` is one section
    ``/api/events``        the same as server-sent events, named by section, whenever a section changes
    =====================  ==============================================================================

    Parameters
    ----------
    registry, health, snapshot
        Prometheus registry, health state and JSON snapshot from which the responses are made.
    allowed_hosts
        Names by which browsers may address the server, besides those of :class:`AllowedHosts`.
    every_s
        Seconds between two checks for changed sections, per open page.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Health,
        snapshot: SnapshotJson,
        *,
        allowed_hosts: Iterable[str] = (),
        every_s: float = 2.0,
    ) -> None:
        self.registry, self.health, self.snapshot = registry, health, snapshot
        self.every_s = every_s
        self._allowed_hosts = tuple(allowed_hosts)
        self.hosts = AllowedHosts(self._allowed_hosts)
        self.connections = Connections(
            MAX_CONNECTIONS, MAX_STREAMS, request_s=REQUEST_TIMEOUT_S, keep_s=KEEP_STREAM_S
        )
        self.files = _static_files()
        self._http: _Http | None = None

    def start(self, host: str, port: int) -> int:
        """Start listening and return the port; with ``port=0`` the operating system chooses a free one."""
        self.hosts = AllowedHosts(self._allowed_hosts, host)
        try:
            self._http = _Http(self, host, port)
        except OSError as error:
            raise ConfigError(
                f"the dashboard cannot listen on {host}:{port} ({error.strerror or error}); set monitor.port to another port, "
                "or to 0 to disable the server"
            ) from error
        threading.Thread(target=self._http.serve_forever, args=(0.1,), name="monitor", daemon=True).start()
        return int(self._http.server_address[1])

    def close(self) -> None:
        """Stop listening and end the open connections."""
        http, self._http = self._http, None
        if http is not None:
            http.shutdown()
            http.server_close()
        self.connections.end_all()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, owner: MonitorServer, host: str, port: int) -> None:
        self.owner = owner
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.owner.connections.open(request):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system gives no more threads
            log.warning("a connection was closed, because no thread could be started for it")
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.owner.connections.closed(request)

    def service_actions(self) -> None:
        self.owner.connections.end_slow()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("a request from %s was interrupted", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    server_version = "ecdctr"
    sys_version = ""
    timeout = REQUEST_TIMEOUT_S

    def do_GET(self) -> None:
        connections = self.server.owner.connections
        connections.answering(self.connection, True)
        try:
            if self._is_addressed():
                self._respond()
        finally:
            connections.answering(self.connection, False)

    def _is_addressed(self) -> bool:
        """Refuse a request that names another host."""
        for header in self.headers.get_all("Host", []):
            if not self.server.owner.hosts.allow(header):
                self.close_connection = True
                self._problem(
                    HTTPStatus.FORBIDDEN,
                    f"this server does not answer to the name {header[:200]!r}: use an IP address or localhost, or add the name to "
                    "monitor.allowed_hosts",
                )
                return False
        return True

    def _respond(self) -> None:
        path = urlsplit(self.path).path
        owner = self.server.owner
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, encode(owner.registry), content_type)
        elif path in ("/healthz", "/readyz"):
            verdict = owner.health.verdict()
            ok = verdict.healthy if path == "/healthz" else verdict.ready
            status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
            self._json(status, msgspec.json.encode(verdict.to_json()))
        elif path == "/api/snapshot":
            self._json(HTTPStatus.OK, owner.snapshot.whole())
        elif path.startswith("/api/snapshot/"):
            self._section(path.removeprefix("/api/snapshot/"))
        elif path == "/api/events":
            self._events()
        elif (found := owner.files.get(path)) is not None:
            self._answer(HTTPStatus.OK, *found)
        else:
            self._problem(HTTPStatus.NOT_FOUND, f"{path} does not exist")

    do_HEAD = do_GET  # noqa: N815

    def _section(self, name: str) -> None:
        sections = self.server.owner.snapshot.sections()
        if name in sections:
            self._json(HTTPStatus.OK, sections[name])
        else:
            self._problem(
                HTTPStatus.NOT_FOUND, f"there is no section {name}; known sections: {', '.join(sections)}"
            )

    def _events(self) -> None:
        owner = self.server.owner
        if self.command == "HEAD":
            self._answer(HTTPStatus.OK, b"", "text/event-stream")
        elif not owner.connections.open_stream(self.connection):
            self._problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"more than {owner.connections.streams} event streams are open: close a page",
            )
        else:
            try:
                self._stream()
            except OSError:  # the page was closed, or takes nothing
                log.debug("an event stream ended")

    def _stream(self) -> None:
        """Send all sections, then each section whenever it has changed, until the client disconnects or the server is closed."""
        owner = self.server.owner
        ended = owner.connections.of(self.connection).ended
        self.connection.settimeout(STREAM_TIMEOUT_S)
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        self._headers("text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"retry: 2000\n\n")
        sent: dict[str, bytes] = {}
        silent_s = 0.0
        while True:
            try:
                sections = owner.snapshot.sections()
            except (
                Exception
            ):  # send nothing: the page keeps the old values, and the next iteration tries again
                log.exception("the snapshot for the dashboard failed")
                sections = {}
            changed = {k: v for k, v in sections.items() if sent.get(k) != v}
            for name, body in changed.items():
                self.wfile.write(b"event: %s\ndata: %s\n\n" % (name.encode(), body))
            sent.update(changed)
            silent_s = 0.0 if changed else silent_s + owner.every_s
            if silent_s >= HEARTBEAT_S:
                self.wfile.write(b": keep-alive\n\n")
                silent_s = 0.0
            if ended.wait(owner.every_s):
                return

    # -- responses

    def _json(self, status: HTTPStatus, body: bytes) -> None:
        self._answer(status, body, "application/json")

    def _problem(self, status: HTTPStatus, text: str) -> None:
        self._json(status, msgspec.json.encode({"error": text}))

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self._headers(content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _headers(self, content_type: str) -> None:
        self.send_header("Content-Type", content_type)
        for name, value in HEADERS.items():
            self.send_header(name, value)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("%s " + format, self.address_string(), *args)


def _static_files() -> dict[str, tuple[bytes, str]]:
    """The files of the page by path, with their content types."""
    out = {}
    for file in files("ecdctr.monitor.dashboard").joinpath("page").iterdir():
        content_type = _TYPES.get(file.name.rpartition(".")[2])
        if content_type is not None:
            out["/" + file.name] = (file.read_bytes(), f"{content_type}; charset=utf-8")
    out["/"] = out.pop("/index.html")
    return out
