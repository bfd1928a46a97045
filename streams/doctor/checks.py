"""``Check``: one finding with its status and the way out; ``Report``: all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecdctr.streams.doctor.fields import Sampled

__all__ = ["Check", "Report", "Status", "failed", "ok", "skipped", "warning"]


class Status(StrEnum):
    """Result of a check; the values are those of ``--json``."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "not checked"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes
    ----------
    name
        What was checked: ``Read on topic "ad-clicks"``.
    status
        ``FAILED``: a worker would not run. ``WARNING``: it would, and something is lost or missing.
    found
        What was found, one sentence.
    way_out
        What to do about it; empty if nothing is to be done.
    """

    name: str
    status: Status
    found: str
    way_out: str = ""


def ok(name: str, found: str) -> Check:
    """A check that found nothing wrong."""
    return Check(name, Status.OK, found)


def warning(name: str, found: str, way_out: str = "") -> Check:
    """A check that found something that a worker survives."""
    return Check(name, Status.WARNING, found, way_out)


def failed(name: str, found: str, way_out: str = "") -> Check:
    """A check that found why a worker would not run."""
    return Check(name, Status.FAILED, found, way_out)


def skipped(name: str, found: str, way_out: str = "") -> Check:
    """A check that could not be made; ``found`` says why."""
    return Check(name, Status.SKIPPED, found, way_out)


@dataclass
class Report:
    """All checks in their order, and what was found in the messages of each topic."""

    checks: list[Check] = field(default_factory=list)
    samples: dict[str, Sampled] = field(default_factory=dict)

    @property
    def would_run(self) -> bool:
        """Whether a worker would run: no check has failed."""
        return all(check.status is not Status.FAILED for check in self.checks)

    def add(self, checks: Iterable[Check]) -> None:
        """Append checks."""
        self.checks.extend(checks)

    def as_json(self) -> Mapping[str, Any]:
        """Plain data: ``would_run``, ``checks`` and ``topics``."""
        return {
            "would_run": self.would_run,
            "checks": [asdict(check) for check in self.checks],
            "topics": {topic: asdict(sample) for topic, sample in self.samples.items()},
        }
