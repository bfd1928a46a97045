"""The report in a real browser: every plot is drawn, nothing is complained about, nothing is asked for outside."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from ecdctr.replay.figures import evaluate
from ecdctr.replay.report.html import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"
)

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)  # fmt: skip
PATIENCE_S = 60

PLOTS = """JSON.stringify([...document.querySelectorAll("figure svg")].map(svg => {
  const box = svg.getBoundingClientRect();
  const shown = e => { const b = e.getBoundingClientRect(); return b.width > 0 || b.height > 0; };
  const marks = [...svg.querySelectorAll("path, use, line, polyline, circle")].filter(shown);
  return {
    name: svg.getAttribute("aria-label"), width: box.width, height: box.height, marks: marks.length,
    text: [...svg.querySelectorAll("text")].filter(shown).length,
  };
}))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report with both domains, three arms, four days, releases, and a source that tries to break out."""
    rng = np.random.default_rng(0)
    n = 4_000
    label = rng.random(n) < 0.2
    domain = (np.arange(n) % 3 == 0).astype(np.uint8)

    def scores(signal):
        return np.clip(0.2 + signal * (label - 0.2) + rng.normal(0, 0.05, n), 0.001, 0.999)

    columns = {
        "ts": np.sort(rng.integers(0, 4 * 86_400_000, n)), "user": rng.integers(0, 60, n),
        "item": rng.integers(0, 40, n), "domain": domain, "label": label.astype(np.uint8),
        "p_actr": np.where(domain == 1, scores(0.05), np.nan),
        "p_ads_only": np.where(domain == 1, scores(0.02), np.nan),
        "p_cpm": np.where(domain == 0, scores(0.05), np.nan),
    }  # fmt: skip
    result = evaluate(columns, ["actr", "ads_only", "cpm"], samples=50, day_samples=20)
    meta = {
        "source": 'log "<img src=http://example.com/x.png><script>alert(1)</script>',
        "releases": [86_400_000, 2 * 86_400_000],
        "rows": n,
    }
    return write_report(tmp_path_factory.mktemp("report"), "Replay", result, meta)


@pytest.fixture(scope="module")
def port(tmp_path_factory) -> Iterator[int]:
    profile = tmp_path_factory.mktemp("profile")
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            told = profile / "DevToolsActivePort"
            for _ in range(PATIENCE_S * 20):
                if told.is_file() and told.read_text().count("\n"):
                    break
                try:
                    browser.wait(timeout=0.05)
                    pytest.fail(f"Chromium ended with {browser.returncode}")
                except subprocess.TimeoutExpired:
                    continue
            yield int(told.read_text().split("\n")[0])
        finally:
            browser.terminate()


class Tab:
    """A page of the browser, driven through its debugging protocol; every event is kept."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.events: list[dict] = []

    async def ask(self, method: str, **params: object) -> dict:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    async def wait_for(self, method: str) -> None:
        while not any(e["method"] == method for e in self.events):
            self.events.append(await self._socket.receive_json())

    async def value(self, expression: str) -> object:
        found = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"]["value"]

    def of(self, method: str) -> list[dict]:
        return [e["params"] for e in self.events if e["method"] == method]


async def visit(port: int, url: str, width: int) -> tuple[Tab, list[dict], int]:
    """Open a page; gives the tab with its events, its plots, and how wide the page became."""
    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as reply:
            target = (await reply.json())["webSocketDebuggerUrl"]
        async with session.ws_connect(target, max_msg_size=0) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.ask(f"{domain}.enable")
            await tab.ask(
                "Emulation.setDeviceMetricsOverride",
                width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
            )  # fmt: skip
            await tab.ask("Page.navigate", url=url)
            await tab.wait_for("Page.loadEventFired")
            plots = json.loads(str(await tab.value(PLOTS)))
            return tab, plots, int(await tab.value("document.scrollingElement.scrollWidth"))


def visited(port, page, width):
    async def bounded():
        async with asyncio.timeout(PATIENCE_S):
            return await visit(port, page.as_uri(), width)

    return asyncio.run(bounded())


EACH = ("GAUC by day", "PCOC by day", "Calibration", "GAUC by staleness")


@pytest.mark.parametrize("width", [1280, 390], ids=["desk", "phone"])
def test_every_plot_is_drawn_and_the_page_keeps_to_itself(port, page, width):
    tab, plots, wide = visited(port, page, width)
    text = page.read_text()
    assert len(plots) == text.count("<figure>")
    drawn = [plot["name"] for plot in plots]
    assert drawn == [*EACH[:1], "GAUC against ads-only, by day", *EACH[1:], "Gain by ad history", *EACH]
    for plot in plots:
        assert plot["width"] > 200, plot
        assert plot["height"] > 100, plot
        assert plot["marks"] > 10, plot
        assert plot["text"] >= 4, plot
    assert wide <= width
    assert tab.of("Runtime.exceptionThrown") == []
    assert tab.of("Runtime.consoleAPICalled") == []
    assert tab.of("Log.entryAdded") == []
    asked = {r["request"]["url"] for r in tab.of("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}


def test_a_request_and_an_error_would_have_been_noticed(port, tmp_path):
    """The same eyes on a page that does what the report must not."""
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("no"); nothing.there</script>')
    tab, plots, _ = visited(port, bad, 800)
    assert plots == []
    assert len(tab.of("Network.requestWillBeSent")) == 2
    assert tab.of("Runtime.exceptionThrown")
    assert tab.of("Runtime.consoleAPICalled")
