"""The text of the files that describe a log: the mapping, and the keys of the configuration that depend on the log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import DAY_MS, HOUR_MS
from ecdctr.replay.guesses.apart import Apart, Clicks
from ecdctr.replay.guesses.findings import Finding
from ecdctr.replay.guesses.proposal import Feature, Proposal, TableGuess
from ecdctr.replay.guesses.times import TimeReading
from ecdctr.replay.sources import CountsMap, TimeMap

__all__ = ["feature_lines", "mapping_text", "settings_lines"]

_WIDTH = 60
_STEPS = (
    ("10m", 600_000),
    ("30m", 1_800_000),
    ("1h", HOUR_MS),
    ("3h", 3 * HOUR_MS),
    ("6h", 6 * HOUR_MS),
    ("12h", 12 * HOUR_MS),
    ("1d", DAY_MS),
    ("2d", 2 * DAY_MS),
    ("7d", 7 * DAY_MS),
)
_MOST_PATHS = 50
_SMALL = 200_000


def mapping_text(proposal: Proposal, name: str, folder: Path) -> str:
    """The mapping file of a proposal; the paths in it are relative to ``folder`` if they are below it."""
    lines = [
        f"# How {_comment(name)} is read: guessed from a sample of its rows by `ecdctr init`. docs/replay.md describes every key.",
        "# Each line ends with how sure the guess is, and its evidence. Change what is wrong; nothing else refers to this file.",
        "",
        f"name = {_toml(name)}",
    ]
    for index, table in enumerate(proposal.tables):
        lines += ["", *_table_lines(proposal, index, table, folder)]
        if table.joined is not None and table.joined.clicks is not None:
            lines += ["", *_click_lines(table.joined, table.joined.clicks, folder)]
    lines += ["", *feature_lines(proposal.features)]
    left = [f for f in proposal.found.all if f.what in ("leak", "left out")]
    if left:
        lines += ["", '# Left out. To use one of these columns, add [[features]] with name = "COLUMN".']
        lines += [
            f"#   {_comment(f.column)}: {'known only after the impression: ' if f.what == 'leak' else ''}{_comment(f.why)} ({f.confidence})"
            for f in left
        ]
    return "\n".join(lines) + "\n"


def _table_lines(proposal: Proposal, index: int, table: TableGuess, folder: Path) -> Iterator[str]:
    found = table.found
    yield "[[tables]]"
    yield f"path = {_paths(table.sample.files, folder)}"
    joined = table.joined
    if joined is not None and joined.action is None:
        yield 'event = "impression"                      # the clicks are in the next table'
    elif joined is not None and joined.action is not None:
        column, views, clicks = joined.action
        yield f"event = {{column = {_toml(column)}, impression = {_toml(list(views))}, click = {_toml(list(clicks))}}}"
    stream = table.stream
    evidence = _evidence(f for f in found.of("stream") if f.column == (stream.column or ""))
    if stream.column is None:
        yield f"domain = {_toml(stream.domain)}{evidence}"
    else:
        yield f"domain = {{column = {_toml(stream.column)}, ad = {_toml(list(stream.ad))}, natural = {_toml(list(stream.natural))}}}{evidence}"
    if table.sorted:
        yield 'order = "sorted"                          # the sampled rows are in the order of time'
        yield 'window = "10m"                            # except for rows that come this much too late'
    else:
        yield 'order = "any"                             # the rows are sorted by time before they are replayed'
    yield ""
    yield "[tables.columns]"
    yield f"ts = {_time(table.time)}{_evidence(_about(found.of('time'), table.time.profile.name))}"
    yield f"user_id = {_toml(table.user)}{_evidence(_about(found.of('user'), table.user))}"
    expansion = table.label.expansion
    if expansion is None or isinstance(expansion, CountsMap):
        yield f"item_id = {_toml(table.item)}{_evidence(_about(found.of('item'), table.item))}"
    labels = _evidence(_about(found.of("label"), ", ".join(table.label.used)))
    if joined is not None:
        yield f"{joined.field} = {_toml(joined.column)}{_evidence(_about(found.of('label'), joined.column))}"
    if table.label.label is not None:
        yield f"label = {_toml(table.label.label)}{labels}"
    if table.ids.list_id is not None:
        yield f"list_id = {_toml(table.ids.list_id)}{_evidence(_about(found.of('list'), table.ids.list_id))}"
    if table.ids.event_id is not None and expansion is None:
        yield f"event_id = {_toml(table.ids.event_id)}{_evidence(_about(found.of('event'), table.ids.event_id))}"
    if expansion is not None:
        yield ""
        section = "counts" if isinstance(expansion, CountsMap) else "lists"
        yield f"[tables.{section}]{labels}"
        for key, value in expansion.model_dump(exclude_defaults=True).items():
            yield f"{key} = {_toml(list(value) if isinstance(value, tuple) else value)}"
    renamed = list(_renamed(proposal.features, index))
    if renamed:
        yield ""
        yield "[tables.fields]"
        yield from renamed


def _click_lines(joined: Apart, clicks: Clicks, folder: Path) -> Iterator[str]:
    yield "[[tables]]"
    yield f"path = {_paths(clicks.sample.files, folder)}"
    yield 'event = "click"'
    yield 'order = "any"'
    yield ""
    yield "[tables.columns]"
    yield f"ts = {_time(clicks.time)}{_note(clicks.time.text)}"
    yield f"{joined.field} = {_toml(clicks.key)}"
    if clicks.item is not None:
        yield f"item_id = {_toml(clicks.item)}"


def _renamed(features: Iterable[Feature], index: int) -> Iterator[str]:
    for feature in features:
        column = feature.columns.get(index)
        if column is None:
            continue
        separator = feature.guess.separator
        if feature.spec.kind == "bag" and separator not in (None, "|"):
            yield f"{_key(feature.spec.field)} = {{column = {_toml(column)}, separator = {_toml(separator)}}}"
        elif feature.guess.comma:
            yield f'{_key(feature.spec.field)} = {{column = {_toml(column)}, decimal = ","}}'
        elif column != feature.spec.field:
            yield f"{_key(feature.spec.field)} = {_toml(column)}"


def feature_lines(features: Iterable[Feature]) -> list[str]:
    """``[[features]]`` with the evidence of each."""
    lines: list[str] = []
    for feature in features:
        guess = feature.guess
        lines += ["", "[[features]]" + _note(f"{guess.confidence}: {guess.why}")]
        lines += [f"{key} = {_toml(value)}" for key, value in _values(feature.spec)]
    return lines[1:]


def _values(spec: FeatureSpec) -> Iterator[tuple[str, Any]]:
    yield "name", spec.name
    if spec.field != spec.name:
        yield "field", spec.field
    if spec.kind != "categorical":
        yield "kind", spec.kind
    if spec.kind != "numeric":
        yield "buckets", spec.buckets
    if spec.kind == "bag":
        yield "max_length", spec.max_length
    if spec.transform != "none":
        yield "transform", spec.transform
    if spec.tpm:
        yield "tpm", True


def settings_lines(rows: int, span_ms: int) -> list[str]:
    """Keys of the configuration that fit a log of this size.

    Parameters
    ----------
    rows
        Impressions of both streams.
    span_ms
        Event time that they cover.
    """
    release = _at_most(span_ms / 6)
    warm_up = min(_at_most(span_ms / 10), "1d", key=_length)
    natural = 512 if rows > 200_000 else 256 if rows > 50_000 else 128 if rows > 10_000 else 64
    span = f"{span_ms / DAY_MS:.1f} days" if span_ms > DAY_MS else f"{span_ms / HOUR_MS:.1f} hours"
    return [
        f"[schedule]                                # the log has about {rows:,} impressions and covers {span}",
        f'first_release_after = "{warm_up}"'.ljust(42)
        + "# event time of natural content before the first release",
        f'release_every = "{release}"'.ljust(42)
        + "# then CPM's parameters are copied to the ads model this often",
        "",
        "[model]",
        f"natural_batch = {natural}".ljust(42)
        + "# rows of a step; larger is faster, smaller learns a small log better",
        f"ad_batch = {natural // 4}",
        *(
            [
                "natural_score_share = 1.0".ljust(42)
                + "# score natural rows of all users; the default is a tenth"
            ]
            if rows < _SMALL
            else []
        ),
    ]


def _at_most(ms: float) -> str:
    return next((text for text, length in reversed(_STEPS) if length <= ms), _STEPS[0][0])


def _length(text: str) -> int:
    return dict(_STEPS)[text]


def _paths(files: list[Path], folder: Path) -> str:
    if len(files) > _MOST_PATHS:
        common = Path(os.path.commonpath([f.parent for f in files]))
        return _toml(_relative(common, folder))
    paths = [_relative(file, folder) for file in files]
    return _toml(paths[0] if len(paths) == 1 else paths)


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _time(reading: TimeReading) -> str:
    spec = reading.spec
    if not isinstance(spec, TimeMap):
        return _toml(spec)
    return (
        "{"
        + ", ".join(
            f"{key} = {_toml(value)}" for key, value in spec.model_dump(exclude_defaults=True).items()
        )
        + "}"
    )


def _about(findings: Iterable[Finding], column: str | None) -> list[Finding]:
    return [f for f in findings if f.column == column]


def _evidence(findings: Iterable[Finding]) -> str:
    first = next(iter(findings), None)
    return (
        ""
        if first is None
        else _note(f"{first.confidence}: {first.why}{f'. CHECK: {first.look}' if first.look else ''}")
    )


def _note(text: str) -> str:
    return f"  # {_comment(text)}"


def _comment(text: str) -> str:
    """A text in a comment: one line without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text) + '"'
