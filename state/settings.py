"""``Section``, the base of all configuration sections, and the settings of the state folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Section", "StateSettings"]


class Section(BaseModel):
    """Base of all configuration sections: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class StateSettings(Section):
    """The state folder: ``checkpoints/``, ``journal/``, ``snapshots/``, ``tpm/``, ``ad-window/``, ``scores/``, ``monitor/``."""

    folder: Path = Field(
        default=Path("state-dir"),
        description="Folder of checkpoints, journal, TPM snapshots, ad window, scores and the monitor's state. One trainer uses it "
        "at a time and locks it.",
    )
    checkpoint_every_s: float = Field(
        default=30.0,
        gt=0,
        description="A checkpoint is written after this many seconds, or after state.checkpoint_every_steps.",
    )
    checkpoint_every_steps: int = Field(
        default=2_000,
        ge=1,
        description="A checkpoint is written after this many steps, or after state.checkpoint_every_s.",
    )
    keep_checkpoints: int = Field(
        default=3, ge=1, description="Number of newest intact checkpoints that are retained."
    )
    journal_keep_days: float = Field(
        default=30.0,
        gt=0,
        description="Journal entries older than the oldest checkpoint are retained for this many event days, for `ecdctr replay "
        "--journal`.",
    )
    fsync_journal: bool = Field(
        default=False,
        description="fsync each journal line: the journal then also survives power loss, at a cost of about 1 ms per step. It survives "
        "kill -9 in any case.",
    )
    score_days: int = Field(
        default=30, ge=1, description="Event days of scored rows retained for windows and reports."
    )
    cache_rows: int = Field(
        default=1 << 18,
        ge=1024,
        description="TPM vectors cached in memory, separately for users and for items of each open snapshot.",
    )
