"""``ecdctr doctor``: what a worker will need, checked in order, as a table, as lines or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ecdctr.decoding import decoder, reads_snapshots
from ecdctr.settings import Settings, load_settings
from ecdctr.state.errors import ConfigError
from ecdctr.streams.doctor import Check, Examination, Report, Sampled, Status, Subjects

__all__ = ["WOULD_NOT_RUN", "examine"]

WOULD_NOT_RUN = 7
"""Exit code if a worker would not run."""

_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red", Status.SKIPPED: "dim"}
_FIELDS = 40
"""Fields shown of a topic; ``--json`` has all."""


def examine(
    out: Console,
    config: Path | None,
    overrides: list[str],
    *,
    as_json: bool,
    messages: int,
    topic: str | None,
) -> int:
    """Check everything, print what was found, and return the exit code: 0 if a worker would run, else :data:`WOULD_NOT_RUN`.

    Raises
    ------
    ConfigError
        ``topic`` is not one of the click topics.
    """
    try:
        settings = load_settings(config, overrides).settings
    except ConfigError as error:
        report = Report([Check("configuration", Status.FAILED, str(error).replace("\n", "; "))])
    else:
        report = _examination(settings, messages, topic).run()
    if as_json:
        out.print(json.dumps(report.as_json(), indent=1), markup=False, highlight=False, soft_wrap=True)
    else:
        _print_checks(out, report)
        for name, sampled in report.samples.items():
            _print_fields(out, name, sampled)
        out.print(_verdict(report))
    return 0 if report.would_run else WOULD_NOT_RUN


def _examination(settings: Settings, messages: int, topic: str | None) -> Examination:
    if topic is not None and topic not in settings.topics.domains:
        known = " and ".join(settings.topics.domains)
        raise ConfigError(f"--topic {topic} is not one of the configured click topics: {known}")
    tpm = reads_snapshots(settings) and not settings.tpm.live
    return Examination(
        Subjects(
            kafka=settings.kafka,
            topics=settings.topics,
            state=settings.state,
            alerts=settings.monitor.alerts_topic,
            group=settings.worker.group,
            months="`ecdctr tpm train kafka` would read whole months from it" if tpm else "",
            make_decoder=lambda: decoder(settings),
        ),
        messages=messages,
        only=topic,
    )


def _print_checks(out: Console, report: Report) -> None:
    if not out.is_terminal:
        for check in report.checks:
            way_out = f"; {check.way_out}" if check.way_out else ""
            line = f"{check.status:<12}{check.name}: {check.found}{way_out}"
            out.print(_printable(line), markup=False, highlight=False, soft_wrap=True)
        return
    table = Table("", "check", "found", box=None, pad_edge=False)
    for check in report.checks:
        found = Text(_printable(check.found))
        if check.way_out:
            found.append(f"\n{_printable(check.way_out)}", style="italic")
        table.add_row(Text(check.status, style=_STYLES[check.status]), Text(check.name), found)
    out.print(table)


def _print_fields(out: Console, topic: str, sampled: Sampled) -> None:
    if not sampled.messages:
        return
    out.print(f'\nfields of the last {sampled.messages:,} messages of "{topic}"', highlight=False)
    heads = ("field", "used as", "present", "null", "type", "distinct", "example")
    rows = [
        (
            f.name, f.used_as or "not used", f"{f.present:.1%}", f"{f.null:.1%}", " or ".join(f.types),
            f"{f.distinct:,}", f.example,
        )
        for f in sampled.fields[:_FIELDS]
    ]  # fmt: skip
    if out.is_terminal:
        table = Table(*heads, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(_printable(cell)) for cell in row))
        out.print(table)
    else:
        for row in rows:
            line = ", ".join(
                f"{head} {value}" for head, value in zip(heads[2:], row[2:], strict=True) if value
            )
            out.print(
                _printable(f"  {row[0]} ({row[1]}): {line}"), markup=False, highlight=False, soft_wrap=True
            )
    if len(sampled.fields) > _FIELDS:
        out.print(f"  and {len(sampled.fields) - _FIELDS} more fields (--json)", highlight=False)


def _printable(text: str) -> str:
    """The text without control characters: names of fields and parts of messages come from producers."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def _verdict(report: Report) -> Text:
    counts = {status: sum(check.status is status for check in report.checks) for status in Status}
    told = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    if report.would_run:
        return Text(f"a worker would run ({told})", style="green")
    return Text(f"a worker would not run ({told})", style="bold red")
