"""``OldClientRelay``: a relay for clients that cannot read the embedded broker's answer to ``ApiVersions`` v3.

librdkafka 2.0, with which Debian's ``kcat`` is built, fails at the tagged fields of that answer. A broker without v3 answers with
error 35 and the versions that it supports (KIP-511), and clients then repeat the request with an older version. The relay gives this
answer, and forwards everything else unchanged. Apache Kafka needs no relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Iterable
from typing import Any

__all__ = ["OldClientRelay"]

_API_VERSIONS, _NEWEST_SAFE, _UNSUPPORTED_VERSION = 18, 2, 35


class OldClientRelay:
    """Listens on one loopback port and forwards to another, in its own thread.

    Parameters
    ----------
    port
        Port for clients.
    target
        Port of the broker.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port, self.target = port, target
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="old-client-relay", daemon=True)

    def start(self) -> None:
        """Return when it listens."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Close every connection and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        try:
            server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        except OSError as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(_cancel(asyncio.all_tasks(self._loop)))
        self._loop.close()

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            broker, onward = await asyncio.open_connection("127.0.0.1", self.target)
            answers = asyncio.ensure_future(_copy(broker, back))
            try:
                await self._requests(client, back, onward)
            finally:
                answers.cancel()
                onward.close()
        back.close()

    async def _requests(
        self, client: asyncio.StreamReader, back: asyncio.StreamWriter, onward: asyncio.StreamWriter
    ) -> None:
        while True:
            size = await client.readexactly(4)
            request = await client.readexactly(struct.unpack(">i", size)[0])
            key, version, correlation = struct.unpack(">hhi", request[:8])
            if key == _API_VERSIONS and version > _NEWEST_SAFE:
                known = struct.pack(
                    ">ihihhh", correlation, _UNSUPPORTED_VERSION, 1, _API_VERSIONS, 0, _NEWEST_SAFE
                )
                back.write(struct.pack(">i", len(known)) + known)
                await back.drain()
                continue
            onward.write(size + request)
            await onward.drain()


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
        sink.close()
