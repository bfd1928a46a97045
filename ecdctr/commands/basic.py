"""What the commands do; the command line itself is ``cli.py``. Heavy imports happen when a command runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ecdctr import factory
from ecdctr.commands.replay import replay_journal, replay_source
from ecdctr.events.time import DAY_MS
from ecdctr.progress import event_day, progress_bar
from ecdctr.settings import Loaded
from ecdctr.sources import moment, open_log, open_with_features
from ecdctr.state.errors import DataError, StateError, StreamError

__all__ = [
    "open_with_features",
    "produce_source",
    "replay_journal",
    "replay_source",
    "run_worker",
    "show_checkpoints",
    "show_snapshots",
    "show_topics",
    "train_tpm",
]

log = logging.getLogger("ecdctr")


# -- produce


def produce_source(
    out: Console, err: Console, loaded: Loaded, text: str, *, packed: int, rate: float
) -> dict[str, int]:
    """Send a source to the two click topics; gives rows sent by topic."""
    from ecdctr.streams.producer import produce
    from ecdctr.streams.topics import ensure_topics

    source, settings = open_with_features(text, loaded)
    ensure_topics(settings.kafka, settings.topics)
    with progress_bar(err, f"produce {source.name}", source.count()) as update:
        sent = produce(
            source.frames(),
            settings.kafka,
            settings.topics,
            packed=packed,
            rows_per_s=rate or None,
            progress=update,
        )
    out.print(", ".join(f"{n:,} rows to {topic}" for topic, n in sent.items()))
    return sent


# -- TPM


def train_tpm(
    out: Console, err: Console, loaded: Loaded, text: str, *, until: str | None = None, partial: bool = False
) -> list[str]:
    """One snapshot a month from a source's natural clicks; gives the months written.

    The month that the source ends in is closed when its last day is there, or with ``partial``. The tiny model itself
    is kept, too, for a worker that goes on with it (``tpm.live``).
    """
    from ecdctr.events.batch import NATURAL
    from ecdctr.replay.sources import RowFilter
    from ecdctr.state.checkpoints import Capture

    written: list[Any] = []
    clock = 0
    with open_log(text, loaded, history=True) as (source, settings):
        trainer = factory.tpm_trainer(settings)
        rows = RowFilter(until_ms=moment(until))
        with progress_bar(err, f"TPM on {source.name}", None) as update:
            for mixed in rows.apply(source.batches()):
                batch = mixed.take(mixed.domain == NATURAL)
                if len(batch):
                    written += trainer.learn(batch)
                    clock = max(clock, int(batch.ts.max()))
                    update(trainer.rows_learned, clock)
        rejects = {why: n for why, n in source.rejects.items() if n}
    if trainer.month is not None and (partial or trainer.month.end_ms - clock <= DAY_MS):
        written += [m for m in (trainer.close_month(),) if m is not None]
    if rejects:
        err.print(f"left out: {rejects}")
    if not written:
        raise DataError(
            f"{source.name} holds no whole month of natural rows (tpm.month = {settings.tpm.month}): give it more "
            "rows, a shorter month (--set tpm.month=7d), or close the last one as it is (--partial)"
        )
    # What a worker with tpm.live goes on from.
    kept = trainer.capture()
    meta = kept.meta | {"step": trainer.rows_learned, "shape": factory.shape_of_tpm(settings)}
    factory.tpm_states(settings).save(Capture(kept.dense, kept.rows, meta))
    months = [m.month for m in written]
    out.print(f"   {trainer.rows_learned:,} natural rows, {len(months)} snapshots: {', '.join(months)}")
    return months


# -- looking at what there is


def show_topics(out: Console, loaded: Loaded, *, create: bool) -> None:
    """Partitions, offsets and the lag behind the worker's last checkpoint."""
    from ecdctr.streams.topics import describe_topics, ensure_topics

    settings = loaded.settings
    if create:
        for name, partitions in ensure_topics(settings.kafka, settings.topics).items():
            out.print(f"{name}: {partitions} partitions")
    table = Table("topic", "partition", "first", "end", "learned", "lag", box=None, pad_edge=False)
    for p in describe_topics(settings.kafka, settings.topics, settings.worker.group):
        click = p.topic in settings.topics.domains
        table.add_row(
            p.topic, str(p.partition), f"{p.beginning:,}", f"{p.end:,}",
            "" if p.committed is None else f"{p.committed:,}", f"{p.lag:,}" if click else "",
        )  # fmt: skip
    if not table.row_count:
        raise StreamError("none of the topics exists: create them with `ecdctr topics --create`")
    out.print(table)


def show_checkpoints(out: Console, loaded: Loaded, path: Path | None) -> int:
    """Every checkpoint with its verdict; exit code 1 when one is damaged."""
    from ecdctr.state.checkpoints import CheckpointStore
    from ecdctr.state.errors import CheckpointDamagedError

    folder = factory.Folders(loaded.settings.state.folder).checkpoints if path is None else path.parent
    names = (
        [path.name] if path else sorted(p.name for p in folder.glob("*-step-*")) if folder.is_dir() else []
    )
    if not names:
        raise StateError(f"there is no checkpoint in {folder}")
    store = CheckpointStore(folder)
    table = Table(
        "checkpoint",
        "state",
        "step",
        "event clock",
        "rows trained",
        "releases",
        "TPM months",
        box=None,
        pad_edge=False,
    )
    damaged = 0
    for name in names:
        try:
            meta = store.load(name).meta
        except CheckpointDamagedError as error:
            damaged += 1
            table.add_row(name, f"[red]damaged[/]: {error}")
            continue
        rows = meta["progress"]["rows"]
        table.add_row(
            name, "whole", f"{meta['step']:,}", event_day(meta["clock"]),
            ", ".join(f"{n:,} {k}" for k, n in rows.items()), _releases(meta["progress"]),
            ", ".join(meta.get("versions", {}).get("tpm", ())) or "none",
        )  # fmt: skip
    out.print(table)
    return 1 if damaged else 0


def _releases(progress: dict[str, Any]) -> str:
    refused = len(progress.get("refused", ()))
    return f"{progress['releases']:,}" + (f" ({refused:,} refused)" if refused else "")


def show_snapshots(out: Console, loaded: Loaded, month: str | None) -> int:
    """Every TPM snapshot with its verdict; exit code 1 when one is damaged."""
    from ecdctr.state.errors import SnapshotDamagedError
    from ecdctr.state.snapshots import RocksEmbeddingStore

    settings = loaded.settings
    store = RocksEmbeddingStore(factory.Folders(settings.state.folder).snapshots, cache_rows=1024)
    months = [month] if month else store.months()
    if not months:
        raise StateError(
            f"there is no snapshot in {settings.state.folder}/snapshots: make some with `ecdctr tpm train SOURCE`"
        )
    table = Table(
        "month", "state", "users", "items", "dim", "youngest training row", box=None, pad_edge=False
    )
    damaged = 0
    for name in months:
        try:
            store.verify(name)
            state = "whole"
        except SnapshotDamagedError as error:
            damaged += 1
            state = f"[red]damaged[/]: {error}"
        manifest = store.manifest(name)
        table.add_row(
            name, state, f"{manifest.rows['user']:,}", f"{manifest.rows['item']:,}", str(manifest.dim), event_day(manifest.last_ts)
        )  # fmt: skip
    out.print(table)
    return 1 if damaged else 0


# -- worker


def run_worker(loaded: Loaded, *, standby: bool, reset_offsets: str | None) -> int:
    """Train until told otherwise; 0 after a clean end."""
    return factory.worker(loaded.settings).run(standby=standby, reset_offsets=reset_offsets)
