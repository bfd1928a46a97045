"""``Decoded``: rows and rejected events, the result of every decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch

__all__ = ["ARROW_CONTENT_TYPE", "CONTENT_TYPE_HEADER", "REASONS", "Decoded", "PackedReader", "Reject"]

CONTENT_TYPE_HEADER = "content-type"
ARROW_CONTENT_TYPE = b"application/vnd.apache.arrow.stream"
"""Content type of messages in Arrow IPC format (a registered media type); all other messages are decoded as JSON."""

REASONS = {
    "json": "not one JSON object in UTF-8",
    "arrow": "not an Arrow IPC stream",
    "missing": "a field is absent, or a required one is null",
    "type": "a field has the wrong type",
    "ts": "the event time is out of bounds",
    "label": "the label is neither 0 nor 1",
    "nan": "a number is not finite",
    "long": "a string is too long",
    "large": "a compressed batch of records is too large",
    "crash": "reading the message ended the decoding process",
    "loss": "the training loss of a step is not finite with this row",
}
"""Reasons for which an event becomes a dead letter, with their explanations."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A rejected event.

    Attributes
    ----------
    index
        Index of the message in the input; for :meth:`EventDecoder.from_arrow` and ``from_frame`` the row number.
    reason
        A key of ``REASONS``.
    detail
        The field and the cause, as text.
    row
        Row number within a packed message (:meth:`EventDecoder.from_packed` only); -1: not a packed message, or all of its rows.
    rows
        Number of rejected events. Of a packed message or a frame, rows beyond the first 200 with the same fault share one reject.
    """

    index: int
    reason: str
    detail: str
    row: int = -1
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Decoded:
    """Decoded rows and rejected events.

    Attributes
    ----------
    batch
        The accepted rows, in the order of the input.
    index
        Position of each row in the input, ascending, int64 ``(n,)``; rows of the same packed message have the same index.
    rejects
        The rejected events, ascending by position.
    """

    batch: Batch
    index: NDArray[np.int64]
    rejects: list[Reject] = field(default_factory=list)


class PackedReader(Protocol):
    """Decodes packed messages for an :class:`EventDecoder`."""

    def read(self, values: Sequence[bytes | None], domain: int, text_notes: Sequence[str]) -> Decoded:
        """Do what :meth:`EventDecoder.from_packed` does, with these ``text_notes``."""
        ...

    def close(self) -> None:
        """End, also a call of :meth:`read` in another thread, with an error."""
        ...
