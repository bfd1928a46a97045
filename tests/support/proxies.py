"""A reverse proxy that serves a site under a path, as nginx or an ingress does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import web

from tests.support.waiting import PATIENCE_S

_SESSION = web.AppKey("session", aiohttp.ClientSession)
_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "host")


@contextmanager
def proxy(url: str, path: str) -> Iterator[str]:
    """Forward requests below ``path`` (``/ecdctr/``) to the root of ``url``, unbuffered; yields the address of ``path``.

    All other paths get 404.
    """
    ready = threading.Event()
    address: list[str] = []
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def forward(request: web.Request) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        target = f"{url}/{request.match_info['rest']}"
        async with request.app[_SESSION].request(
            request.method, target, headers=headers, params=request.query
        ) as answer:
            out = web.StreamResponse(
                status=answer.status,
                headers={k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP},
            )
            await out.prepare(request)
            async for data, _ in answer.content.iter_chunks():
                await out.write(data)
            return out

    async def serve() -> None:
        app = web.Application()
        app.router.add_get(path + "{rest:.*}", forward)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
            app[_SESSION] = session
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            address.append(f"http://127.0.0.1:{runner.addresses[0][1]}{path}")
            ready.set()
            await ended.wait()
            await runner.cleanup()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(PATIENCE_S)
