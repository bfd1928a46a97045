"""``ReportMeta``: facts about the run of a report; ``Report``: the content of ``report.json``."""

from __future__ import annotations

from typing import TypedDict

from ecdctr.replay.checks import CheckResult
from ecdctr.replay.figures import ReplayResult
from ecdctr.replay.sources import RejectedRows

__all__ = ["FrozenMeta", "Report", "ReportMeta"]


class FrozenMeta(TypedDict):
    """An arm restored from a checkpoint.

    Attributes
    ----------
    checkpoint
        Folder of the checkpoint.
    clock
        Its event clock, ms.
    not_asked
        Rows up to that clock, from which the model may have learned: it does not predict them.
    """

    checkpoint: str
    clock: int
    not_asked: int


class ReportMeta(TypedDict, total=False):
    """About the run, every key optional; all of it is written to ``report.json``.

    Attributes
    ----------
    source
        Name of the log.
    rows, steps
        Rows and steps replayed.
    seconds, cpu_seconds, rows_per_s, peak_mib
        What the run took: wall time, CPU time of all threads, rows a second of wall time, most memory held.
    interrupted
        Whether the replay ended early.
    rejects
        Number of rejected rows by reason.
    left_out
        The rejected rows by reason and field, each with an example.
    not_learned
        Rows whose step was rolled back, because its loss was not finite.
    notices
        The sentences that were printed at the end of the run.
    stragglers
        Rows that came later than the log's window allows.
    releases, refused
        Event clocks (ms) of the CPM releases, and of those that the gate refused.
    checks
        Results of the replay's own checks.
    arms
        Further arms by name, with the settings in which each differs from the configuration.
    frozen
        Arms restored from checkpoints, by name.
    checkpoint
        Checkpoint of the final models, None if none was saved.
    settings
        The configuration as TOML.
    """

    source: str
    rows: int
    seconds: float
    cpu_seconds: float
    rows_per_s: int
    steps: int
    interrupted: bool
    rejects: dict[str, int]
    left_out: list[RejectedRows]
    not_learned: int
    notices: list[str]
    stragglers: int
    releases: list[int]
    refused: list[int]
    peak_mib: int
    checks: list[CheckResult]
    arms: dict[str, str]
    frozen: dict[str, FrozenMeta]
    checkpoint: str | None
    settings: str


class Report(TypedDict):
    """The content of ``report.json``; figures that are not finite are null there."""

    title: str
    meta: ReportMeta
    result: ReplayResult
