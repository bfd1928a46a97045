"""``ecdctr replay``: a log through the trainer, its figures as a report; the journal redone."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ecdctr import factory
from ecdctr.commands.replay_arms import ArmsAsked
from ecdctr.commands.replay_folder import ReplayState, asked_for
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.time import duration_ms
from ecdctr.interrupt import interruptible
from ecdctr.progress import event_day, progress_bar
from ecdctr.replay.checks import DayCheck, FeatureProbe, checks
from ecdctr.replay.figures import ReplayResult, evaluate, feature_slices
from ecdctr.replay.play import Playback, RowNotes, SideBySide, StreamGaps, play
from ecdctr.replay.sources import KafkaSource, Log, RowFilter, steps_of
from ecdctr.settings import Loaded, Settings, dump_toml
from ecdctr.sources import moment, open_log
from ecdctr.state.errors import ConfigError, DataError
from ecdctr.state.malloc import trim_memory
from ecdctr.tables import print_days

__all__ = ["ReplayOptions", "print_totals", "replay_journal", "replay_source"]

BAR = "replay {}"


@dataclass(frozen=True)
class ReplayOptions:
    """Which rows, and what happens around them.

    Attributes
    ----------
    since, until
        Dates (UTC) that the rows' ``ts`` lies between; ``until`` itself is left out.
    last
        A length of time, as "7d", up to the newest event.
    sample_users
        Share of users taken.
    resume
        Go on with the replay that the report folder holds, if it was interrupted.
    csv
        Figures as CSV, too.
    quiet
        Print nothing.
    checkpoint_every_s
        Wall seconds between checkpoints.
    arms
        What is trained side by side.
    keep
        Leave the models of the end as a checkpoint in ``out_dir/state/checkpoints``: what ``--frozen`` takes.
    slices
        Features that the figures are parted by, too.
    base
        The arm that differences are to; None: the ads-only control.
    """

    since: str | None = None
    until: str | None = None
    last: str | None = None
    sample_users: float = 1.0
    resume: bool = False
    csv: bool = False
    quiet: bool = False
    checkpoint_every_s: float = 60.0
    arms: ArmsAsked = field(default_factory=ArmsAsked)
    keep: bool = False
    slices: tuple[str, ...] = ()
    base: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sample_users <= 1:
            raise ConfigError(f"--sample-users {self.sample_users}: a share above 0 and up to 1 is needed")
        if self.last is not None and (self.since is not None or self.until is not None):
            raise ConfigError("--last says which time is taken, and so do --from and --until: choose one")


def replay_source(
    out: Console,
    err: Console,
    loaded: Loaded,
    text: str,
    out_dir: Path,
    options: ReplayOptions | None = None,
    *,
    until: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Play a source through a fresh trainer; prints and writes the report, gives its figures.

    1. Open the log, and say which rows are taken.
    2. Take up the models: new ones, or with ``resume`` those of the interrupted replay's last checkpoints.
    3. Play: all arms learn the same steps. Checkpoints are written into ``out_dir/state`` on the way; the first Ctrl-C
       ends it between two steps, with a checkpoint.
    4. Figures of everything that was scored so far: page, JSON, Parquet, CSV.
    """
    options = options or ReplayOptions(until=until, quiet=quiet)
    state = ReplayState(out_dir)
    if state.folder.resolve() == loaded.settings.state.folder.resolve():
        raise ConfigError(
            f"--out {out_dir}: {state.folder} is the state folder that a worker trains in; choose another folder"
        )
    with state.hold(), open_log(text, loaded) as (log, found):
        settings = options.arms.main(found)
        others = options.arms.beside(loaded, settings)
        base = options.arms.base(options.base, settings)
        schema = FeatureSchema(settings.features, settings.model.dim)
        slices = feature_slices(schema, options.slices)
        notes = RowNotes(slices, tpm=factory.reads_snapshots(settings), gaps=StreamGaps())
        notes.prepare(log.decoder)
        asked = asked_for(
            text,
            settings,
            **{"--from": options.since, "--until": options.until, "--last": options.last},
            **{"--sample-users": options.sample_users, "--arm": options.arms.as_told()},
            **{"--slice": ",".join(s.name for s in slices) or None},
            **{"the score log's notes": sorted(notes.columns)},
        )
        rows = _take_up(err, state, log, asked, options)
        before = state.seconds
        every = options.checkpoint_every_s
        arms = state.arms(settings, others, options.arms.frozen, checkpoint_every_s=every, notes=notes)
        watch = _Watch(FeatureProbe(schema), DayCheck(arms.engine), notes)
        try:
            done = _play(err, arms, log, rows, settings, watch)
            peak = peak_mib()
            done.seconds += before
            arms.close(checkpoint=(done.interrupted or options.keep) and not done.torn)
        except BaseException:
            arms.close(checkpoint=False)
            raise
        trim_memory()
        facts = {"peak_mib": round(peak), "checks": watch.found(log)}
        shown = options.arms.scored(settings)
        result = evaluate(arms, shown, base=base, slices=slices, folder=state.folder)
        trim_memory()  # parts came and went; the plots take their place, not more
        written = _report(out_dir, state, arms, log, done, settings, options, facts, result)
        if done.interrupted:
            state.interrupted(done.seconds)
        else:
            state.finished(keep=options.keep)
    if not options.quiet:
        _tell(out, err, done, written)
    return {**written, "engine": arms.engine}


def peak_mib() -> float:
    """Most memory that this process has held so far, MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss, which on Linux begins with what the parent process held.
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        if found:
            return int(found[1]) / 1024
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _take_up(
    err: Console, state: ReplayState, log: Log, asked: dict[str, Any], options: ReplayOptions
) -> RowFilter:
    """Begin anew or go on; gives the rows that are taken, the same ones in both cases."""
    found = state.go_on(asked) if options.resume else None
    if options.resume and found is None:
        err.print(f"nothing to go on with in {state.folder}: the replay begins anew", soft_wrap=True)
    if found is None:
        found = {"from": moment(options.since, "--from"), "until": moment(options.until)}
        if options.last is not None:
            newest = log.newest()
            if newest is None:
                raise DataError(f"{log.name} holds no rows, so there is no --last {options.last}")
            found = {"from": newest - duration_ms(options.last) + 1, "until": newest + 1}
        if isinstance(log, KafkaSource):
            for line in log.clamped:
                err.print(f"offsets: {line}", soft_wrap=True)
            found["offsets"] = [[*key, log.first[key], end] for key, end in sorted(log.end.items())]
        state.begin(asked, found)
    elif isinstance(log, KafkaSource):
        ranges = {(topic, partition): (low, high) for topic, partition, low, high in found["offsets"]}
        log.restrict({k: r[0] for k, r in ranges.items()}, {k: r[1] for k, r in ranges.items()})
    return RowFilter(found["from"], found["until"], options.sample_users)


@dataclass
class _Watch:
    """What is looked for on the way."""

    features: FeatureProbe
    days: DayCheck
    notes: RowNotes

    def found(self, log: Log) -> list[dict[str, Any]]:
        months = self.days.engine.trainer.cpm_months
        found = checks(self.days.findings, self.features.findings(), log.stragglers, months)
        return [check.plain() for check in found]


def _play(
    err: Console, arms: SideBySide, log: Log, rows: RowFilter, settings: Settings, watch: _Watch
) -> Playback:
    sizes = {"natural_batch": settings.model.natural_batch, "ad_batch": settings.model.ad_batch}
    batches = watch.features.watch(watch.notes.apply(rows.apply(log.batches())))
    steps = steps_of(batches, **sizes)
    total = log.count() if rows.takes_all else None

    def told() -> None:
        err.print("stopping after this step; Ctrl-C again stops at once")

    with progress_bar(err, BAR.format(log.name), total) as update, interruptible(told) as stop:
        done = play((watch.days, *arms.beside.values()), steps, update, stop)
    if not done.torn:
        watch.days.close_day()
    return done


def _report(
    out_dir: Path,
    state: ReplayState,
    arms: SideBySide,
    log: Log,
    done: Playback,
    settings: Settings,
    options: ReplayOptions,
    facts: dict[str, Any],
    result: ReplayResult,
) -> dict[str, Any]:
    from ecdctr.replay.report import write_report, write_tables

    engine = arms.engine
    meta = {
        "source": log.name,
        "rows": done.rows,
        "seconds": round(done.seconds, 2),
        "cpu_seconds": round(done.cpu_seconds, 2),
        "rows_per_s": round(done.rows_per_s),
        "steps": done.steps,
        "interrupted": done.interrupted,
        "rejects": {k: v for k, v in log.rejects.items() if v},
        "stragglers": log.stragglers,
        "releases": list(engine.progress.released),
        "refused": list(engine.progress.refused),
        **facts,
        "arms": {name: ", ".join(changed) for name, changed in options.arms.variants.items()},
        "frozen": {
            name: {
                "checkpoint": str(options.arms.frozen[name]),
                "clock": arm.clock,
                "not_asked": arm.not_predicted,
            }
            for name, arm in arms.frozen.items()
        },
        "checkpoint": str(state.newest_checkpoint()) if options.keep and not done.torn else None,
        "settings": dump_toml(settings),
    }
    path = write_report(out_dir, f"Replay of {log.name}", result, meta)
    tables = write_tables(out_dir, result, csv=options.csv)
    return {"result": result, "meta": meta, "report": path, "tables": tables}


def _tell(out: Console, err: Console, done: Playback, written: dict[str, Any]) -> None:
    print_days(out, written["result"])
    print_totals(out, written["result"])
    rejects = written["meta"]["rejects"]
    if rejects:
        err.print(f"rows left out: {', '.join(f'{n:,} {why}' for why, n in rejects.items())}", soft_wrap=True)
    for check in written["meta"]["checks"]:
        if check["ok"] is False:
            err.print(f"[bold yellow]check:[/] {check['name']}? {escape(check['text'])}", soft_wrap=True)
    for name, frozen in written["meta"]["frozen"].items():
        if frozen["not_asked"]:
            err.print(
                f"arm {name} was not asked of {frozen['not_asked']:,} rows up to {event_day(frozen['clock'])}: it may have "
                "learned them; no arm is judged on them",
                soft_wrap=True,
            )
    if written["meta"]["checkpoint"]:
        out.print(
            f"the models as they are now: --frozen NAME:{written['meta']['checkpoint']}", soft_wrap=True
        )
    if done.interrupted:
        again = "start it anew" if done.torn else "--resume goes on from here"
        err.print(f"interrupted: the figures cover what was done; {again}", soft_wrap=True)


def replay_journal(
    out: Console,
    err: Console,
    loaded: Loaded,
    out_dir: Path,
    slices: Sequence[str] = (),
    base: str | None = None,
) -> int:
    """Redo the journal; with other model settings, score what would have been beside what was."""
    from ecdctr.commands.rebuild import rebuild
    from ecdctr.replay.report import write_report
    from ecdctr.state.row_logs import ScoreLog

    settings = loaded.settings
    to = ArmsAsked().base(base, settings)
    asked = feature_slices(FeatureSchema(settings.features, settings.model.dim), slices)
    changed = sorted(
        key
        for key, where in loaded.origin.items()
        if where == "--set" and key.split(".")[0] in ("model", "schedule", "tpm")
    )
    if (slices or base) and not changed:
        raise ConfigError(
            "--slice and --base part and compare figures, and a journal gets figures only with other settings: --set KEY=VALUE"
        )
    notes = RowNotes(asked, tpm=factory.reads_snapshots(settings)) if changed else None
    rebuilt = rebuild(err, settings, compare=not changed, notes=notes)
    if not changed:
        out.print(rebuilt.verdict, soft_wrap=True)
        return 0 if rebuilt.identical else 1
    kept = ScoreLog(factory.Folders(settings.state.folder).scores, read_only=True)
    was = evaluate(kept, kept.arms, base=to)
    would = evaluate(rebuilt.engine.scores, rebuilt.engine.scores.arms, base=to, slices=asked)
    shown = ", ".join(f"{k} = {_value(settings, k)}" for k in changed)
    out.print(f"same rows, same order ({rebuilt.steps:,} steps, {rebuilt.rows:,} rows), with {shown}")
    print_totals(out, was, title="as it was")
    print_totals(out, would, title="as it would have been")
    meta = {
        "source": f"journal of {settings.state.folder} with {shown}",
        "rows": rebuilt.rows,
        "settings": dump_toml(settings),
    }
    out.print(f"report: {write_report(out_dir, f'Counterfactual: {shown}', would, meta)}", soft_wrap=True)
    return 0


def _value(settings: Settings, key: str) -> Any:
    node: Any = settings
    for name in key.split("."):
        node = getattr(node, name)
    return node


def print_totals(out: Console, result: dict[str, Any], title: str | None = None) -> None:
    """One table a domain, one line an arm; fits 80 columns."""
    from ecdctr.replay.metrics import ROW_METRICS

    if title:
        out.print(title)
    for domain, arms in result["totals"].items():
        f = next(iter(arms.values()))
        out.print(
            f"{'ads' if domain == 'ad' else domain}: {f['n']:,} rows, {f['clicks']:,} clicks (CTR {f['ctr']:.2%}); "
            f"GAUC covers {f['user_coverage']:.1%} of {f['users_total']:,} users, {f['impression_coverage']:.1%} of rows",
            soft_wrap=True,
        )
        figures = {"GAUC": "gauc", "AUC": "auc", "per list": "list_auc"}
        figures |= {metric.title: metric.name for metric in ROW_METRICS}
        figures = {head: key for head, key in figures.items() if any(key in f for f in arms.values())}
        table = Table("", *figures, box=None, pad_edge=False)
        for arm, f in arms.items():
            table.add_row(f"  {arm}", *(f"{f.get(key, float('nan')):.4f}" for key in figures.values()))
        out.print(table)
        for arm, d in result["differences"][domain].items():
            out.print(
                f"  GAUC {arm} - {result['base'][domain]}: {d['value']:+.4f} (95% {d['low']:+.4f} to {d['high']:+.4f})",
                soft_wrap=True,
            )
    if not result["totals"]:
        out.print("no row was scored: the models had not begun to learn")
