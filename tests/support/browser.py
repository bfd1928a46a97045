"""Headless Chromium: one browser for the session of a process, and one page for each test."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator

import aiohttp
import pytest

from tests.support.waiting import PATIENCE_S, until, wait_for

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
)  # fmt: skip


class Browser:
    """A page in headless Chromium, controlled by the DevTools protocol; records requests, messages and errors."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._answers: dict[int, asyncio.Future] = {}
        self._count = 0
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.events: list[dict] = []
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            data = json.loads(message.data)
            if (waiting := self._answers.pop(data.get("id"), None)) is not None:
                waiting.set_result(data)
                continue
            self.events.append(data)
            method, params = data.get("method"), data.get("params", {})
            if method == "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            elif method == "Runtime.exceptionThrown":
                self.problems.append(json.dumps(params["exceptionDetails"]))
            elif (method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning")) or (
                method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert")
            ):
                self.problems.append(json.dumps(params))

    async def call(self, method: str, **params):
        self._count += 1
        answer = self._answers[self._count] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        response = await asyncio.wait_for(answer, PATIENCE_S)
        assert "error" not in response, response
        return response["result"]

    async def js(self, expression: str):
        response = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in response, response
        return response["result"].get("value")

    async def until(self, expression: str):
        """Evaluate until the expression is true, and return its value; an element that does not exist yet counts as false."""
        guarded = f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()"
        return await until(
            lambda: self.js(guarded), expression, detail=lambda: str(self.problems), every_s=0.05
        )

    async def text(self, selector: str, *words: str) -> str:
        """The text of an element, once all of the words are in it."""
        element = f"document.querySelector({json.dumps(selector)}).textContent"
        has_all = " && ".join(f"{element}.includes({json.dumps(word)})" for word in words) or "true"
        return await self.until(f"{has_all} && {element}")

    async def load(self, url: str) -> None:
        """Open an address and wait until it has loaded."""
        await self.call("Page.navigate", url=url)

        async def loaded() -> bool:
            return bool(self.of("Page.loadEventFired"))

        await until(loaded, f"load {url}")

    def of(self, method: str) -> list[dict]:
        """The parameters of all events of a method."""
        return [event["params"] for event in self.events if event["method"] == method]

    async def screen(self, width: int, height: int, scheme: str = "light") -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        await self.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    async def press(self, key: str) -> None:
        codes = {"Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, "End": 35, "Home": 36}
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key]
            )


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the debugging protocol."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here: `apt-get install chromium` lets this test run")
    profile = tmp_path_factory.mktemp("profile")
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    file = profile / "DevToolsActivePort"

    def port() -> re.Match[str] | None:
        return re.match(r"(\d+)\n", file.read_text()) if file.exists() else None

    def alive() -> str | None:
        return None if process.poll() is None else f"it ended with {process.returncode}"

    try:
        yield int(wait_for(port, "start Chromium", alive=alive)[1])
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def browse(chromium: int) -> Callable[[Callable[[Browser], Awaitable[None]]], None]:
    """``browse(look)``: run the coroutine function ``look(page)`` on a page of its own."""

    async def main(look: Callable[[Browser], Awaitable[None]]) -> None:
        address = f"http://127.0.0.1:{chromium}/json"
        async with aiohttp.ClientSession() as session:
            async with session.put(f"{address}/new?about:blank") as reply:
                target = await reply.json()
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Browser(socket)
                for domain in ("Runtime", "Page", "Network", "Log"):
                    await page.call(f"{domain}.enable")
                await page.call("Page.bringToFront")  # a page in the background draws nothing
                await look(page)
                page._reader.cancel()
            async with session.get(f"{address}/close/{target['id']}"):
                pass

    return lambda look: asyncio.run(main(look))
