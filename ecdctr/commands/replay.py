"""``ecdctr replay``: a log through the trainer, and the report of its figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ecdctr import factory
from ecdctr.commands.peak_memory import peak_mib
from ecdctr.commands.replay_folder import ReplayState, replay_request
from ecdctr.commands.replay_options import ReplayOptions
from ecdctr.events.batch import Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.time import DAY_MS, HOUR_MS, duration_ms
from ecdctr.interrupt import interruptible
from ecdctr.models.training import Engine
from ecdctr.progress import event_day, progress_bar
from ecdctr.replay.checks import CheckResult, DayCheck, FeatureProbe, checks
from ecdctr.replay.figures import ReplayResult, evaluate, feature_slices
from ecdctr.replay.play import Playback, RowNotes, SideBySide, StreamGaps, play
from ecdctr.replay.report import ReportMeta, write_report, write_tables
from ecdctr.replay.sources import KafkaSource, Log, RowFilter, steps_of
from ecdctr.settings import Loaded, Settings, dump_toml
from ecdctr.sources import moment, open_log
from ecdctr.state.errors import ConfigError, DataError, RowsRejectedError
from ecdctr.state.malloc import trim_memory
from ecdctr.tables import print_days, print_totals

__all__ = ["ReplayOptions", "ReplayOutcome", "replay_source"]

BAR = "replay {}"


@dataclass(frozen=True, eq=False)
class ReplayOutcome:
    """What a replay produced.

    Attributes
    ----------
    result, meta
        The figures, and facts about the run: the content of ``report.json``.
    report
        Path of the page.
    tables
        Paths of the Parquet and CSV files.
    engine
        The engine of the configuration, after the last step.
    """

    result: ReplayResult
    meta: ReportMeta
    report: Path
    tables: list[Path]
    engine: Engine


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
) -> ReplayOutcome:
    """Replay a source through a new trainer; print the figures and write the report.

    1. Open the log, and determine which of its rows are replayed.
    2. Create the models, or with ``resume`` restore the last checkpoints of the interrupted replay.
    3. Run all arms on the same steps. Checkpoints are written to ``out_dir/state`` meanwhile. The first Ctrl-C ends the
       replay between two steps, with a checkpoint.
    4. Compute the figures of all rows scored so far; write page, JSON, Parquet and CSV.
    """
    options = options or ReplayOptions(until=until, quiet=quiet)
    state = ReplayState(out_dir)
    if state.folder.resolve() == loaded.settings.state.folder.resolve():
        raise ConfigError(
            f"--out {out_dir}: {state.folder} is the state folder of the worker; choose another folder"
        )
    with state.hold(), open_log(text, loaded) as (log, found):
        settings = options.arms.main(found)
        others = options.arms.beside(loaded, settings)
        base = options.arms.base(options.base, settings)
        schema = FeatureSchema(settings.features, settings.model.dim)
        slices = feature_slices(schema, options.slices)
        notes = RowNotes(slices, tpm=factory.reads_snapshots(settings), gaps=StreamGaps())
        notes.prepare(log.decoder)
        request = replay_request(
            text,
            settings,
            **{"--from": options.since, "--until": options.until, "--last": options.last},
            **{"--sample-users": options.sample_users, "--arm": options.arms.as_options()},
            **{"--slice": ",".join(s.name for s in slices) or None},
            **{"the score log's notes": sorted(notes.columns)},
        )
        rows = _begin(err, state, log, request, options)
        before = state.seconds
        every = options.checkpoint_every_s
        arms = state.arms(settings, others, options.arms.frozen, checkpoint_every_s=every, notes=notes)
        checked = _Checked(FeatureProbe(schema), DayCheck(arms.engine))
        try:
            done = _play(err, arms, log, rows, settings, notes, checked)
            if not done.rows and not done.interrupted:
                _no_rows(log, rows)
            peak = peak_mib()
            done.seconds += before
            arms.close(checkpoint=(done.interrupted or options.keep) and not done.torn)
        except BaseException:
            arms.close(checkpoint=False)
            raise
        trim_memory()
        meta = _meta(state, arms, log, done, settings, options, round(peak), checked.results(log))
        shown = options.arms.scored(settings)
        result = evaluate(arms, shown, base=base, slices=slices, folder=state.folder)
        trim_memory()  # the partitions' memory, before the plots allocate theirs
        report = write_report(out_dir, f"Replay of {log.name}", result, meta)
        tables = write_tables(out_dir, result, csv=options.csv)
        if done.interrupted:
            state.interrupted(done.seconds)
        else:
            state.finished(keep=options.keep)
    outcome = ReplayOutcome(result, meta, report, tables, arms.engine)
    if not options.quiet:
        _print(out, err, done, outcome)
    log.rejects.check(log.name, lost=meta["not_learned"])
    return outcome


def _told(log: Log) -> Iterator[Batch]:
    """The batches of a log; a log whose times have no time of day gets a remark."""
    last: int | None = None
    unit = DAY_MS
    for batch in log.batches():
        while unit and (batch.ts % unit).any():
            unit = HOUR_MS if unit == DAY_MS else 0
        last = int(batch.ts[-1])
        yield batch
    if unit and last is not None and log.rejects.accepted > 1:
        what = "day" if unit == DAY_MS else "hour"
        log.rejects.remark(
            f"every event time is a full {what}: the rows of a {what} have no order, so they are learned together, after all of them "
            "were predicted"
        )


def _no_rows(log: Log, rows: RowFilter) -> None:
    """Raise the error of a replay without rows: they were rejected, or none was selected."""
    log.rejects.check(log.name)
    raise RowsRejectedError(
        f"{log.name}: none of {log.rejects.accepted:,} rows was selected by {rows}: choose another range of time or more users"
    )


def _begin(
    err: Console, state: ReplayState, log: Log, request: dict[str, Any], options: ReplayOptions
) -> RowFilter:
    """Start a new replay or resume one; select the same rows in both cases."""
    found = state.resume(request) if options.resume else None
    if options.resume and found is None:
        err.print(f"there is no interrupted replay in {state.folder}: starting a new one", soft_wrap=True)
    if found is None:
        found = {"from": moment(options.since, "--from"), "until": moment(options.until)}
        if options.last is not None:
            newest = log.newest()
            if newest is None:
                raise DataError(f"{log.name} contains no rows, so --last {options.last} selects none")
            found = {"from": newest - duration_ms(options.last) + 1, "until": newest + 1}
        if isinstance(log, KafkaSource):
            for line in log.clamped:
                err.print(f"offsets: {line}", soft_wrap=True)
            found["offsets"] = [[*key, log.first[key], end] for key, end in sorted(log.end.items())]
        state.begin(request, found)
    elif isinstance(log, KafkaSource):
        ranges = {(topic, partition): (low, high) for topic, partition, low, high in found["offsets"]}
        log.restrict({k: r[0] for k, r in ranges.items()}, {k: r[1] for k, r in ranges.items()})
    return RowFilter(found["from"], found["until"], options.sample_users)


@dataclass
class _Checked:
    """The checks that run along with the replay."""

    features: FeatureProbe
    days: DayCheck

    def results(self, log: Log) -> list[CheckResult]:
        months = self.days.engine.trainer.cpm_months
        found = checks(self.days.findings, self.features.findings(), log.stragglers, months)
        return [check.plain() for check in found]


def _play(
    err: Console,
    arms: SideBySide,
    log: Log,
    rows: RowFilter,
    settings: Settings,
    notes: RowNotes,
    checked: _Checked,
) -> Playback:
    sizes = {"natural_batch": settings.model.natural_batch, "ad_batch": settings.model.ad_batch}
    batches = checked.features.watch(notes.apply(rows.apply(_told(log))))
    steps = steps_of(batches, **sizes)
    total = log.count() if rows.takes_all else None

    def on_interrupt() -> None:
        err.print("stopping after this step; Ctrl-C again stops at once")

    with progress_bar(err, BAR.format(log.name), total) as update, interruptible(on_interrupt) as stop:
        done = play((checked.days, *arms.beside.values()), steps, update, stop)
    if not done.torn:
        checked.days.close_day()
    return done


def _meta(
    state: ReplayState,
    arms: SideBySide,
    log: Log,
    done: Playback,
    settings: Settings,
    options: ReplayOptions,
    peak_mib: int,
    results: list[CheckResult],
) -> ReportMeta:
    engine = arms.engine
    return {
        "source": log.name,
        "rows": done.rows,
        "seconds": round(done.seconds, 2),
        "cpu_seconds": round(done.cpu_seconds, 2),
        "rows_per_s": round(done.rows_per_s),
        "steps": done.steps,
        "interrupted": done.interrupted,
        "rejects": {k: v for k, v in log.rejects.items() if v},
        "left_out": log.rejects.causes(),
        "not_learned": engine.progress.skipped_rows,
        "notices": log.rejects.notices(engine.progress.skipped_rows) + _limited(engine),
        "stragglers": log.stragglers,
        "releases": list(engine.progress.released),
        "refused": list(engine.progress.refused),
        "peak_mib": peak_mib,
        "checks": results,
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


def _limited(engine: Engine) -> list[str]:
    """A sentence for each numeric feature with extreme values."""
    limited, schema = engine.trainer.scorer.limited, engine.trainer.encoder.schema
    return [
        f"note: {limited.counts[col]:,} extreme {'value' if limited.counts[col] == 1 else 'values'} of {name} (up to "
        f"{limited.largest[col]:.3g}) counted as the largest plausible one of {'its' if limited.counts[col] == 1 else 'their'} batch"
        for name, _, col in schema.numeric
        if limited.counts[col]
    ]


def _print(out: Console, err: Console, done: Playback, outcome: ReplayOutcome) -> None:
    meta = outcome.meta
    print_days(out, outcome.result)
    print_totals(out, outcome.result)
    for notice in meta["notices"]:
        err.print(notice, soft_wrap=True, markup=False, highlight=False)
    for check in meta["checks"]:
        if check["ok"] is False:
            line = Text.assemble(("check:", "bold yellow"), f" {check['name']}? {check['text']}")
            err.print(line, soft_wrap=True)
    for name, frozen in meta["frozen"].items():
        if frozen["not_asked"]:
            err.print(
                f"arm {name} did not predict {frozen['not_asked']:,} rows up to {event_day(frozen['clock'])}, which its checkpoint "
                "may have learned; these rows are excluded for all arms",
                soft_wrap=True,
            )
    if meta["checkpoint"]:
        out.print(f"final models: --frozen NAME:{meta['checkpoint']}", soft_wrap=True)
    if done.interrupted:
        again = "run it again, without --resume" if done.torn else "--resume continues from here"
        err.print(f"interrupted: the figures cover the rows up to here; {again}", soft_wrap=True)
