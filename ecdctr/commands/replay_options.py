"""``ReplayOptions``: the options of ``ecdctr replay``."""

from __future__ import annotations

from dataclasses import dataclass, field

from ecdctr.commands.requested_arms import RequestedArms
from ecdctr.state.errors import ConfigError

__all__ = ["ReplayOptions"]


@dataclass(frozen=True)
class ReplayOptions:
    """Which rows are replayed by which arms, and what is written.

    Attributes
    ----------
    since, until
        Dates (UTC): ``since <= ts < until``.
    last
        A length of time, as "7d", that ends with the newest event.
    sample_users
        Share of users whose rows are replayed.
    resume
        Resume the interrupted replay in the report folder.
    csv
        Write the figures as CSV, too.
    quiet
        Print nothing.
    checkpoint_every_s
        Wall seconds between checkpoints.
    arms
        The arms that are trained side by side.
    keep
        Save the final models as a checkpoint in ``out_dir/state/checkpoints``, for ``--frozen``.
    slices
        Features by which the figures are sliced, beside the slices that every report has.
    base
        The arm with which the others are compared; None: the ads-only control.
    """

    since: str | None = None
    until: str | None = None
    last: str | None = None
    sample_users: float = 1.0
    resume: bool = False
    csv: bool = False
    quiet: bool = False
    checkpoint_every_s: float = 60.0
    arms: RequestedArms = field(default_factory=RequestedArms)
    keep: bool = False
    slices: tuple[str, ...] = ()
    base: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sample_users <= 1:
            raise ConfigError(f"--sample-users {self.sample_users}: a share above 0 and up to 1 is needed")
        if self.last is not None and (self.since is not None or self.until is not None):
            raise ConfigError("--last and --from or --until both select a range of time: choose one")
