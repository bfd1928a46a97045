"""``Step``: the rows that are learned together, and the event time at which they are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ecdctr.events.batch import AD, DOMAIN_NAMES, Batch
from ecdctr.state.positions import Part

__all__ = ["Step", "StepKind"]


class StepKind(StrEnum):
    """Domain of a step's rows. The value is its name in the journal, in metrics and in reports.

    Examples
    --------
    >>> StepKind.from_domain(1), StepKind.AD.domain, f"{StepKind.AD}"
    (<StepKind.AD: 'ad'>, 1, 'ad')
    """

    NATURAL = "natural"
    AD = "ad"

    @classmethod
    def from_domain(cls, domain: int) -> StepKind:
        """The kind of a value of the column ``domain``: 0 natural, 1 ad."""
        return cls(DOMAIN_NAMES[domain])

    @property
    def domain(self) -> int:
        """The value that the column ``domain`` has in all rows of such a step."""
        return DOMAIN_NAMES.index(self)


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of one domain that are learned together, in canonical order (topic, partition, offset).

    Attributes
    ----------
    kind
        Domain of the rows. A step without rows (its offsets held dead letters only) has one, too.
    batch
        The rows.
    clock
        Event time of the step, milliseconds since the epoch.

    Raises
    ------
    ValueError
        The batch contains rows of another domain.
    """

    kind: StepKind
    batch: Batch
    clock: int

    def __post_init__(self) -> None:
        if (self.batch.domain != self.kind.domain).any():
            raise ValueError(
                f"a step takes rows of one domain, this one {self.kind} rows; split the batch by its column domain"
            )

    @classmethod
    def from_batch(cls, batch: Batch, clock: int | None = None) -> Step:
        """A step of the batch's own domain, at its latest event time unless ``clock`` names another one.

        An empty batch makes an ad step at event time 0.

        Examples
        --------
        >>> import numpy as np
        >>> ids = np.array([7, 8], np.uint64)
        >>> batch = Batch(np.array([10, 20]), np.zeros(2, np.uint8), ids, ids, np.zeros((2, 1), np.int32),
        ...               np.zeros((2, 0), np.float32), np.zeros(2, np.float32))
        >>> step = Step.from_batch(batch)
        >>> step.kind, step.clock
        (<StepKind.NATURAL: 'natural'>, 20)
        """
        domain = int(batch.domain[0]) if len(batch) else AD
        if clock is None:
            clock = int(batch.ts.max()) if len(batch) else 0
        return cls(StepKind.from_domain(domain), batch, clock)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Offset ranges that the step covers."""
        return self.batch.parts
