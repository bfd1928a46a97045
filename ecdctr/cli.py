"""The command line: ``ecdctr --help``."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from ecdctr.models.registry import ARMS
from ecdctr.state.errors import EcdctrError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Keep an ads CTR model fresh: train continuously from a natural and an ad click stream, "
    "replay historical logs, watch for drift.\n\n"
    "Begin with `ecdctr demo`. Every key of the configuration: `ecdctr config show`.",
)
tpm_app = typer.Typer(
    no_args_is_help=True, help="TPM, the tiny pre-trained model of long-term natural clicks."
)
config_app = typer.Typer(no_args_is_help=True, help="The configuration.")
inspect_app = typer.Typer(no_args_is_help=True, help="Look into what is kept on disk.")
app.add_typer(tpm_app, name="tpm")
app.add_typer(config_app, name="config")
report_app = typer.Typer(no_args_is_help=True, help="The reports of replays.")
app.add_typer(inspect_app, name="inspect")
app.add_typer(report_app, name="report")

out = Console()
err = Console(stderr=True)

_ARM_NAMES = ", ".join(entry.name.replace("_", "-") for entry in ARMS)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML file (default: $ECDCTR_CONFIG, then ./ecdctr.toml)."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Override one key: `--set model.lr=0.0005`. Repeatable."),
]
SourceArgument = Annotated[
    str,
    typer.Argument(
        help="`sim`, `sim:days=40,users=2000`, `ebnerd:FOLDER?mapping=A`, a JSONL / Parquet / CSV file or glob of events"
    ),
]


def _load(config: Path | None, overrides: list[str] | None) -> Any:
    from ecdctr.settings import load_settings

    return load_settings(config, overrides or ())


def _logging(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        datefmt="[%X]",
        handlers=[RichHandler(console=err, show_path=False)],
        force=True,
    )
    logging.getLogger("ecdctr").setLevel(logging.DEBUG if verbose else logging.INFO)
    # What matters of the client's own words is raised and named by us; the rest alarms without need.
    for client in ("kafka", "aiokafka"):
        logging.getLogger(client).setLevel(logging.WARNING if verbose else logging.CRITICAL)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        out.print(version("ecdctr"))
        raise typer.Exit


@app.callback()
def _main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    _logging(verbose)


@app.command()
def demo(
    out_dir: Annotated[
        Path, typer.Option("--out", help="Where the summary, the report and the state go.")
    ] = Path("demo-out"),
    data: Annotated[Path | None, typer.Option(help="EB-NeRD folder; default: the simulator.")] = None,
    mapping: Annotated[
        str, typer.Option(help="EB-NeRD: A premium articles as ads, B in-article slots as ads.")
    ] = "A",
    seed: Annotated[int, typer.Option(help="Seed of the simulator and the models.")] = 0,
) -> None:
    """The whole way in three minutes: broker, streams, training, a kill -9, recovery, replay, one table."""
    from ecdctr.commands.demo import run_demo

    raise typer.Exit(run_demo(out, out_dir, data=data, mapping=mapping, seed=seed))


@app.command()
def broker(
    port: Annotated[int, typer.Option(help="Port on loopback.")] = 9092,
    old_clients: Annotated[
        bool,
        typer.Option("--old-clients", help="Also understood by librdkafka 2.0, as Debian's kcat; slower."),
    ] = False,
) -> None:
    """Run the embedded broker (development only: it keeps everything in memory)."""
    from ecdctr.streams.embedded import EmbeddedBroker

    # A handler and not sigwait: without one SIGTERM ends this process at once, and the broker's own process stays.
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with EmbeddedBroker(port=port, old_clients=old_clients) as running:
        out.print(f"Kafka protocol on {running.address}; Ctrl-C ends it and forgets every record")
        stop.wait()


@app.command()
def produce(
    source: SourceArgument,
    config: ConfigOption = None,
    overrides: SetOption = None,
    packed: Annotated[
        int, typer.Option(help="Rows a packed Arrow message; 0: one JSON object a message.", min=0)
    ] = 0,
    rate: Annotated[float, typer.Option(help="Rows a second at most; 0: as fast as it goes.", min=0)] = 0,
) -> None:
    """Send a source's events to the two click topics, keyed by user, in event order."""
    from ecdctr.commands.basic import produce_source

    produce_source(out, err, _load(config, overrides), source, packed=packed, rate=rate)


@app.command()
def worker(
    config: ConfigOption = None,
    overrides: SetOption = None,
    standby: Annotated[
        bool, typer.Option("--standby", help="Wait for the state folder's lock, then take over.")
    ] = False,
    reset_offsets: Annotated[
        str | None,
        typer.Option(
            help="When the log no longer holds what the checkpoint needs: earliest, latest or checkpoint."
        ),
    ] = None,
) -> None:
    """Train continuously from Kafka. SIGTERM or Ctrl-C: checkpoint, then exit 0."""
    from ecdctr.commands.basic import run_worker

    raise typer.Exit(run_worker(_load(config, overrides), standby=standby, reset_offsets=reset_offsets))


@tpm_app.command("train")
def tpm_train(
    source: SourceArgument,
    config: ConfigOption = None,
    overrides: SetOption = None,
    until: Annotated[str | None, typer.Option(help="Leave out rows from this UTC date on.")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Close the last month even if it is not over.")
    ] = False,
) -> None:
    """Train TPM month by month on a source's natural clicks; one frozen snapshot a month.

    The source may be `kafka`: both click topics, `kafka:offsets=natural-clicks/0:0-90000` a part of them. A worker with
    `tpm.live` goes on from here: later months close in the stream.
    """
    from ecdctr.commands.basic import train_tpm

    train_tpm(out, err, _load(config, overrides), source, until=until, partial=partial)


@app.command()
def replay(
    source: Annotated[
        str | None,
        typer.Argument(
            help="`kafka` (both click topics), `kafka:window=1h,offsets=ad-clicks/0:0-500`, `sim:days=40,users=2000`, "
            "`ebnerd:FOLDER?mapping=A`, `kuairand:FOLDER`, `digix:FOLDER`, `taobao:FOLDER`, `map:FILE.toml`, or event files"
        ),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    journal: Annotated[
        bool,
        typer.Option(
            "--journal", help="Redo the state folder's journal from the Kafka log and compare bit for bit."
        ),
    ] = False,
    out_dir: Annotated[Path, typer.Option("--out", help="Report folder.")] = Path("replay-out"),
    since: Annotated[
        str | None, typer.Option("--from", help="Rows from this UTC date (and time) on.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Rows before this UTC date (and time).")] = None,
    last: Annotated[
        str | None, typer.Option(help="The newest event and this long before it, as 12h or 7d.")
    ] = None,
    sample_users: Annotated[
        float, typer.Option(help="Share of users taken: all rows of a user or none.")
    ] = 1.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted replay in the report folder.")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Figures by day and slice as CSV, too.")] = False,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Leave the models of the end as a checkpoint: what `--frozen` takes."),
    ] = False,
    arms: Annotated[
        str | None,
        typer.Option(
            help=f"Arms trained side by side on the same batches: full, {_ARM_NAMES}; and the configuration with one "
            "setting changed: no-tpm, tpm-mean, tpm-latest, bn-kept, no-fine-tune, init-once, no-gate."
        ),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="One more arm, with settings of its own: `--arm small:model.dim=8,model.lr=0.002`. Repeatable."
        ),
    ] = None,
    frozen: Annotated[
        list[str] | None,
        typer.Option(
            help="A checkpoint as an arm that learns nothing: `--frozen tuesday:state/checkpoints/000003-step-500`; it "
            "is asked only of rows younger than itself. Repeatable."
        ),
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice",
            metavar="FEATURE",
            help="Figures by a configured feature, too: its 24 most frequent values by name, five ranges of a number, how many "
            "ids a bag has. Repeatable. Without asking: by earlier rows of the user and of the item, time since the last of "
            "them (in ads, and in both streams), TPM vector present or not.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="The arm that differences are to (default ads-only): `--base mixed`, or the name of an `--arm` or `--frozen`."
        ),
    ] = None,
) -> None:
    """Play a log back through the trainer: predict, score, learn; figures per day and a report.

    Ctrl-C ends it with a report of what was done; `--resume` goes on from there.
    """
    from ecdctr.commands.replay import ReplayOptions, replay_journal, replay_source
    from ecdctr.commands.replay_arms import asked_arms
    from ecdctr.state.errors import ConfigError

    loaded = _load(config, overrides)
    if journal:
        raise typer.Exit(replay_journal(out, err, loaded, out_dir, slices or (), base))
    if source is None:
        raise ConfigError("replay needs a SOURCE (see `ecdctr replay --help`) or --journal")
    options = ReplayOptions(
        since=since,
        until=until,
        last=last,
        sample_users=sample_users,
        resume=resume,
        csv=csv,
        arms=asked_arms(arms, arm or (), frozen or ()),
        keep=keep,
        slices=tuple(slices or ()),
        base=base,
    )
    replay_source(out, err, loaded, source, out_dir, options)


@app.command()
def drift(
    source: SourceArgument,
    reference: Annotated[
        str, typer.Option(help="Another source, or a folder with a saved reference.", show_default=False)
    ],
    config: ConfigOption = None,
    overrides: SetOption = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Report folder.")] = Path("drift-out"),
    since: Annotated[str | None, typer.Option("--from", help="Rows from this UTC date on.")] = None,
    until: Annotated[str | None, typer.Option(help="Rows before this UTC date.")] = None,
    reference_since: Annotated[
        str | None, typer.Option("--reference-from", help="Reference rows from this UTC date on.")
    ] = None,
    reference_until: Annotated[str | None, typer.Option(help="Reference rows before this UTC date.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Keep the reference in this folder: monitor.watch.drift.reference.")
    ] = None,
) -> None:
    """Each day of a log against a reference: which feature moved, when, by how much; a report."""
    from ecdctr.commands.drift import DriftOptions, drift_source

    options = DriftOptions(since, until, reference_since, reference_until, save)
    drift_source(out, err, _load(config, overrides), source, reference, out_dir, options)


@app.command()
def topics(
    config: ConfigOption = None,
    overrides: SetOption = None,
    create: Annotated[bool, typer.Option("--create", help="Create what is missing.")] = False,
) -> None:
    """Show the click and dead-letter topics: partitions, offsets, lag."""
    from ecdctr.commands.basic import show_topics

    show_topics(out, _load(config, overrides), create=create)


@app.command()
def evidence(
    study: Annotated[
        str | None,
        typer.Argument(
            help="`forgetting`: returning users and items, and earlier periods asked again later, with and without TPM; "
            "default: all arms on the same rows."
        ),
    ] = None,
    overrides: SetOption = None,
    short: Annotated[
        bool, typer.Option("--short", help="One small simulator; exit code 1 if the arms stand out of order.")
    ] = False,
    seeds: Annotated[
        str | None, typer.Option(help="Simulator seeds, as 31-35 or 31,32 (default 31-35; short: 101).")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds ebnerd/; default: $ECDCTR_DATA.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Keep what each run scored here; a run that is there is not run again."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time, one core each.", min=1)] = 1,
    model_seeds: Annotated[
        int, typer.Option(help="Models of EB-NeRD, each mapping, of seeds 0, 1, ...", min=1)
    ] = 3,
    page: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where the page goes (default docs/evidence.md, forgetting docs/forgetting.md)."
        ),
    ] = None,
) -> None:
    """Every arm on the same rows, with intervals: simulator seeds, and EB-NeRD where its data is given."""
    from ecdctr.state.errors import ConfigError
    from ecdctr.studies.evidence import run_evidence

    if study == "forgetting":
        from ecdctr.studies.forgetting_page import run_forgetting

        page = page or Path("docs/forgetting.md")
        run_forgetting(err, page, short=short, seeds=seeds, jobs=jobs, keep=keep, overrides=overrides or ())
        out.print(str(page))
        return
    if study is not None:
        raise ConfigError(f"there is no study {study!r}: `forgetting`, or none for all arms")
    page = page or Path("docs/evidence.md")
    broken, found = run_evidence(
        err,
        page,
        short=short,
        seeds=seeds,
        jobs=jobs,
        model_seeds=model_seeds,
        data=data,
        keep=keep,
        overrides=overrides or (),
    )
    for line in broken:
        err.print(f"out of order: {line}", soft_wrap=True)
    out.print(f"{page}: {', '.join(f'{name} {value}' for name, value in found.items())}", soft_wrap=True)
    raise typer.Exit(1 if broken else 0)


@report_app.command("compare")
def report_compare(
    a: Annotated[Path, typer.Argument(help="`--out` folder of a replay.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="`--out` folder of another one.", show_default=False)],
    out_dir: Annotated[Path, typer.Option("--out", help="Where the page of one arm goes.")] = Path(
        "compare-out"
    ),
    arm: Annotated[str, typer.Option(help="Arm of that page.")] = "actr",
) -> None:
    """Is B better than A? Each arm on the rows that both have scored, with the interval of the difference."""
    from ecdctr.commands.compare import compare_reports

    compare_reports(out, a, b, out_dir, arm)


@inspect_app.command("checkpoint")
def inspect_checkpoint(
    path: Annotated[
        Path | None, typer.Argument(help="A checkpoint folder; default: all of the state folder.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Checkpoints: whole or damaged, step, event clock, offsets, size."""
    from ecdctr.commands.basic import show_checkpoints

    raise typer.Exit(show_checkpoints(out, _load(config, overrides), path))


@inspect_app.command("snapshot")
def inspect_snapshot(
    month: Annotated[str | None, typer.Argument(help="One month; default: all.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """TPM snapshots: months, rows, youngest training row; checks the checksum."""
    from ecdctr.commands.basic import show_snapshots

    raise typer.Exit(show_snapshots(out, _load(config, overrides), month))


@config_app.command("show")
def config_show(
    config: ConfigOption = None,
    overrides: SetOption = None,
    toml: Annotated[bool, typer.Option("--toml", help="As a TOML file that reads back to the same.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the default.")] = False,
) -> None:
    """Every key, its value, where the value came from, and what it is for."""
    from ecdctr.settings import dump_toml, settings_table

    loaded = _load(config, overrides)
    if toml:
        out.print(dump_toml(loaded.settings), markup=False, highlight=False, soft_wrap=True)
        return
    table = Table("key", "value", "from", "what it is for", box=None, pad_edge=False)
    for key, value, origin, text in settings_table(loaded):
        if not changed or origin != "default":
            table.add_row(key, str(value), origin, text, style=None if origin == "default" else "bold")
    out.print(table)


def main() -> None:
    """Entry point: errors raised on purpose become one line and their exit code."""
    try:
        # Outside of standalone mode click returns the exit code instead of exiting.
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except EcdctrError as error:
        err.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)
    except typer.Abort:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        click_error = getattr(error, "format_message", None)
        if click_error is None:
            raise
        err.print(f"[bold red]error:[/] {_escape(click_error())}", soft_wrap=True, highlight=False)
        sys.exit(2)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
