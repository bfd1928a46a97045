"""Commands on historical logs: ``replay``, ``report compare`` and ``drift``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecdctr.cli.options import ConfigOption, SetOption, SourceArgument, err, load, out
from ecdctr.models.registry import ARMS

__all__ = ["drift", "replay", "report_compare"]

_ARM_NAMES = ", ".join(entry.name.replace("_", "-") for entry in ARMS)


def replay(
    source: Annotated[
        str | None,
        typer.Argument(
            help="The log to replay: `kafka` (both click topics), `kafka:window=1h,offsets=ad-clicks/0:0-500`, "
            "the simulator (`sim:days=40,users=2000`), a published data set (`ebnerd:FOLDER?mapping=A`), tables described by a "
            "mapping file (`map:FILE.toml`), or event files. The error for an unknown source lists every form."
        ),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    journal: Annotated[
        bool,
        typer.Option(
            "--journal",
            help="Replay the state folder's journal from the Kafka log instead of a source, and compare the rebuilt model "
            "with the checkpoint bit for bit.",
        ),
    ] = False,
    out_dir: Annotated[Path, typer.Option("--out", help="Write the report to this folder.")] = Path(
        "replay-out"
    ),
    since: Annotated[
        str | None, typer.Option("--from", help="Replay only rows from this UTC date (and time) on.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Replay only rows before this UTC date (and time).")
    ] = None,
    last: Annotated[
        str | None,
        typer.Option(help="Replay only this length of time up to the newest event, for example 12h or 7d."),
    ] = None,
    sample_users: Annotated[
        float,
        typer.Option(help="Replay only this share of the users, with all of their rows."),
    ] = 1.0,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume the interrupted replay in the report folder."),
    ] = False,
    csv: Annotated[
        bool, typer.Option("--csv", help="Write the figures by day and by slice as CSV files, too.")
    ] = False,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Save the final models as a checkpoint, which `--frozen` can load."),
    ] = False,
    arms: Annotated[
        str | None,
        typer.Option(
            help=f"Train these arms side by side on the same batches: full, {_ARM_NAMES}; or the configuration with one setting "
            "changed: no-tpm, tpm-mean, tpm-latest, bn-kept, no-fine-tune, init-once, no-gate."
        ),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="Add an arm with different settings: `--arm small:model.dim=8,model.lr=0.002`. May be repeated."
        ),
    ] = None,
    frozen: Annotated[
        list[str] | None,
        typer.Option(
            help="Add a checkpoint as an arm that does not learn: `--frozen tuesday:state/checkpoints/00000003-step-500`. It "
            "predicts only rows younger than itself. May be repeated."
        ),
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice",
            metavar="FEATURE",
            help="Report the figures by the values of a configured feature, too: by name for its 24 most frequent values, in "
            "five ranges for a number, by the number of ids for a bag. May be repeated. Every report has slices by the "
            "number of earlier rows of the user and of the item, by the time since the last of them (in ads, and in both "
            "streams), and by whether a TPM vector was present.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Compare the other arms with this one (default ads-only): `--base mixed`, or the name of an `--arm` or "
            "`--frozen`."
        ),
    ] = None,
) -> None:
    """Replay a log through the trainer, and report the figures by day.

    Every row is predicted and scored before the models learn from it, as in a live worker. Ctrl-C ends the replay
    with a report of the rows up to then; `--resume` continues from there.
    """
    from ecdctr.commands.replay import ReplayOptions, replay_source
    from ecdctr.commands.replay_journal import replay_journal
    from ecdctr.commands.requested_arms import parse_arms
    from ecdctr.state.errors import ConfigError

    loaded = load(config, overrides)
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
        arms=parse_arms(arms, arm or (), frozen or ()),
        keep=keep,
        slices=tuple(slices or ()),
        base=base,
    )
    replay_source(out, err, loaded, source, out_dir, options)


def report_compare(
    a: Annotated[Path, typer.Argument(help="The `--out` folder of a replay.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="The `--out` folder of another replay.", show_default=False)],
    out_dir: Annotated[
        Path, typer.Option("--out", help="Write the page that compares one arm to this folder.")
    ] = Path("compare-out"),
    arm: Annotated[str, typer.Option(help="The arm that the page compares.")] = "actr",
) -> None:
    """Is replay B better than replay A? Compare each arm on the rows that both have scored, with intervals."""
    from ecdctr.commands.compare import compare_reports

    compare_reports(out, a, b, out_dir, arm)


def drift(
    source: SourceArgument,
    reference: Annotated[
        str,
        typer.Option(
            help="Compare with this source, or with the saved reference in this folder.", show_default=False
        ),
    ],
    config: ConfigOption = None,
    overrides: SetOption = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Write the report to this folder.")] = Path(
        "drift-out"
    ),
    since: Annotated[
        str | None, typer.Option("--from", help="Compare only rows from this UTC date on.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Compare only rows before this UTC date.")] = None,
    reference_since: Annotated[
        str | None,
        typer.Option("--reference-from", help="Use only reference rows from this UTC date on."),
    ] = None,
    reference_until: Annotated[
        str | None, typer.Option(help="Use only reference rows before this UTC date.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Save the reference in this folder; `monitor.watch.drift.reference` can name it afterwards."
        ),
    ] = None,
) -> None:
    """Compare each day of a log with a reference: which features changed, when, and by how much."""
    from ecdctr.commands.drift import DriftOptions, drift_source

    options = DriftOptions(since, until, reference_since, reference_until, save)
    drift_source(out, err, load(config, overrides), source, reference, out_dir, options)
