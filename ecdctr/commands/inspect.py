"""``ecdctr inspect``: checkpoints and TPM snapshots on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ecdctr import factory
from ecdctr.progress import event_day
from ecdctr.settings import Loaded
from ecdctr.state.checkpoints import CheckpointStore
from ecdctr.state.errors import CheckpointDamagedError, FormatError, SnapshotDamagedError, StateError
from ecdctr.state.snapshots import RocksEmbeddingStore

__all__ = ["show_checkpoints", "show_snapshots"]


def show_checkpoints(out: Console, loaded: Loaded, path: Path | None) -> int:
    """Print every checkpoint and whether it is whole; exit code 1 if one is damaged or has another format."""
    folder = factory.Folders(loaded.settings.state.folder).checkpoints if path is None else path.parent
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
    wrong = 0
    for name in names:
        try:
            meta = store.load(name).meta
        except (CheckpointDamagedError, FormatError) as error:
            wrong += 1
            table.add_row(name, _unusable(error))
            continue
        rows = meta["progress"]["rows"]
        table.add_row(
            name, "whole", f"{meta['step']:,}", event_day(meta["clock"]),
            ", ".join(f"{n:,} {k}" for k, n in rows.items()), _releases(meta["progress"]),
            ", ".join(meta.get("versions", {}).get("tpm", ())) or "none",
        )  # fmt: skip
    out.print(table)
    return 1 if wrong else 0


def _unusable(error: Exception) -> Text:
    word = "other format" if isinstance(error, FormatError) else "damaged"
    return Text.assemble((word, "red"), f": {error}")


def _releases(progress: dict[str, Any]) -> str:
    refused = len(progress.get("refused", ()))
    return f"{progress['releases']:,}" + (f" ({refused:,} refused)" if refused else "")


def show_snapshots(out: Console, loaded: Loaded, month: str | None) -> int:
    """Print every TPM snapshot and whether it is whole; exit code 1 if one is damaged or has another format."""
    settings = loaded.settings
    store = RocksEmbeddingStore(factory.Folders(settings.state.folder).snapshots, cache_rows=1024)
    months = [month] if month else store.names()
    if not months:
        raise StateError(
            f"there is no snapshot in {settings.state.folder}/snapshots: create some with `ecdctr tpm train SOURCE`"
        )
    table = Table("month", "state", "users", "items", "dim", "latest training row", box=None, pad_edge=False)
    wrong = 0
    for name in months:
        try:
            manifest = store.manifest(name)
            facts = (
                f"{manifest.rows['user']:,}", f"{manifest.rows['item']:,}", str(manifest.dim), event_day(manifest.last_ts)
            )  # fmt: skip
        except (SnapshotDamagedError, FormatError) as error:
            wrong += 1
            table.add_row(name, _unusable(error))
            continue
        try:
            store.verify(name)
            state = Text("whole")
        except SnapshotDamagedError as error:
            wrong += 1
            state = _unusable(error)
        table.add_row(name, state, *facts)
    out.print(table)
    return 1 if wrong else 0
