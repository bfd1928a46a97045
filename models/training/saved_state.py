"""The state of a trainer as it is stored in checkpoints, and its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ecdctr.models.arms import Arm, ArmState, ItemCtr, NetworkArm, PriorShift, StackArm
from ecdctr.models.streaming_features import StreamingFeatures
from ecdctr.state.checkpoints import Rows

__all__ = ["arms_meta", "capture_arms", "mark_unreleased", "state_hash"]

_ALWAYS_SAVED: tuple[Arm, ...] = (PriorShift(), StackArm((), ridge=1.0, every="1d", fade=1.0))
"""Checkpoints and hashes contain the JSON of these arms, in their initial state if they do not run."""

_COUNTERS = ("clock", "releases", "cpm_months", "actr_months", "schedule", "shift", "stack")


def capture_arms(arms: Mapping[str, Arm]) -> ArmState:
    """The state of all arms, with the rows that changed since the previous capture."""
    state = ArmState()
    for arm in arms.values():
        state.update(arm.capture())
    return ArmState(state.dense, state.rows, _initial_meta() | state.meta)


def arms_meta(arms: Mapping[str, Arm]) -> dict[str, Any]:
    """The JSON that :func:`capture_arms` returns; the changed rows stay marked."""
    meta = _initial_meta()
    for arm in arms.values():
        if isinstance(arm, PriorShift | StackArm):
            meta.update(arm.capture().meta)
    return meta


def _initial_meta() -> dict[str, Any]:
    return {key: value for arm in _ALWAYS_SAVED for key, value in arm.capture().meta.items()}


def mark_unreleased(cpm: NetworkArm, actr: NetworkArm, rows: Rows, device: torch.device) -> None:
    """Mark the rows that the next release must copy: those in which A-CTR differs from CPM or has a changed accumulator.

    Parameters
    ----------
    cpm, actr
        Both restored.
    rows
        All rows of a checkpoint, that is all that have ever changed.
    device
        Device of the tables.
    """
    names = zip(cpm.table_names(), actr.table_names(), strict=True)
    for pair, cpm_table, actr_table in zip(names, cpm.tables, actr.tables, strict=True):
        parts = [rows[name][0] for name in pair if name in rows]
        if not parts:
            continue
        index = np.unique(np.concatenate(parts))
        at = torch.from_numpy(index).to(device)
        differs = (cpm_table.gather(at) != actr_table.gather(at)).any(1)
        differs |= actr_table.accumulator.index_select(0, at) != actr_table.initial_accumulator
        cpm_table.unreleased.mark(index[differs.cpu().numpy()])


def state_hash(
    arms: Mapping[str, Arm],
    tpm: Iterable[tuple[str, NDArray[Any]]],
    counters: Mapping[str, Any],
    streaming: StreamingFeatures | None = None,
) -> str:
    """Hash of every parameter, optimiser state and buffer of all arms and of TPM, of the counters and the streaming features.

    Expensive: all embedding tables are read. Arms of the first version are hashed in the form of that version, so that hashes can
    be compared between versions.

    Parameters
    ----------
    arms
        By any name.
    tpm
        TPM's tensors by name, in a fixed order.
    counters
        Contains the keys of ``_COUNTERS``.
    streaming
        The streaming features, if there are any.
    """
    digest = hashlib.blake2b(digest_size=16)
    networks = [arm for arm in arms.values() if isinstance(arm, NetworkArm)]
    for arm in sorted(networks, key=lambda arm: arm.name):
        arm.digest(digest)
    for name, value in tpm:
        digest.update(f"tpm {name}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    digest.update(repr([counters[key] for key in _COUNTERS]).encode())
    item_ctr = arms.get("item_ctr") or ItemCtr()
    item_ctr.digest(digest)
    hashed = {arm.name for arm in (*networks, *_ALWAYS_SAVED, item_ctr)}
    for other in arms.values():
        if other.name not in hashed:
            other.digest(digest)
    if streaming is not None:
        streaming.digest(digest)
    return digest.hexdigest()
