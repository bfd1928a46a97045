"""``python -m tests.compat.record_state``: record the state folder and the log again, with the present version.

The folder that the tests read was recorded with a version whose packages stood at the top level. It is recorded again
only after an intended change of format, which the change log mentions.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ecdctr import factory
from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.sources import Simulator
from ecdctr.settings import Settings, dump_toml, load_settings
from ecdctr.state.checkpoints import CheckpointStore
from ecdctr.state.snapshots import RocksEmbeddingStore
from ecdctr.streams.embedded import EmbeddedBroker
from ecdctr.streams.producer import produce
from ecdctr.streams.topics import ensure_topics
from tests.compat.machine import this_machine
from tests.compat.state_folder import (
    CONFIG,
    FACTS,
    LOG,
    RECORDED,
    STATE,
    Record,
    Site,
    pack,
    read_topics,
    send_again,
    write_log,
)

HISTORY_DAYS, LIVE_DAYS = 4, 6
WORLD = Simulator(
    seed=23, days=HISTORY_DAYS + LIVE_DAYS, live_from=HISTORY_DAYS, users=80, items=40, categories=6,
    history_per_day=500, natural_per_day=350, ads_per_day=200, month_days=2,
)  # fmt: skip
LEARNED_DAYS = 4.5
"""Live days that the worker learns before it is killed."""

FEATURES = (
    FeatureSpec(name="user", field="user_id", buckets=512, tpm=True),
    FeatureSpec(name="item", field="item_id", buckets=256, tpm=True),
    FeatureSpec(name="category", buckets=64, tpm=True),
    FeatureSpec(name="slot", buckets=32),
    FeatureSpec(name="hour", field="@hour", buckets=24),
    FeatureSpec(name="tags", kind="bag", buckets=64, max_length=3),
    FeatureSpec(name="x", kind="numeric"),
)
OVERRIDES = (
    'kafka.brokers=["127.0.0.1:1"]',
    'state.folder="state"',
    "topics.partitions=2",
    "state.checkpoint_every_s=1000",
    "state.checkpoint_every_steps=16",
    "state.keep_checkpoints=2",
    "worker.max_idle_s=0.5",
    "worker.max_wait_s=0.5",
    "monitor.port=0",
    "events.oracle_field=oracle",
    "events.list_field=list_id",
    "model.dim=4",
    "model.hidden=[8]",
    "model.threads=1",
    "model.natural_batch=64",
    "model.ad_batch=32",
    "model.natural_score_share=0.5",
    "model.stack_every=12h",
    "tpm.dim=4",
    "tpm.hidden=[8]",
    "tpm.batch=128",
    "tpm.month=2d",
    'tpm.month_origin="2026-01-01"',
    "tpm.live=true",
    "schedule.first_release_after=12h",
    "schedule.release_every=1d",
)
BROKEN = (b"", b"not JSON", b'{"event_id": "half', b'{"event_id":"e","ts":1,"user_id":"u"}', b"\xff\xfe")
"""Invalid messages, each for a different reason or in a different form."""


def settings() -> Settings:
    """The configuration that is recorded."""
    return factory.use_features(
        load_settings(None, OVERRIDES, environ={}).settings, FEATURES, configured=False
    )


def day(number: int) -> pl.DataFrame:
    """Rows of a day: the simulator's columns, a bag, a list, and numbers of few digits."""
    frame = WORLD.day(number)
    tags = [
        [f"c{c}", *(f"t{i % k}" for k in (3, 5) if i % k)]
        for c, i in frame.select("category", "item_id").iter_rows()
    ]
    lists = pl.format("l{}-{}", pl.lit(number), pl.int_range(pl.len()) // 4)
    return frame.with_columns(
        pl.Series("tags", tags), lists.alias("list_id"), pl.col("x").round(3), pl.col("oracle").round(4)
    )


def send_broken(config: Settings, values: Sequence[bytes]) -> None:
    """Send messages without encoding them, at the ends of both partitions of the ad topic."""
    with_end = {
        p: sum(1 for r in read_topics(config.kafka, [config.topics.ad], {}) if r.partition == p)
        for p in range(config.topics.partitions)
    }
    records = []
    for i, value in enumerate(values):
        p = i % config.topics.partitions
        records.append(
            Record(
                config.topics.ad, p, with_end[p], 1_767_225_600_000, None, value.decode("latin-1"), [], True
            )
        )
        with_end[p] += 1
    send_again(config.kafka, records)


def record(folder: Path, address: str) -> None:
    """Create the state folder in ``folder`` and record its contents.

    1. Months of TPM from files, by ``ecdctr tpm train``.
    2. A worker learns the live days in two portions: JSON, then packed messages and some invalid ones. It is killed
       (signal 9) when the journal has planned every record.
    3. More records are sent, which no worker learns.
    """
    RECORDED.mkdir(exist_ok=True)
    CONFIG.write_text(dump_toml(settings()), encoding="utf-8")
    site = Site(folder, address)
    config = site.settings
    history = folder / "history.parquet"
    pl.concat([day(d) for d in range(HISTORY_DAYS)]).write_parquet(history)
    subprocess.run(site.command("tpm", "train", str(history), "--partial"), check=True, cwd=folder)  # 1

    ensure_topics(config.kafka, config.topics)
    days = [day(d) for d in range(HISTORY_DAYS, HISTORY_DAYS + LIVE_DAYS)]
    rows = pl.concat(days)
    until = WORLD.start_ms + int((HISTORY_DAYS + LEARNED_DAYS) * 86_400_000)
    learned, rest = rows.filter(pl.col("ts") < until), rows.filter(pl.col("ts") >= until)
    half = len(learned) * 2 // 3
    produce([learned[:half]], config.kafka, config.topics)  # 2
    worker = site.start()
    site.train(worker)
    produce([learned[half:]], config.kafka, config.topics, packed=20)
    send_broken(config, BROKEN)
    site.train(worker)
    worker.kill()
    worker.wait()
    ends = {f"{topic} {partition}": end for (topic, partition), end in site.ends().items()}
    letters = [config.topics.dead_letter(t) for t in config.topics.domains]
    for name in letters:
        ends[f"{name} 0"] = sum(1 for _ in read_topics(config.kafka, [name], {}))

    half = len(rest) // 2
    produce([rest[:half]], config.kafka, config.topics)  # 3
    produce([rest[half:]], config.kafka, config.topics, packed=20)
    send_broken(config, BROKEN[:2])
    write_log(LOG, read_topics(config.kafka, [*config.topics.domains, *letters], ends))

    (folder / "state" / "LOCK").unlink(missing_ok=True)
    for name in ("LOG", "LOG.old.*"):
        for path in (folder / "state").rglob(name):
            path.unlink()
    pack(folder / "state", STATE)
    entries = site.entries()
    store = CheckpointStore(site.folders.checkpoints)
    found = {
        "machine": this_machine(),
        "rows_learned": _by_domain(learned),
        "rows_to_come": _by_domain(rest),
        "dead_letters": ends[f"{letters[1]} 0"],
        "dead_letters_to_come": len(BROKEN[:2]),
        "checkpoints": [info.name for info in store.list()],
        "fingerprint": store.newest().meta["fingerprint"],
        "snapshots": RocksEmbeddingStore(site.folders.snapshots).months(),
        "last_step": entries[-1].step,
        "entries": {kind: sum(e.kind == kind for e in entries) for kind in sorted({e.kind for e in entries})},
    }
    FACTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    assert found["last_step"] >= store.newest().meta["step"] + 3, (
        "the journal's tail is too short: record again"
    )
    assert set(found["entries"]) == {"ad", "month", "natural", "release", "tpm"}, found["entries"]


def _by_domain(frame: pl.DataFrame) -> dict[str, int]:
    ads = int(frame["domain"].sum())
    return {"natural": len(frame) - ads, "ad": ads}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made, EmbeddedBroker() as broker:
        record(Path(made), broker.address)
