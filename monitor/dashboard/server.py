"""The worker's HTTP server: ``/metrics``, health, JSON, server-sent events and the dashboard page."""

from __future__ import annotations

import logging
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from ecdctr.monitor.dashboard.health import Health
from ecdctr.monitor.dashboard.snapshot_json import SnapshotJson
from ecdctr.state.errors import ConfigError

__all__ = ["MonitorServer"]

log = logging.getLogger("ecdctr.monitor")

MAX_STREAMS = 16
"""Maximum number of concurrent event streams (one per open page); each occupies a thread."""

HEARTBEAT_S = 15.0
"""Interval of comments in an idle stream, because proxies and browsers drop silent connections."""

REQUEST_TIMEOUT_S = 30.0
"""A client that neither sends nor receives for this long is disconnected."""

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
    """HTTP server that handles requests in its own threads.

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
    every_s
        Seconds between two checks for changed sections, per open page.
    max_streams
        Maximum number of concurrent event streams; default :data:`MAX_STREAMS`.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Health,
        snapshot: SnapshotJson,
        *,
        every_s: float = 2.0,
        max_streams: int | None = None,
    ) -> None:
        self.registry, self.health, self.snapshot = registry, health, snapshot
        self.every_s = every_s
        self.closing = threading.Event()
        self.max_streams = MAX_STREAMS if max_streams is None else max_streams
        self.streams = threading.BoundedSemaphore(self.max_streams)
        self.files = _static_files()
        self._http: _Http | None = None

    def start(self, host: str, port: int) -> int:
        """Start listening and return the port; with ``port=0`` the operating system chooses a free one."""
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
        """Stop listening and end the open streams."""
        self.closing.set()
        http, self._http = self._http, None
        if http is not None:
            http.shutdown()
            http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, owner: MonitorServer, host: str, port: int) -> None:
        self.owner = owner
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("a request from %s was interrupted", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    server_version = "ecdctr"
    sys_version = ""
    timeout = REQUEST_TIMEOUT_S

    def do_GET(self) -> None:
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
        elif not owner.streams.acquire(blocking=False):
            self._problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"more than {owner.max_streams} event streams are open: close a page",
            )
        else:
            try:
                self._stream()
            except OSError:  # the page was closed
                log.debug("an event stream ended")
            finally:
                owner.streams.release()

    def _stream(self) -> None:
        """Send all sections, then each section whenever it has changed, until the client disconnects or the server is closed."""
        owner = self.server.owner
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
            if owner.closing.wait(owner.every_s):
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
