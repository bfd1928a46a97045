"""A fixed log replayed by every kind of model, and the digest that is recorded of each replay.

``python -m tests.compat.replay_digest`` records the digests again. That is correct only after an intended change of the
figures, which the change log mentions.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ecdctr import factory
from ecdctr.commands.tpm_train import train_tpm
from ecdctr.events.batch import AD
from ecdctr.models.training import Engine
from ecdctr.replay.metrics import gauc
from ecdctr.replay.sources import SourceLog, steps_of
from ecdctr.settings import load_settings
from ecdctr.sources import open_with_features
from ecdctr.state.checkpoints import Capture
from ecdctr.state.snapshots import RocksEmbeddingStore
from tests.compat.machine import this_machine

RECORDED = Path(__file__).with_name("replay_digest.json")
LOG = (
    "sim:seed=5,days=10,live_from=6,users=120,items=60,categories=8,history_per_day=600,natural_per_day=480,"
    "ads_per_day=200,month_days=2"
)
SETTINGS = (
    "model.threads=1",
    "model.dim=4",
    "model.hidden=[8]",
    "model.natural_batch=64",
    "model.ad_batch=32",
    "model.natural_score_share=0.5",
    "model.stack_every=12h",
    "tpm.dim=4",
    "tpm.hidden=[8]",
    "tpm.batch=128",
    "tpm.month=2d",
    'tpm.month_origin="2026-01-01"',
    "schedule.first_release_after=12h",
    "schedule.release_every=12h",
)
_RELOAD = "model.transfer=reload"
VARIANTS: dict[str, tuple[str, ...]] = {
    "stack": (),
    "reload": (_RELOAD,),
    "linked": ("model.transfer=linked",),
    "linked on cpm": ("model.transfer=linked", "model.backbone=cpm", "model.batch_norm=running"),
    "bayes_fm": ("model.transfer=bayes_fm", 'model.arms=["ads_bayes_fm"]'),
    "every arm": (
        'model.arms=["reload","linked","stack","bayes_fm","ads_bayes_fm","ads_tpm","mixed","mixed_tpm","cpm_only","item_ctr"]',
        'model.stack_of=["reload","linked","bayes_fm","ads_bayes_fm","ads_tpm","mixed","mixed_tpm","cpm","ads_only"]',
    ),
    "no tpm, dot": (_RELOAD, "model.history=none", "model.interaction=dot", "schedule.gate=false"),
    "mean, no cross": (
        _RELOAD,
        "model.history=mean",
        "model.interaction=none",
        "schedule.reset_batch_norm=false",
    ),
    "latest, once": (
        _RELOAD,
        "model.history=latest",
        "schedule.releases=once",
        "schedule.fine_tune=false",
    ),
    "live tpm": ("tpm.live=true",),
}
"""Differences from ``SETTINGS``. "live tpm" runs in the engine that stores its state on disk, the others in memory."""


def train(folder: Path) -> str:
    """Write the months of the log's history as snapshots of a state folder; returns a hash of all their vectors."""
    silent = Console(file=io.StringIO())
    train_tpm(silent, silent, load_settings(None, _texts(folder), environ={}), LOG, partial=True)
    store = RocksEmbeddingStore(factory.Folders(folder).snapshots)
    text = json.dumps([[month, store.manifest(month).checksum] for month in store.months()])
    store.close()
    return _hash([text.encode()])


def replay(name: str, folder: Path, aside: Path) -> dict[str, Any]:
    """Replay the log with a variant's settings and return its digest.

    Parameters
    ----------
    name
        Key of ``VARIANTS``.
    folder
        The state folder with the snapshots.
    aside
        An empty folder, for an engine that stores its state on disk.

    Returns
    -------
    dict
        ``structure`` holds what does not depend on the processor: the plan of steps, names and shapes of all tensors. ``bits`` holds the
        rest: hashes of the state and of all scores, and figures in full precision.
    """
    loaded = load_settings(None, (*_texts(folder), *VARIANTS[name]), environ={})
    source, settings = open_with_features(LOG, loaded)
    if settings.tpm.live:
        engine = factory.replay_engine(settings, aside, checkpoint_every_s=1e9)
    else:
        engine = factory.memory_engine(settings)
    engine.bind_thread()
    plan = []
    sizes = {"natural_batch": settings.model.natural_batch, "ad_batch": settings.model.ad_batch}
    for step in steps_of(SourceLog(source, factory.decoder(settings)).batches(), **sizes):
        engine.run(step)
        plan.append([step.kind, len(step.batch), step.clock, engine.step, list(engine.trainer.cpm_months)])
    state_hash = engine.trainer.state_hash()
    capture = engine.trainer.capture()
    found = {
        "structure": _structure(engine, plan) | {"tensors": _names(capture)},
        "bits": {"state_hash": state_hash} | _bits(engine) | {"capture": _hash(_contents(capture))},
    }
    engine.close(checkpoint=False)
    return found


def _texts(folder: Path) -> tuple[str, ...]:
    return (f"state.folder={json.dumps(str(folder))}", *SETTINGS)


def _structure(engine: Engine, plan: list[Any]) -> dict[str, Any]:
    rows = engine.scores.read()
    learned = engine.progress.rows
    return {
        "fingerprint": engine.fingerprint,
        "rows": dict(learned),
        "steps": engine.step + 1,
        "plan": _hash([json.dumps(plan).encode()]),
        "months": list(engine.trainer.cpm_months),
        "scored": {name: int(np.isfinite(rows[name]).sum()) for name in rows if name.startswith("p_")},
        "columns": {name: values.dtype.str for name, values in rows.items()},
        "arms": list(engine.scores.arms),
        "rows_scored": _hash(rows[name].tobytes() for name in ("ts", "user", "item", "domain", "label")),
    }


def _bits(engine: Engine) -> dict[str, Any]:
    rows = engine.scores.read()
    ads = rows["domain"] == AD
    figures = {}
    stack = engine.trainer.arms.get("stack")
    for arm in engine.scores.arms:
        p = rows[f"p_{arm}"]
        known = ads & np.isfinite(p)
        if known.any():
            figures[arm] = repr(float(gauc(rows["label"][known], p[known], rows["user"][known]).value))
    return {
        "released": list(engine.progress.released),
        "refused": list(engine.progress.refused),
        "stack": ["0.0"] if stack is None else [repr(float(w)) for w in stack.stack.weights],
        "scores": {name: _hash([values.tobytes()]) for name, values in rows.items()},
        "gauc": figures,
    }


def _names(capture: Capture) -> str:
    """Names, types and shapes of everything that a checkpoint would hold, and the keys of its description."""
    dense = [[name, v.dtype.str, list(v.shape)] for name, v in sorted(capture.dense.items())]
    rows = [[name, len(i), v.dtype.str, v.shape[1]] for name, (i, v) in sorted(capture.rows.items())]
    meta = {key: sorted(value) for key, value in sorted(capture.meta.items()) if isinstance(value, dict)}
    return _hash([json.dumps([dense, rows, meta]).encode()])


def _contents(capture: Capture) -> Iterable[bytes]:
    for _, value in sorted(capture.dense.items()):
        yield value.tobytes()
    for _, (index, values) in sorted(capture.rows.items()):
        order = np.argsort(index, kind="stable")
        yield index[order].tobytes()
        yield values[order].tobytes()


def _hash(parts: Iterable[bytes]) -> str:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def record() -> None:
    """Record the digests of all variants with the present version."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        found: dict[str, Any] = {"machine": this_machine(), "snapshots": train(folder / "state")}
        found["variants"] = {
            name: replay(name, folder / "state", folder / f"aside-{number}")
            for number, name in enumerate(VARIANTS)
        }
    RECORDED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
