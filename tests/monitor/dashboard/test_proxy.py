"""The dashboard behind a proxy that serves it under a path."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from urllib.parse import urljoin

import pytest

from tests.support.proxies import proxy
from tests.support.waiting import PATIENCE_S

_ADDRESSES = re.compile(r"""(?:href|src)="([^"#][^"]*)"|from "([^"]+)"|EventSource\("([^"]+)"\)""")


@pytest.fixture
def address(make_site, fake_monitor) -> Iterator[str]:
    site = make_site(fake_monitor, refresh_s=0.05)
    site.dashboard.health.enter("live")
    site.dashboard.tick(
        event_clock_ms=fake_monitor.snapshot()["clock"],
        lag={"natural-clicks": 0, "ad-clicks": 0},
        dead_letters={},
        releases=1,
        tpm_months=[],
        topics={"natural-clicks": "natural", "ad-clicks": "ad"},
    )
    with proxy(site.url, "/ecdctr/") as found:
        yield found


def get(url: str) -> str:
    """The body of a response; of an endless one, the first line."""
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        assert answer.status == 200
        body = answer.readline() if url.endswith("/events") else answer.read()
    return body.decode()


def test_case_k10_every_address_of_the_page_is_found_behind_the_path_of_a_proxy(address):
    """Addresses in scripts are relative to the script, those of event streams to the page."""
    to_read, read = [address], {}
    while to_read:
        url = to_read.pop()
        read[url] = get(url)
        if not url.endswith(("/", "dashboard.js", "charts.js", "parts.js")):
            continue
        for link, module, stream in _ADDRESSES.findall(read[url]):
            found = urljoin(address if stream else url, link or module or stream)
            if found not in read and found not in to_read:
                to_read.append(found)
    assert all(url.startswith(address) for url in read), "an address leads out of the path"
    names = {url.removeprefix(address) for url in read}
    assert {"", "dashboard.js", "charts.js", "parts.js", "format.js", "dashboard.css"} <= names
    assert {"api/events", "api/snapshot", "metrics", "healthz", "readyz"} <= names


def test_case_k10_the_page_is_live_behind_the_path_of_a_proxy(address, browse):
    async def look(page):
        await page.load(address)
        await page.text("#status", "live")
        await page.text("#chart-gauc-ad .legend", "A-CTR")
        assert page.problems == []
        assert page.requests and all(r.startswith((address, "data:")) for r in page.requests)

    browse(look)
