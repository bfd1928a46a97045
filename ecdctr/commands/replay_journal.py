"""``ecdctr replay --journal``: the journal of a worker replayed from the Kafka log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ecdctr import factory
from ecdctr.commands.rebuild import rebuild
from ecdctr.commands.requested_arms import RequestedArms
from ecdctr.events.schema import FeatureSchema
from ecdctr.replay.figures import FeatureSlice, evaluate, feature_slices
from ecdctr.replay.play import RowNotes
from ecdctr.replay.report import REPORT_FILES, ReportMeta, is_report, write_report
from ecdctr.settings import Loaded, Settings, dump_toml
from ecdctr.state.errors import ConfigError
from ecdctr.state.output_folder import OutputFolder
from ecdctr.state.row_logs import ScoreLog
from ecdctr.tables import print_totals

__all__ = ["replay_journal"]


def replay_journal(
    out: Console,
    err: Console,
    loaded: Loaded,
    out_dir: Path,
    slices: Sequence[str] = (),
    base: str | None = None,
) -> int:
    """Replay the state folder's journal from the Kafka log (``ecdctr replay --journal``).

    With unchanged settings, verify that the rebuilt model equals the checkpoint bit for bit. With other settings for the
    models, compare the scores that they would have given with the recorded ones, and write a report.

    Returns
    -------
    int
        Exit code: 1 if the rebuilt model differs, else 0.
    """
    settings = loaded.settings
    reference = RequestedArms().base(base, settings)
    requested = feature_slices(FeatureSchema(settings.features, settings.model.dim), slices)
    changed = sorted(
        key
        for key, where in loaded.origin.items()
        if where == "--set" and key.split(".")[0] in ("model", "schedule", "tpm")
    )
    if (slices or base) and not changed:
        raise ConfigError(
            "--slice and --base apply to figures, and a journal has figures only with other settings: add --set KEY=VALUE"
        )
    if not changed:
        rebuilt = rebuild(err, settings)
        out.print(rebuilt.verdict, soft_wrap=True)
        return 0 if rebuilt.identical else 1
    output = OutputFolder(out_dir, "ecdctr replay --journal")
    with output.hold(REPORT_FILES, lambda path: is_report(path.parent)):
        _counterfactual(out, err, settings, out_dir, changed, requested, reference)
    return 0


def _counterfactual(
    out: Console,
    err: Console,
    settings: Settings,
    out_dir: Path,
    changed: Sequence[str],
    requested: Sequence[FeatureSlice],
    reference: str,
) -> None:
    """Replay the journal with changed settings, and write the report."""
    notes = RowNotes(requested, tpm=factory.reads_snapshots(settings))
    rebuilt = rebuild(err, settings, compare=False, notes=notes)
    recorded = ScoreLog(factory.Folders(settings.state.folder).scores, read_only=True)
    before = evaluate(recorded, recorded.arms, base=reference)
    scores = rebuilt.engine.scores
    result = evaluate(scores, scores.arms, base=reference, slices=requested)
    shown = ", ".join(f"{k} = {_value(settings, k)}" for k in changed)
    out.print(f"same rows, same order ({rebuilt.steps:,} steps, {rebuilt.rows:,} rows), with {shown}")
    print_totals(out, before, title="recorded")
    print_totals(out, result, title="with the changed settings")
    meta: ReportMeta = {
        "source": f"journal of {settings.state.folder} with {shown}",
        "rows": rebuilt.rows,
        "settings": dump_toml(settings),
    }
    out.print(f"report: {write_report(out_dir, f'Counterfactual: {shown}', result, meta)}", soft_wrap=True)


def _value(settings: Settings, key: str) -> Any:
    node: Any = settings
    for name in key.split("."):
        node = getattr(node, name)
    return node
