"""``ecdctr init``: a configuration and a mapping file for a log, guessed from a sample of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ecdctr import factory
from ecdctr.replay.guesses import (
    ROLES,
    Finding,
    Proposal,
    mapping_text,
    propose,
    sample_files,
    settings_lines,
)
from ecdctr.replay.sources import MappedTables, Rejects
from ecdctr.settings import load_settings
from ecdctr.sources import open_with_features
from ecdctr.state.errors import ConfigError

__all__ = ["CONFIG", "Written", "init_files", "parse_roles", "print_findings", "refuse_to_overwrite"]

CONFIG, MAPPING = "ecdctr.toml", "log.toml"
_CHECKED_ROWS = 2_000


@dataclass(frozen=True)
class Written:
    """What was written, and what was found."""

    config: Path
    mapping: Path | None
    proposal: Proposal


def parse_roles(texts: Sequence[str]) -> dict[str, str]:
    """``role=column`` of each option; ConfigError for an unknown role.

    >>> parse_roles(["label=dwell > 10", "user=cookie"])
    {'label': 'dwell > 10', 'user': 'cookie'}
    """
    out: dict[str, str] = {}
    for text in texts:
        role, sign, column = (part.strip() for part in text.partition("="))
        if role not in ROLES or not sign or not column:
            raise ConfigError(
                f"--use {text!r}: write it as ROLE=COLUMN, with one of the roles {', '.join(ROLES)}"
            )
        out[role] = column
    return out


def init_files(
    out: Console, paths: Sequence[str], folder: Path, *, rows: int, roles: Mapping[str, str], force: bool
) -> Written:
    """Sample files, guess how they are read, and write the configuration and the mapping.

    1. Refuse to overwrite files.
    2. Sample the files, and guess.
    3. Write both files.
    4. Read the first rows by what was written, as a replay does, and report those that would be left out.
    """
    config, mapping = folder / CONFIG, folder / MAPPING
    refuse_to_overwrite((config, mapping), force)
    if not folder.is_dir() and any(p.is_file() for p in (folder, *folder.parents)):
        raise ConfigError(f"--out {folder}: this is a file, or in one; name a folder")
    samples, remarks = sample_files(paths, rows)
    proposal = propose(samples, roles)
    name = Path(paths[0]).name or paths[0]
    folder.mkdir(parents=True, exist_ok=True)
    mapping.write_text(mapping_text(proposal, name, folder), encoding="utf-8")
    config.write_text(_config_text(proposal, name), encoding="utf-8")
    print_findings(out, proposal, [*remarks, *proposal.passed_over])
    _check(out, config, mapping)
    where = "" if folder.resolve() == Path.cwd() else f" --config {config}"
    out.print(f'\nwritten: {config}, {mapping}. Read the lines under "check", then:', soft_wrap=True)
    out.print(f"  ecdctr replay map:{mapping}{where} --out first", soft_wrap=True)
    out.print("and open first/report.html", soft_wrap=True)
    return Written(config, mapping, proposal)


def refuse_to_overwrite(files: Sequence[Path], force: bool) -> None:
    """Raise a ConfigError if a file exists, unless it may be overwritten."""
    present = [str(file) for file in files if file.exists()]
    if present and not force:
        raise ConfigError(
            f"{' and '.join(present)} would be overwritten: choose another folder with --out, or add --force"
        )


def _config_text(proposal: Proposal, name: str) -> str:
    lines = [
        f"# Configuration for a first replay of {name}, written by `ecdctr init`. `ecdctr config show` explains every key.",
        f"# The features are in {MAPPING}, with the columns of the log. A worker on Kafka needs them here: copy the [[features]] then.",
        "",
        "[state]",
        'folder = "state"'.ljust(42) + "# of a worker and of TPM; a replay writes to its own --out folder",
        "",
        *settings_lines(proposal.rows, proposal.span_ms),
    ]
    return "\n".join(lines) + "\n"


def print_findings(out: Console, proposal: Proposal, remarks: Sequence[str]) -> None:
    """Print what was guessed, how sure and why, and then what a person should check."""
    for table in proposal.tables:
        out.print(str(table.sample), soft_wrap=True)
    order = ("time", "label", "stream", "user", "item", "list", "event", "feature", "leak", "left out")
    for finding in sorted(proposal.found.all, key=lambda f: order.index(f.what)):
        line = Text.assemble(
            f"  {finding.what:<9}", (finding.column, "bold"), f" {finding.decision}" if finding.decision else "",
            (f"  {finding.confidence}: {finding.why}", "dim"),
        )  # fmt: skip
        _print(out, line)
    for remark in remarks:
        _print(out, Text(f"passed over: {remark}"))
    checks = [f for f in proposal.found.all if f.look]
    if checks:
        out.print("\ncheck:")
        said = (
            f"  {' '.join(filter(None, (finding.what, finding.column)))}: {finding.look}"
            for finding in sorted(checks, key=_doubt)
        )
        for text in dict.fromkeys(said):  # two tables may need the same
            _print(out, Text(text))


def _print(out: Console, line: Text) -> None:
    """Print a line without control characters: names and values come from the log."""
    line.plain = "".join(c if c.isprintable() else "?" for c in line.plain)
    out.print(line, soft_wrap=True, highlight=False)


def _doubt(finding: Finding) -> int:
    return ("guess", "likely", "sure").index(finding.confidence)


def _check(out: Console, config: Path, mapping: Path) -> None:
    """Read the first rows as a replay does; an error if most of them would be left out."""
    source, settings = open_with_features(f"map:{mapping}", load_settings(config, environ={}))
    assert isinstance(source, MappedTables)
    rejects = Rejects()
    rows = clicks = 0
    for batch in source.head(factory.decoder(settings), rejects, _CHECKED_ROWS):
        rows += len(batch)
        clicks += int((batch.label == 1).sum())
    rejects.accepted = rows
    what = (
        f"{rows:,} impressions and clicks can be read"
        if source.joined
        else f"{rows:,} impressions with {clicks:,} clicks can be learned"
    )
    out.print(f"\ntried: of the first rows, {what}, {sum(rejects.values()):,} are left out", soft_wrap=True)
    for line in rejects.notices():
        _print(out, Text("  " + line))
    rejects.check(str(mapping))
