"""The dashboard in a real browser: live updates, accessibility, and no requests to other hosts."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

from ecdctr.events.decoder import EventDecoder
from ecdctr.monitor.dashboard import Reason
from ecdctr.monitor.monitor import Monitor
from ecdctr.monitor.steps import ObservedStep
from ecdctr.replay.sources import Simulator

HEIGHT = 2000
CHARTS = ("gauc", "ne", "pcoc", "ctr")


@pytest.fixture
def clock():
    """The wall clock of the dashboard, moved by the test."""
    return SimpleNamespace(s=time.time())


@pytest.fixture
def site(make_site, fake_monitor, clock):
    site = make_site(fake_monitor, refresh_s=0.05, wall=lambda: clock.s)
    site.dashboard.health.enter("live")
    return site


def work(dashboard, fake_monitor, steps: int = 3) -> None:
    """Report some steps, then call the functions that a worker calls once a second."""
    for kind, rows in (("natural", 500), ("ad", 50)):
        for _ in range(steps):
            dashboard.stepped(kind, np.full(rows, (dashboard._wall() - 2) * 1000, np.int64), rows=rows)
    dashboard.tick(
        event_clock_ms=fake_monitor.snapshot()["clock"],
        lag={"natural-clicks": 70, "ad-clicks": 7},
        dead_letters={"json": steps},
        releases=1,
        tpm_months=["2026-08"],
        topics={"natural-clicks": "natural", "ad-clicks": "ad"},
    )
    dashboard.deliver()


def pixels(figure: str) -> str:
    """A checksum of the pixels of a chart."""
    return (
        f"(() => {{ const c = document.querySelector('#{figure} canvas'); if (!c) return 0; let h = 0;"
        "for (const x of c.toDataURL()) h = (h * 31 + x.charCodeAt(0)) >>> 0; return h; })()"
    )


def test_charts_update_alerts_appear_and_disappear_and_no_other_host_is_contacted(
    site, fake_monitor, browse, clock
):
    async def look(page):
        work(site.dashboard, fake_monitor)
        await page.screen(1300, HEIGHT)
        await page.call("Page.navigate", url=site.url + "/")
        figures = [f"chart-{m}-{d}" for d in ("natural", "ad") for m in CHARTS]
        figures += ["chart-transfer", "chart-forgetting", "chart-staleness", "chart-rows", "chart-lag"]
        figures += ["chart-dead-letters", "chart-freshness"]
        before = {f: await page.until(pixels(f)) for f in figures}
        await page.until("document.querySelector('#status').textContent.trim() === 'live'")
        await page.text("#chart-gauc-ad .legend", "A-CTR")

        fake_monitor.hours += 40
        fake_monitor.gain = {"value": -0.03, "low": -0.05, "high": -0.01}
        clock.s += 1  # the recent past keeps one sample each refresh, by this clock
        work(site.dashboard, fake_monitor, steps=9)
        for figure in figures:
            if figure != "chart-staleness":
                await page.until(f"{pixels(figure)} !== {before[figure]}")

        assert await page.js("document.querySelector('#alerts-none').hidden") is False
        alert = fake_monitor.alert()
        site.dashboard.deliver()
        await page.until("document.querySelectorAll('#alerts-active li').length === 1")
        shown = await page.js("document.querySelector('#alerts-active li').textContent")
        for words in (alert.what, "1.62", "limit 1.5", "2026-09-22 05:00", alert.cause, "critical"):
            assert words in shown  # markup in a name is text, not markup
        await page.until("document.title === '(1) ecdctr monitor'")
        fake_monitor.resolve(alert)
        site.dashboard.deliver()
        await page.until("document.querySelectorAll('#alerts-active li').length === 0")
        await page.until(
            "document.querySelector('#alerts-past').textContent.includes('Recently resolved: 1')"
        )

        assert page.problems == []
        assert page.requests and all(r.startswith((site.url + "/", "data:")) for r in page.requests)

    browse(look)


def test_tables_have_the_values_of_the_charts_and_windows_can_be_selected(site, fake_monitor, browse):
    async def look(page):
        work(site.dashboard, fake_monitor)
        await page.screen(1300, HEIGHT)
        await page.call("Page.navigate", url=site.url + "/?window=1h")
        await page.until(pixels("chart-gauc-ad"))
        await page.js("document.querySelector('#chart-gauc-ad summary').click()")
        rows = await page.until(
            "[...document.querySelectorAll('#chart-gauc-ad tbody tr')].map((r) => [...r.children].map((c) => c.textContent))"
        )
        series = fake_monitor.snapshot()["series"]["1h"]
        gauc = [series["ad"]["arms"][arm]["gauc"] for arm in ("actr", "ads_only")]
        assert len(rows) == len(series["t"])
        for row, k in zip(rows, reversed(range(len(rows))), strict=True):
            assert row[1:] == ["–" if column[k] is None else f"{column[k]:.3f}" for column in gauc]

        # Sections arrive one event after the other.
        await page.text("#drift-table tbody", "category", "0.410", "share of bin 7: 12 % → 31 %")
        await page.text("#marks table", "CPM release", "2026-08")

        await page.js("document.querySelector('#window input[value=\"5m\"]').click()")
        await page.until("document.querySelector('#chart-gauc-ad .empty').hidden === false")
        await page.until("location.search.includes('window=5m')")
        assert page.problems == []

    browse(look)


def test_it_can_be_used_with_keyboard_and_screen_reader(site, fake_monitor, browse):
    async def look(page):
        work(site.dashboard, fake_monitor)
        await page.screen(1300, HEIGHT)
        await page.call("Page.navigate", url=site.url + "/")
        await page.until(pixels("chart-gauc-ad"))
        await page.press("Tab")
        assert "Skip to alerts" in await page.js("document.activeElement.textContent")

        await page.js("document.querySelector('#chart-gauc-ad .plot').focus()")
        assert await page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        await page.press("End")
        await page.press("ArrowLeft")
        k = len(fake_monitor.snapshot()["series"]["1h"]["t"]) - 2
        expected = fake_monitor.snapshot()["series"]["1h"]["ad"]["arms"]["actr"]["gauc"][k]
        await page.text("#chart-gauc-ad [role=status]", f"A-CTR {expected:.3f}")  # of the second key

        await page.text(
            "#drift-table tbody", "category"
        )  # the last of the tables that the tree below must hold
        nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
        named = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]}
        roles = {role for role, _ in named}
        assert {"banner", "main", "navigation", "contentinfo", "table", "radio"} <= roles
        assert ("region", "Alerts") in named and ("group", "GAUC, ads") in named
        assert all(name for role, name in named if role in ("radio", "link", "region", "navigation"))
        live = "document.querySelector('#alerts-active').getAttribute('aria-live')"
        assert await page.js(live) == "polite"

    browse(look)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1300])
def test_text_is_legible_on_phones_and_in_dark_mode(site, fake_monitor, browse, width, scheme):
    async def look(page):
        fake_monitor.alert()
        fake_monitor.alert("other", severity="warning")
        work(site.dashboard, fake_monitor)
        await page.screen(width, HEIGHT, scheme)
        await page.call("Page.navigate", url=site.url + "/")
        await page.until(pixels("chart-gauc-ad"))
        await page.until("document.querySelectorAll('#alerts-active li').length === 2")
        assert await page.js("document.documentElement.scrollWidth") <= width
        poor = json.loads(await page.js(CONTRAST))
        assert poor == []

    browse(look)


# Every element with text of its own: WCAG's contrast ratio against the nearest painted background, at least 4.5.
CONTRAST = """
(() => {
  const light = ([r, g, b]) => { const f = [r, g, b].map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length || e.closest(".sr-only, .skip, noscript")) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.push([e.textContent.trim().slice(0, 40), ratio.toFixed(2)]);
  }
  return JSON.stringify(poor);
})()
"""


def test_a_lost_connection_is_shown_and_restored(make_site, fake_monitor, browse):
    async def look(page):
        first = make_site(fake_monitor, refresh_s=0.05)
        first.dashboard.health.enter("live")
        work(first.dashboard, fake_monitor)
        await page.screen(1300, HEIGHT)
        await page.call("Page.navigate", url=first.url + "/")
        await page.until("document.querySelector('#status').textContent.includes('live')")
        first.dashboard.close()
        await page.until("document.querySelector('#status').textContent.includes('connection lost')")
        await page.text("#reason", "may be old")
        first.dashboard.serve("127.0.0.1", first.port)
        await page.until("document.querySelector('#status').textContent.includes('live')")
        await page.until("document.querySelector('#reason').textContent === ''")

    browse(look)


def test_every_reason_that_holds_is_shown_with_its_beginning_and_an_unknown_lag_as_unknown(
    site, fake_monitor, browse
):
    async def look(page):
        work(site.dashboard, fake_monitor)
        await page.screen(1300, HEIGHT)
        await page.call("Page.navigate", url=site.url + "/")
        await page.until("document.querySelector('#status').textContent.trim() === 'live'")
        health = site.dashboard.health
        health.condition(Reason.NO_LEADER, "ad-clicks[1] has no leader")
        health.condition(Reason.OTHER_MEMBER, "console-1 is a member")
        lag = {"natural-clicks": 0, "ad-clicks": None}
        site.dashboard.tick(event_clock_ms=fake_monitor.snapshot()["clock"], lag=lag)
        await page.until(
            "document.querySelector('#status').textContent.trim() === 'partition without leader'"
        )
        shown = "document.querySelector('#reason').textContent"
        await page.until(
            f"/^ad-clicks.1. has no leader .since 20.* UTC.; console-1 is a member/.test({shown})"
        )
        await page.until("document.querySelector('#facts').textContent.includes('Lagunknown')")
        health.condition(Reason.NO_LEADER, None)
        health.condition(Reason.OTHER_MEMBER, None)
        health.lag(0)
        await page.until("document.querySelector('#status').textContent.trim() === 'live'")
        await page.until(f"{shown} === ''")

    browse(look)


def test_the_real_monitor_fills_the_page(make_site, browse):
    """Ten simulated days with artificial predictions and no trainer: every chart that needs no trainer is drawn."""
    simulator = Simulator(seed=3, days=11, live_from=1, users=150, natural_per_day=1500, ads_per_day=1500)
    decoder = EventDecoder(simulator.feature_specs())
    monitor = Monitor(decoder.schema)
    rng = np.random.default_rng(0)
    for frame in simulator.frames():
        batch = decoder.from_frame(frame).batch
        for domain, kind, arms in ((0, "natural", ("cpm",)), (1, "ad", ("actr", "ads_only"))):
            rows = batch.take(np.flatnonzero(batch.domain == domain))
            if len(rows):
                guess = {a: rng.uniform(0.02, 0.3, len(rows)).astype(np.float32) for a in arms}
                monitor.observe(
                    [ObservedStep(kind, rows, np.arange(len(rows)), guess, dict.fromkeys(arms, 0.3), 0.01)]
                )
    monitor.month(("2026-01",))
    site = make_site(monitor, refresh_s=0.05)
    site.dashboard.health.enter("live")
    site.dashboard.tick(event_clock_ms=monitor.snapshot()["clock"], lag={"ad-clicks": 0})
    site.dashboard.deliver()

    async def look(page):
        await page.screen(1300, HEIGHT)
        await page.call("Page.navigate", url=site.url + "/?window=1d")
        for figure in (f"chart-{m}-{d}" for d in ("natural", "ad") for m in CHARTS):
            await page.until(pixels(figure))
        await page.until(pixels("chart-transfer"))
        await page.text("#drift-table tbody", "category", "slot")
        await page.text("#marks table", "TPM 2026-01")
        assert page.problems == []

    browse(look)
