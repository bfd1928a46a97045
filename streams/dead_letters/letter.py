"""``DeadLetter``: a rejected message, as it is written to ``<topic>.dlq``.

Value and key of a dead letter are the original bytes; its headers are the original ones and these:

====================  ==================================================================
``ecdctr-reason``     one word, a key of ``ecdctr.events.decoder.REASONS``
``ecdctr-detail``     field and explanation, for people
``ecdctr-topic``      origin of the message
``ecdctr-partition``
``ecdctr-offset``
``ecdctr-crc32``      checksum of the original value
``ecdctr-rows``       rejected rows of a packed message, as ``3,17``; absent if all rows are
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
"""Topic, partition, offset, reason, checksum: a letter has the same identity after a restart."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message, or some rows of one packed message, with one reason.

    Attributes
    ----------
    rows
        Rejected rows of a packed message; empty if the whole message is rejected.
    crc
        CRC-32 of the original value if ``value`` was removed.
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
        """CRC-32 of the original value, even if the value was removed."""
        return crc32(self.value or b"") if self.crc is None else self.crc

    @property
    def events(self) -> int:
        """Number of rejected events."""
        return max(1, len(self.rows))

    def identity(self) -> Identity:
        """See :data:`Identity`."""
        return (self.topic, self.partition, self.offset, self.reason, self.checksum)

    def without_value(self) -> DeadLetter:
        """The letter without its value, for a broker that accepts no message of this size; the value can be read at its origin."""
        if self.value is None:
            return self
        dropped = (_PREFIX + "dropped-bytes", str(len(self.value)).encode())
        return replace(self, value=None, key=None, crc=self.checksum, headers=(*self.headers, dropped))

    def all_headers(self) -> list[tuple[str, bytes]]:
        """The original headers, and those of reason and origin."""
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
    """One letter per message and reason: rejected rows of a packed message with the same reason share a letter."""
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
    """Identity of a letter that was read from a dead-letter topic; for any other record, an identity that no letter has."""
    headers: dict[str, bytes] = {name: value for name, value in record.headers or () if value is not None}

    def text(name: str) -> str:
        return headers.get(_PREFIX + name, b"").decode(errors="replace")

    def number(name: str) -> int:
        found = text(name)
        return int(found) if found.isdecimal() else -1

    return text("topic"), number("partition"), number("offset"), text("reason"), number("crc32")
