"""``ecdctr drift``: compares each day of a log with a reference, which is stored as sketches."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ecdctr import factory
from ecdctr.events.batch import Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.monitor.drift import Reference, by_day, gather, summarise, write_drift_report
from ecdctr.progress import progress_bar
from ecdctr.replay.sources import RowFilter, SourceLog
from ecdctr.settings import Loaded, Settings
from ecdctr.sources import moment, open_with_features
from ecdctr.state.errors import ConfigError, DataError
from ecdctr.state.output_folder import OutputFolder

__all__ = ["DriftOptions", "drift_source"]

_FILES, _REFERENCE = ("drift.html", "drift.json"), ("reference.json", "reference.npz")


@dataclass(frozen=True)
class DriftOptions:
    """The rows to compare.

    Attributes
    ----------
    since, until
        UTC dates: only rows with ``since <= ts < until`` are compared.
    reference_since, reference_until
        The same for the rows of the reference.
    save
        Folder in which the reference is saved.
    """

    since: str | None = None
    until: str | None = None
    reference_since: str | None = None
    reference_until: str | None = None
    save: Path | None = None


def drift_source(
    out: Console,
    err: Console,
    loaded: Loaded,
    text: str,
    reference_text: str,
    out_dir: Path,
    options: DriftOptions | None = None,
) -> dict[str, Any]:
    """Compare, print the strongest changes, and write the report; return its figures.

    Parameters
    ----------
    text
        The source to compare.
    reference_text
        Another source, or a folder with a saved reference.
    """
    options = options or DriftOptions()
    with ExitStack() as held:
        output = OutputFolder(out_dir, "ecdctr drift")
        held.enter_context(output.hold(_FILES, lambda path: _is_json(path.parent / "drift.json", "result")))
        if options.save is not None:
            saved = OutputFolder(options.save, "ecdctr drift --save", "--save")
            was_saved = partial(_is_json, options.save / "reference.json", "fingerprint")
            held.enter_context(saved.hold(_REFERENCE, lambda _: was_saved()))
        return _compare(out, err, loaded, text, reference_text, out_dir, options)


def _is_json(path: Path, key: str) -> bool:
    """Whether an earlier version, which recorded nothing in the folder, wrote this file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and key in content


def _compare(
    out: Console,
    err: Console,
    loaded: Loaded,
    text: str,
    reference_text: str,
    out_dir: Path,
    options: DriftOptions,
) -> dict[str, Any]:
    source, settings = open_with_features(text, loaded)
    schema = FeatureSchema(settings.features, settings.model.dim)
    watched = settings.monitor.watch.drift
    began = time.perf_counter()
    reference = _reference(err, loaded, settings, schema, reference_text, options)
    if options.save is not None:
        reference.save(options.save)
    log = SourceLog(source, factory.decoder(settings))
    chosen = RowFilter(moment(options.since, "--from"), moment(options.until))
    days = list(by_day(_with_progress(err, log, chosen, f"drift {log.name}"), schema, watched, reference))
    log.rejects.check(log.name)
    result = summarise(days)
    rows = sum(sum(d.rows.values()) for d in days)
    meta: dict[str, Any] = {
        "rows": rows,
        "rejects": {k: v for k, v in log.rejects.items() if v},
        "left_out": log.rejects.causes(),
        "notices": log.rejects.notices(),
        "seconds": time.perf_counter() - began,
    }
    path = write_drift_report(out_dir, log.name, reference, result, meta)
    for notice in meta["notices"]:
        err.print(notice, soft_wrap=True, markup=False, highlight=False)
    _print(out, result)
    out.print(f"{rows:,} rows in {meta['seconds']:.1f} s; report: {path}", soft_wrap=True)
    return {"result": result, "meta": meta, "report": path}


def _reference(
    err: Console,
    loaded: Loaded,
    settings: Settings,
    schema: FeatureSchema,
    text: str,
    options: DriftOptions,
) -> Reference:
    cut = options.reference_since is not None or options.reference_until is not None
    if (Path(text) / "reference.json").is_file():
        if cut:
            raise ConfigError(
                f"{text} is a saved reference: --reference-from and --reference-until choose rows of a source"
            )
        return Reference.load(text, schema)
    source, of_reference = open_with_features(text, loaded)
    if FeatureSchema(of_reference.features, of_reference.model.dim).fingerprint() != schema.fingerprint():
        raise ConfigError(
            f"the features of the reference {text} differ from those of the source: configure [[features]] for both"
        )
    log = SourceLog(source, factory.decoder(settings))
    rows = RowFilter(
        moment(options.reference_since, "--reference-from"),
        moment(options.reference_until, "--reference-until"),
    )
    batches = _with_progress(err, log, rows, f"reference {log.name}")
    try:
        reference = gather(batches, schema, settings.monitor.watch.drift, log.name)
    except DataError:
        log.rejects.check(f"reference {log.name}")  # the better message, if all rows were rejected
        raise
    for notice in log.rejects.notices():
        err.print(f"reference: {notice}", soft_wrap=True, markup=False, highlight=False)
    log.rejects.check(f"reference {log.name}")
    return reference


def _with_progress(err: Console, log: SourceLog, rows: RowFilter, what: str) -> Iterator[Batch]:
    """Yield the batches, and show a progress bar."""
    done = 0
    with progress_bar(err, what, log.count() if rows.takes_all else None) as update:
        for batch in rows.apply(log.batches()):
            yield batch
            done += len(batch)
            update(done, int(batch.ts.max()))


def _print(out: Console, result: dict[str, Any]) -> None:
    moved = [t for t in result["things"] if t["days_moved"]]
    if not moved:
        out.print(f"nothing has changed in {len(result['days'])} days")
        return
    table = Table("", "domain", "effect", "days", "first", "by how much", box=None, pad_edge=False)
    for t in moved[:20]:
        name = (
            t["name"]
            if t["what"] == "feature"
            else f"{t['name']} ({t['what']})"
            if t["what"] != "label"
            else "CTR"
        )
        table.add_row(
            name, t["domain"], f"{t['effect']:.2f}", str(t["days_moved"]), t["first_moved"], t["description"]
        )
    out.print(table)
