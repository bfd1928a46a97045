"""``Section``, the base of all configuration sections, and the settings of the state folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Section", "StateSettings"]


class Section(BaseModel):
    """Base of all configuration sections: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class StateSettings(Section):
    """One folder holds everything: ``checkpoints/``, ``journal/``, ``snapshots/``, ``ad-window/``, ``scores/``."""

    folder: Path = Field(default=Path("state-dir"), description="One trainer owns it; locked while it runs.")
    checkpoint_every_s: float = Field(default=30.0, gt=0, description="Wall seconds between checkpoints.")
    checkpoint_every_steps: int = Field(
        default=2_000, ge=1, description="... or steps, whichever comes first."
    )
    keep_checkpoints: int = Field(
        default=3, ge=1, description="Number of newest intact checkpoints that are retained."
    )
    journal_keep_days: float = Field(
        default=30.0,
        gt=0,
        description="Event days of the journal retained for audit before the oldest checkpoint.",
    )
    fsync_journal: bool = Field(
        default=False,
        description="fsync each journal line: survives power loss, costs ~1 ms a step. kill -9 is survived without.",
    )
    score_days: int = Field(
        default=30, ge=1, description="Event days of scored rows retained for windows and reports."
    )
    cache_rows: int = Field(
        default=1 << 18, ge=1024, description="TPM rows cached in memory, per kind and snapshot set."
    )
