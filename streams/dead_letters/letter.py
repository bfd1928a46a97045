"""``DeadLetter``: a message that does not fit, as it stands in ``<topic>.dlq``.

A dead letter's value and key are the original bytes; its headers are the original ones and these:

====================  ==================================================================
``ecdctr-reason``     one word, a key of ``models.events.REASONS``
``ecdctr-detail``     which field and why, for people
``ecdctr-topic``      where it came from
``ecdctr-partition``
``ecdctr-offset``
``ecdctr-crc32``      checksum of the original value
``ecdctr-rows``       rows of a packed message that are meant, as ``3,17``; absent: all of it
====================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

from ecdctr.events.records import RecordReject

__all__ = ["DeadLetter", "Identity", "identity_of", "letters_of"]

_ROWS_NAMED = 200
_PREFIX = "ecdctr-"

Identity = tuple[str, int, int, str, int]
"""Topic, partition, offset, reason, checksum: the same for the same letter after a restart."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message, or some rows of one packed message, with one reason.

    Attributes
    ----------
    rows
        Rows of a packed message that are meant; empty: the whole message.
    crc
        CRC-32 of the original value where ``value`` is not it.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    rows: tuple[int, ...] = ()
    crc: int | None = None

    @property
    def checksum(self) -> int:
        """CRC-32 of the original value, also when that was left out."""
        return crc32(self.value or b"") if self.crc is None else self.crc

    @property
    def events(self) -> int:
        """How many events it stands for."""
        return max(1, len(self.rows))

    def identity(self) -> Identity:
        """The same for the same letter after a restart."""
        return (self.topic, self.partition, self.offset, self.reason, self.checksum)

    def without_value(self) -> DeadLetter:
        """For a broker that takes no message so large; what is left out can be read at its origin."""
        if self.value is None:
            return self
        dropped = (_PREFIX + "dropped-bytes", str(len(self.value)).encode())
        return replace(self, value=None, key=None, crc=self.checksum, headers=(*self.headers, dropped))

    def all_headers(self) -> list[tuple[str, bytes]]:
        """The original headers and those that say why and from where."""
        own = {
            "reason": self.reason,
            "detail": self.detail,
            "topic": self.topic,
            "partition": str(self.partition),
            "offset": str(self.offset),
            "crc32": str(self.checksum),
        }
        if self.rows:
            more = ",..." if len(self.rows) > _ROWS_NAMED else ""
            own["rows"] = ",".join(map(str, self.rows[:_ROWS_NAMED])) + more
        return [*self.headers, *((_PREFIX + name, text.encode()) for name, text in own.items())]


def letters_of(topic: str, partition: int, rejects: Iterable[RecordReject]) -> list[DeadLetter]:
    """One letter a message and reason: rows of a packed message that share a reason share a letter."""
    found: dict[tuple[int, str], tuple[RecordReject, list[int]]] = {}
    for reject in rejects:
        _, rows = found.setdefault((reject.record.offset, reject.reason), (reject, []))
        if reject.row is not None and reject.row >= 0:
            rows.append(reject.row)
    return [
        DeadLetter(
            topic,
            partition,
            offset,
            reason,
            reject.detail,
            reject.record.value,
            reject.record.key,
            tuple((name, value) for name, value in reject.record.headers or ()),
            tuple(rows),
        )
        for (offset, reason), (reject, rows) in found.items()
    ]


def identity_of(record: Any) -> Identity:
    """Identity of a letter read back from a dead-letter topic; of a foreign record, one that no letter has."""
    headers: dict[str, bytes] = {name: value for name, value in record.headers or () if value is not None}

    def text(name: str) -> str:
        return headers.get(_PREFIX + name, b"").decode(errors="replace")

    def number(name: str) -> int:
        found = text(name)
        return int(found) if found.isdecimal() else -1

    return text("topic"), number("partition"), number("offset"), text("reason"), number("crc32")
