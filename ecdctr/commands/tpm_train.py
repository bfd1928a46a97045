"""``ecdctr tpm train``: monthly TPM snapshots from the natural clicks of a source."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from ecdctr import factory
from ecdctr.events.batch import NATURAL
from ecdctr.events.time import DAY_MS
from ecdctr.progress import progress_bar
from ecdctr.replay.sources import RowFilter
from ecdctr.settings import Loaded
from ecdctr.sources import moment, open_log
from ecdctr.state.checkpoints import Capture
from ecdctr.state.errors import DataError
from ecdctr.state.lock import FolderLock

__all__ = ["train_tpm"]


def train_tpm(
    out: Console, err: Console, loaded: Loaded, text: str, *, until: str | None = None, partial: bool = False
) -> list[str]:
    """Write one snapshot a month from a source's natural clicks; return the months written.

    The month in which the source ends is closed if the source contains its last day, or with ``partial``. The state of the
    tiny model is saved, too, so that a worker with ``tpm.live`` can resume its training.

    Raises
    ------
    DataError
        The source contains no complete month.
    StateLockedError
        Another process trains TPM for the same state folder.
    """
    saved = FolderLock(
        factory.Folders(loaded.settings.state.folder).tpm,
        "folder of TPM's states",
        way_out="or name another state.folder",
    )
    with saved:
        return _train(out, err, loaded, text, until, partial=partial)


def _train(
    out: Console, err: Console, loaded: Loaded, text: str, until: str | None, *, partial: bool
) -> list[str]:
    written: list[Any] = []
    clock = 0
    with open_log(text, loaded, history=True) as (source, settings):
        trainer = factory.tpm_trainer(settings)
        rows = RowFilter(until_ms=moment(until))
        with progress_bar(err, f"TPM on {source.name}", None) as update:
            for mixed in rows.apply(source.batches()):
                batch = mixed.take(mixed.domain == NATURAL)
                if len(batch):
                    written += trainer.learn(batch)
                    clock = max(clock, int(batch.ts.max()))
                    update(trainer.rows_learned, clock)
        rejects = source.rejects
    if trainer.month is not None and (partial or trainer.month.end_ms - clock <= DAY_MS):
        written += [m for m in (trainer.close_month(),) if m is not None]
    for notice in rejects.notices():
        err.print(notice, soft_wrap=True, markup=False, highlight=False)
    rejects.check(source.name)
    if not written:
        raise DataError(
            f"{source.name} contains no complete month of natural rows (tpm.month = {settings.tpm.month}): use a longer log or "
            "a shorter month (--set tpm.month=7d), or close the last month early (--partial)"
        )
    # A worker with tpm.live resumes from this state.
    state = trainer.capture()
    meta = state.meta | {"step": trainer.rows_learned, "shape": factory.shape_of_tpm(settings)}
    factory.tpm_states(settings).save(Capture(state.dense, state.rows, meta))
    months = [m.month for m in written]
    out.print(f"   {trainer.rows_learned:,} natural rows, {len(months)} snapshots: {', '.join(months)}")
    return months
