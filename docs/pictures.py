"""Make the pictures of docs/monitoring.md and README.md: ``python docs/pictures.py`` (needs Chromium; takes about two minutes).

A simulated marketplace is replayed through the trainer and monitored as in a worker. On live day 14 two faults start: half of the
rows of both streams have another ``category``, as after a faulty release of a producer, and half of the ad clicks are lost.
Screenshots of the page are taken before and after.

The pictures of a bad model and of a bad stream use data made by this script: predictions that get worse from the twelfth day on, and
ten minutes of a worker in which one partition stops after the sixth minute.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
import polars as pl
from rich.console import Console

from ecdctr import factory
from ecdctr.commands.tpm_train import train_tpm
from ecdctr.settings import load_settings
from ecdctr.sources import open_with_features
from ecdctr.models.training import Engine
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.schema import FeatureSchema
from ecdctr.monitor.steps import ObservedStep
from ecdctr.monitor.monitor import Monitor
from ecdctr.monitor.settings import ProbeSettings, WatchSettings
from ecdctr.monitor.dashboard import Dashboard
from ecdctr.events.settings import KafkaSettings
from ecdctr.replay.sources import SourceLog, steps_of
from ecdctr.replay.sources import Simulator
from ecdctr.streams.reporting import Reporter
from ecdctr.streams.settings import MonitorSettings, TopicSettings

DOCS = Path(__file__).parent
DAYS, LIVE, BREAKS = 108, 88, 14
DAY_MS = 86_400_000
PRODUCER = {"pcoc": "#chart-pcoc-ad", "ctr": "#chart-ctr-ad", "drift": "#drift", "alerts": "#alerts"}
MODEL = {"transfer": "#transfer", "forgetting": "#forgetting"}


class Broken:
    """The simulator, with a fault from a given day on."""

    def __init__(self, source, day: int, breaks) -> None:
        self.source, self.day, self.name, self._breaks = source, day, source.name, breaks

    def count(self) -> int | None:
        return self.source.count()

    def frames(self) -> Iterator[pl.DataFrame]:
        first: int | None = None
        for frame in self.source.frames():
            first = int(frame["ts"][0]) // DAY_MS if first is None else first
            day = int(frame["ts"][0]) // DAY_MS - first
            yield frame if day < self.day else self._breaks(frame, np.random.default_rng(day))


def is_ad(frame: pl.DataFrame) -> pl.Series:
    return frame["domain"].cast(pl.String).is_in(["ad", "1"])


def producer(frame: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Half of the rows get another category, and half of the ad clicks are removed."""
    hit, lost = pl.Series(rng.random(frame.height) < 0.5), pl.Series(rng.random(frame.height) < 0.5) & is_ad(frame)
    category, label = frame["category"], frame["label"]
    return frame.with_columns(
        pl.select(pl.when(hit).then(category[0]).otherwise(category)).to_series().alias("category"),
        pl.select(pl.when(lost).then(0).otherwise(label)).to_series().cast(label.dtype).alias("label"),
    )


def main() -> None:
    began = time.monotonic()
    start = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=DAYS)
    text = f"sim:seed=7,days={DAYS},live_from={LIVE},history_per_day=4000,natural_per_day=16000,ads_per_day=1600,start={start}"
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_settings(
            None,
            [
                f'state.folder="{folder}/state"',
                'tpm.month="30d"',
                f'tpm.month_origin="{start}"',
                'monitor.watch.probes.period="4d"',
                'schedule.release_every="4d"',
            ],
            environ={},
        )
        train_tpm(Console(), Console(stderr=True), loaded, text)
        source, settings = open_with_features(text, loaded)
        first = int(dt.datetime.combine(start, dt.time(), dt.UTC).timestamp() * 1000) + LIVE * DAY_MS
        run(source, settings, first, producer, PRODUCER, before="dashboard")
    model()
    stream()
    print(f"pictures in {DOCS} after {time.monotonic() - began:.0f} s")


def run(source, settings, first_ms: int, breaks, pictures: dict[str, str], before: str = "") -> None:
    """Replay all live days; take the page before the fault, then parts of it at the end."""
    log = SourceLog(Broken(source, BREAKS, breaks), factory.decoder(settings))
    engine = factory.memory_engine(settings)
    quiet = MonitorSettings(alerts_topic="", port=0, watch=settings.monitor.watch)
    report = Reporter(FeatureSchema(settings.features, settings.model.dim), KafkaSettings(), TopicSettings(), quiet)
    port = report.dashboard.serve("127.0.0.1", 0)
    report.begin(engine)
    steps = steps_of(log.batches(), natural_batch=settings.model.natural_batch, ad_batch=settings.model.ad_batch)
    play(engine, report, steps, first_ms + BREAKS * DAY_MS, source.count() or 0)
    if before:
        asyncio.run(photograph(port, {before: None}))
    play(engine, report, steps, first_ms + DAYS * DAY_MS, source.count() or 0)
    asyncio.run(photograph(port, {f"bad-{name}": at for name, at in pictures.items()}))
    report.close()


def model() -> None:
    """Twenty days of simulated predictions. From the twelfth day on A-CTR is worse than the control, and CPM gets worse on rows
    that are older than a week."""
    days, bad = 20, 12
    sim = Simulator(seed=3, days=days, live_from=0, users=1500, items=400, natural_per_day=4000, ads_per_day=3000)
    decoder = EventDecoder(sim.feature_specs())
    monitor = Monitor(FeatureSchema(sim.feature_specs(), 4), WatchSettings(probes=ProbeSettings(period="4d", periods=4)))
    dashboard = Dashboard(monitor, refresh_s=0.1)
    port = dashboard.serve("127.0.0.1", 0)
    rng = np.random.default_rng(0)

    def blurred(p, noise: float):
        z = np.log(p / (1 - p)) + rng.normal(0, noise, len(p))
        return (1 / (1 + np.exp(-z))).astype(np.float32)

    for day in range(days):
        frame = sim.day(day)
        batch, p = decoder.from_frame(frame).batch, frame["oracle"].to_numpy()
        for number, (kind, noises) in enumerate((("natural", {"cpm": 0.5}), ("ad", {"actr": 0.5 if day < bad else 2.0, "ads_only": 1.0}))):
            at = np.flatnonzero(batch.domain == number)
            scores = {arm: blurred(p[at], noise) for arm, noise in noises.items()}
            monitor.observe([ObservedStep(kind, batch.take(at), np.arange(len(at)), scores, {}, 1.0)])
        now = monitor.clock or 0

        def predict(rows, arm: str):
            age = np.maximum(0.0, (now - rows.ts) / DAY_MS - 7)
            known = 1.0 if arm != "cpm" else np.exp(-0.15 * age * (day >= bad))
            z = known * (2 * rows.label - 1) + np.random.default_rng(1).normal(0, 1.5, len(rows))
            return (1 / (1 + np.exp(-z))).astype(np.float32)

        monitor.score_probes(predict)
        dashboard.snapshot(fresh=True)
    asyncio.run(photograph(port, {f"bad-{name}": at for name, at in MODEL.items()}))
    dashboard.close()


def stream() -> None:
    """Ten minutes of a simulated worker: 900 rows per second; after the sixth minute half of the ads stop, and a producer sends
    events that cannot be decoded."""
    rng = np.random.default_rng(0)
    now = [time.time() - 600]
    dashboard = Dashboard(version="", now=lambda: now[0], wall=lambda: now[0], refresh_s=2.0)
    dashboard.health.enter("live")
    port = dashboard.serve("127.0.0.1", 0)
    lag, dead = 40.0, 0
    for second in range(600):
        now[0] += 1.0
        bad = max(0, second - 360)
        for kind, rows in (("natural", 850), ("ad", 50)):
            age = rng.gamma(4.0, 0.6, rows)
            if kind == "ad" and bad:
                age[: rows // 4] += bad  # the rows that are still read from that partition get older
            dashboard.stepped(kind, ((now[0] - age) * 1000).astype(np.int64), rows=rows // 2 if bad and kind == "ad" else rows)
        lag = 40 * rng.random() if not bad else lag + 20 + 10 * rng.random()
        dead += int(rng.random() < 0.01) if not bad else int(rng.integers(0, 4))
        dashboard.tick(
            event_clock_ms=int(now[0] * 1000),
            lag={"natural-clicks": int(40 * rng.random()), "ad-clicks": int(lag)},
            dead_letters={"json": dead},
            topics={"natural-clicks": "natural", "ad-clicks": "ad"},
        )
    asyncio.run(photograph(port, {"bad-stream": "#stream"}))
    dashboard.close()


def play(engine: Engine, report: Reporter, steps, until_ms: int, rows: int) -> None:
    """Report steps up to an event time to the dashboard, as a worker does."""
    printed, day = 0.0, engine.clock // DAY_MS
    for step in steps:
        began = time.monotonic()
        result = engine.run(step)
        report.stepped(engine, step, result, time.monotonic() - began)
        if engine.clock // DAY_MS != day:
            day = engine.clock // DAY_MS
            report.drain()
            report.monitor.score_probes(engine.trainer.predict)
        if time.monotonic() - printed > 1:
            printed = time.monotonic()
            left = rows - sum(engine.progress.rows.values())
            report.dashboard.tick(
                event_clock_ms=engine.clock,
                lag={"natural-clicks": left * 10 // 11, "ad-clicks": left // 11},
                releases=engine.progress.releases,
                tpm_months=list(engine.trainer.cpm_months),
                topics={"natural-clicks": "natural", "ad-clicks": "ad"},
            )
            report.dashboard.deliver()
        if engine.clock >= until_ms:
            break
    report.drain()  # the page must show every step
    report.dashboard.snapshot(fresh=True)


async def photograph(port: int, pictures: dict[str, str | None]) -> None:
    """Pictures of parts of the page (a CSS selector), or of its top (None)."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        sys.exit("Chromium is needed: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        browser = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0",
             f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        try:
            port_file = Path(profile, "DevToolsActivePort")
            while not (port_file.exists() and (found := re.match(r"(\d+)\n", port_file.read_text()))):
                await asyncio.sleep(0.1)
            async with aiohttp.ClientSession() as session:
                targets = await (await session.get(f"http://127.0.0.1:{found[1]}/json")).json()
                address = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    await take(socket, f"http://127.0.0.1:{port}/", pictures)
        finally:
            browser.terminate()
            browser.wait(10)


async def take(socket: aiohttp.ClientWebSocketResponse, url: str, pictures: dict[str, str | None]) -> None:
    count = 0

    async def call(method: str, **params):
        nonlocal count
        count += 1
        await socket.send_json({"id": count, "method": method, "params": params})
        while (said := json.loads((await socket.receive()).data)).get("id") != count:
            pass
        return said["result"]

    await call("Emulation.setDeviceMetricsOverride", width=1280, height=1660, deviceScaleFactor=1, mobile=False)
    await call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    await call("Page.navigate", url=url)
    await asyncio.sleep(5)  # the last sections to come
    for name, selector in pictures.items():
        clip = {"x": 0, "y": 0, "width": 1280, "height": 1660, "scale": 1}
        if selector:
            box = f"(() => {{ const r = document.querySelector('{selector}').getBoundingClientRect(); return JSON.stringify([r.x + scrollX, r.y + scrollY, r.width, r.height]) }})()"
            x, y, w, h = json.loads((await call("Runtime.evaluate", expression=box))["result"]["value"])
            clip |= {"x": x - 8, "y": y - 8, "width": w + 16, "height": min(h, 900) + 16}
        shot = await call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        (DOCS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main()
