"""A log and a model that replay in seconds, and an interruption (Ctrl-C) during the replay."""

from __future__ import annotations

import io
import signal
from pathlib import Path
from typing import Any

from rich.console import Console

from ecdctr.commands.replay import ReplayOptions, replay_source
from ecdctr.replay.sources import log as log_rows
from ecdctr.settings import Loaded

SMALL = "sim:days=8,live_from=4,users=300,items=80,natural_per_day=1500,ads_per_day=200"
SETTINGS = ("model.threads=1", "model.natural_batch=128", "model.ad_batch=64", "model.hidden=[16]")


def replay(loaded: Loaded, source: str, folder: Path, *, width: int = 80, **options: Any) -> dict[str, Any]:
    """The result of a replay, and what it printed as ``out`` and ``err``."""
    out, err = (Console(file=io.StringIO(), width=width) for _ in range(2))
    done = replay_source(out, err, loaded, source, folder, ReplayOptions(**options))
    return vars(done) | {"out": out.file.getvalue(), "err": err.file.getvalue()}


class StopAfter:
    """Raises SIGINT once in this process (Ctrl-C), after the given number of rows of the log."""

    def __init__(self, monkeypatch, rows):
        before = log_rows.SourceLog.batches

        def batches(log):
            done = 0
            for batch in before(log):
                yield batch
                done += len(batch)
                if done >= rows and not self.pressed:
                    self.pressed = True
                    signal.raise_signal(signal.SIGINT)

        self.pressed = False
        monkeypatch.setattr(log_rows.SourceLog, "batches", batches)
