"""The report in a real browser: every plot is drawn, nothing is complained about, nothing is asked for outside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ecdctr.replay.figures import evaluate
from ecdctr.replay.report.html import write_report
from tests.support.browser import Browser

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


def visited(browse, page: Path, width: int) -> tuple[Browser, list[dict], int]:
    """The tab with its events, the plots of the page, and how wide the page became."""
    found = []

    async def look(tab: Browser) -> None:
        await tab.screen(width, 900)
        await tab.load(page.as_uri())
        plots = json.loads(await tab.js(PLOTS))
        found.append((tab, plots, int(await tab.js("document.scrollingElement.scrollWidth"))))

    browse(look)
    return found[0]


EACH = ("GAUC by day", "PCOC by day", "Calibration", "GAUC by staleness")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390], ids=["desk", "phone"])
def test_every_plot_is_drawn_and_the_page_keeps_to_itself(browse, page, width):
    tab, plots, wide = visited(browse, page, width)
    text = page.read_text()
    assert len(plots) == text.count("<figure>")
    drawn = [plot["name"] for plot in plots]
    assert drawn == [*EACH[:1], "GAUC minus ads-only, by day", *EACH[1:], "Gain by ad history", *EACH]
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


def test_a_request_and_an_error_would_have_been_noticed(browse, tmp_path):
    """The same eyes on a page that does what the report must not."""
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("no"); nothing.there</script>')
    tab, plots, _ = visited(browse, bad, 800)
    assert plots == []
    assert len(tab.of("Network.requestWillBeSent")) == 2
    assert tab.of("Runtime.exceptionThrown")
    assert tab.of("Runtime.consoleAPICalled")
