"""What the commands do; the command line itself is ``cli.py``. Heavy imports happen when a command runs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from ecdctr import build
from ecdctr.progress import event_day, progress_bar
from ecdctr.settings import Loaded, Settings, dump_toml
from replay.source import Source, open_source
from state.errors import ConfigError, DataError, StateError, StreamError

__all__ = [
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
DAY_MS = 86_400_000


def open_with_features(text: str, loaded: Loaded) -> tuple[Source, Settings]:
    """The source, and the settings with the source's own features unless the user configured some."""
    source = open_source(text)
    settings = loaded.settings
    specs = getattr(source, "feature_specs", None)
    if specs is not None:
        settings = build.use_features(settings, specs(), configured="features" in loaded.origin)
        events = settings.events
        extra = {
            key: name
            for key, name in (("list_field", "list_id"), ("oracle_field", "oracle"))
            if getattr(events, key) is None and name in getattr(source, "extra_fields", ())
        }
        settings = settings.model_copy(update={"events": events.model_copy(update=extra)})
    return source, settings


def _until(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError as error:
        raise ConfigError(f"--until {text!r} is not a date: write it as 2026-01-31") from error


class CutSource:
    """A source without its rows from a moment on."""

    def __init__(self, source: Source, until_ms: int) -> None:
        self.source, self.until_ms = source, until_ms
        self.name = source.name

    def frames(self) -> Iterator[pl.DataFrame]:
        return self._cut(self.source.frames())

    def history(self) -> Iterator[pl.DataFrame]:
        return self._cut(_history(self.source))

    def count(self) -> int | None:
        return None

    def _cut(self, frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        for frame in frames:
            kept = frame.filter(pl.col("ts") < self.until_ms)
            if kept.height:
                yield kept
            if kept.height < frame.height:
                return  # frames come in event order


def _history(source: Source) -> Iterator[pl.DataFrame]:
    """What TPM learns from: a source's own history where it has one, else all of it."""
    history: Callable[[], Iterator[pl.DataFrame]] | None = getattr(source, "history", None)
    return source.frames() if history is None else history()


# -- produce


def produce_source(
    out: Console, err: Console, loaded: Loaded, text: str, *, packed: int, rate: float
) -> dict[str, int]:
    """Send a source to the two click topics; gives rows sent by topic."""
    from streams.producer import produce
    from streams.topics import ensure_topics

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

    The month that the source ends in is closed when its last day is there, or with ``partial``.
    """
    from models.batch import NATURAL
    from models.features import FeatureSchema
    from models.tpm import TpmTrainer

    source, settings = open_with_features(text, loaded)
    cut = CutSource(source, limit) if (limit := _until(until)) is not None else source
    decoder = build.decoder(settings)
    schema = FeatureSchema(settings.features, settings.model.dim)
    folder = build.Folders(settings.state.folder).snapshots
    trainer = TpmTrainer(schema, build.model_settings(settings), settings.tpm, folder)
    written: list[Any] = []
    rejects: Counter[str] = Counter()
    clock = 0
    with progress_bar(err, f"TPM on {source.name}", None) as update:
        for frame in _history(cut):
            decoded = decoder.from_frame(frame)
            rejects.update(r.reason for r in decoded.rejects)
            batch = decoded.batch.take(decoded.batch.domain == NATURAL)
            if len(batch):
                written += trainer.learn(batch)
                clock = int(batch.ts.max())
                update(trainer.rows_learned, clock)
    if trainer.month is not None and (partial or trainer.month.end_ms - clock <= DAY_MS):
        written += [m for m in (trainer.close_month(),) if m is not None]
    if rejects:
        err.print(f"left out: {dict(rejects)}")
    if not written:
        raise DataError(
            f"{source.name} holds no whole month of natural rows (tpm.month = {settings.tpm.month}): give it more "
            "rows, a shorter month (--set tpm.month=7d), or close the last one as it is (--partial)"
        )
    months = [m.month for m in written]
    out.print(f"   {trainer.rows_learned:,} natural rows, {len(months)} snapshots: {', '.join(months)}")
    return months


# -- replay


def replay_source(
    out: Console,
    err: Console,
    loaded: Loaded,
    text: str,
    out_dir: Path,
    *,
    until: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Play a source through a fresh trainer; prints and writes the report, gives its totals."""
    from replay.report import evaluate, write_report
    from replay.run import play, steps_from_log, steps_from_source

    limit = _until(until)
    rejects: Counter[str] = Counter()
    sizes = {"natural_batch": loaded.settings.model.natural_batch, "ad_batch": loaded.settings.model.ad_batch}
    if text == "kafka":
        settings = loaded.settings
        events = build.decoder(settings)
        with build.kafka_log(settings, events) as kafka:
            keys = kafka.partitions()
            first, end = kafka.beginning(keys), kafka.end(keys)
            engine = build.memory_engine(settings)
            total = sum(end[k] - first[k] for k in keys)
            with progress_bar(err, "replay Kafka", total) as update:
                done = play(engine, steps_from_log(kafka, first, end, **sizes), update)
            rejects["dead letters"] = kafka.dead_rows
        name = f"Kafka topics {settings.topics.natural}, {settings.topics.ad}"
    else:
        source, settings = open_with_features(text, loaded)
        name = source.name
        rows = None if limit else source.count()
        cut = CutSource(source, limit) if limit else source
        engine = build.memory_engine(settings)
        steps = steps_from_source(cut, build.decoder(settings), rejects=rejects, **sizes)
        with progress_bar(err, f"replay {name}", rows) as update:
            done = play(engine, steps, update)
    columns = engine.scores.read()
    rejects = Counter({k: v for k, v in rejects.items() if v})
    meta = {
        "source": name,
        "rows": done.rows,
        "seconds": round(done.seconds, 2),
        "rows_per_s": round(done.rows_per_s),
        "steps": done.steps,
        "interrupted": done.interrupted,
        "rejects": dict(rejects),
        "releases": [r.clock_ms for r in engine.releases],
        "settings": dump_toml(settings),
    }
    result = evaluate(columns, build.ARMS)
    path = write_report(out_dir, f"Replay of {name}", result, meta)
    if not quiet:
        print_totals(out, result)
        if rejects:
            err.print(f"rows left out: {dict(rejects)}")
        out.print(
            f"{done.rows:,} rows in {done.seconds:.1f} s ({done.rows_per_s:,.0f} rows/s); report: {path}"
        )
    if done.interrupted:
        err.print("interrupted: the figures cover what was done")
    return {"result": result, "meta": meta, "report": path, "engine": engine}


def replay_journal(out: Console, err: Console, loaded: Loaded, out_dir: Path) -> int:
    """Redo the journal; with other model settings, score what would have been beside what was."""
    from ecdctr.audit import rebuild
    from replay.report import evaluate, write_report
    from state.score_log import ScoreLog

    settings = loaded.settings
    changed = sorted(
        key
        for key, where in loaded.origin.items()
        if where == "--set" and key.split(".")[0] in ("model", "schedule", "tpm")
    )
    rebuilt = rebuild(err, settings, compare=not changed)
    if not changed:
        out.print(rebuilt.verdict)
        return 0 if rebuilt.identical else 1
    was = evaluate(ScoreLog(build.Folders(settings.state.folder).scores, build.ARMS).read(), build.ARMS)
    would = evaluate(rebuilt.engine.scores.read(), build.ARMS)
    shown = ", ".join(f"{k} = {_value(settings, k)}" for k in changed)
    out.print(f"same rows, same order ({rebuilt.steps:,} steps, {rebuilt.rows:,} rows), with {shown}")
    print_totals(out, was, title="as it was")
    print_totals(out, would, title="as it would have been")
    meta = {
        "source": f"journal of {settings.state.folder} with {shown}",
        "rows": rebuilt.rows,
        "settings": dump_toml(settings),
    }
    out.print(f"report: {write_report(out_dir, f'Counterfactual: {shown}', would, meta)}")
    return 0


def _value(settings: Settings, key: str) -> Any:
    node: Any = settings
    for name in key.split("."):
        node = getattr(node, name)
    return node


def print_totals(out: Console, result: dict[str, Any], title: str | None = None) -> None:
    """One line an arm: GAUC with its coverage, AUC, log loss, NE, PCOC."""
    table = Table(
        "domain", "arm", "rows", "clicks", "GAUC", "users", "rows covered", "AUC", "log loss", "NE", "PCOC",
        title=title, title_justify="left", box=None, pad_edge=False,
    )  # fmt: skip
    for domain, arms in result["totals"].items():
        for arm, f in arms.items():
            table.add_row(
                domain, arm, f"{f['n']:,}", f"{f['clicks']:,}", f"{f['gauc']:.4f}",
                f"{f['user_coverage']:.1%}", f"{f['impression_coverage']:.1%}", f"{f['auc']:.4f}",
                f"{f['log_loss']:.4f}", f"{f['normalized_entropy']:.4f}", f"{f['pcoc']:.3f}",
            )  # fmt: skip
    out.print(table)


# -- looking at what there is


def show_topics(out: Console, loaded: Loaded, *, create: bool) -> None:
    """Partitions, offsets and the lag behind the worker's last checkpoint."""
    from streams.topics import describe_topics, ensure_topics

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
    from state.checkpoint import CheckpointStore
    from state.errors import CheckpointDamagedError

    folder = build.Folders(loaded.settings.state.folder).checkpoints if path is None else path.parent
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
            ", ".join(f"{n:,} {k}" for k, n in rows.items()), str(meta["progress"]["releases"]),
            ", ".join(meta.get("versions", {}).get("tpm", ())) or "none",
        )  # fmt: skip
    out.print(table)
    return 1 if damaged else 0


def show_snapshots(out: Console, loaded: Loaded, month: str | None) -> int:
    """Every TPM snapshot with its verdict; exit code 1 when one is damaged."""
    from state.embedding_store import RocksEmbeddingStore
    from state.errors import SnapshotDamagedError

    settings = loaded.settings
    store = RocksEmbeddingStore(build.Folders(settings.state.folder).snapshots, cache_rows=1024)
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
    from streams.worker import Worker

    settings = loaded.settings
    worker = Worker(
        make_engine=lambda **hooks: build.live_engine(settings, **hooks),
        decoder=build.decoder(settings),
        make_log=lambda decoder: build.kafka_log(settings, decoder),
        kafka=settings.kafka,
        topics=settings.topics,
        worker=settings.worker,
        monitor=settings.monitor,
        state_folder=settings.state.folder,
        natural_batch=settings.model.natural_batch,
        ad_batch=settings.model.ad_batch,
    )
    return worker.run(standby=standby, reset_offsets=reset_offsets)
