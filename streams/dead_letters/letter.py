"""``DeadLetter``: a rejected message, as it is written to ``<topic>.dlq``.

Value and key of a dead letter are the original bytes; its headers are the original ones and these:

=========================  ==================================================================
``ecdctr-reason``          one word, a key of ``ecdctr.events.decoder.REASONS``
``ecdctr-detail``          field and explanation, for people
``ecdctr-topic``           origin of the message
``ecdctr-partition``
``ecdctr-offset``
``ecdctr-crc32``           checksum of the original value
``ecdctr-rows``            rejected rows of a packed message, as ``3,17``; absent if all rows are
``ecdctr-events``          number of rejected events; absent if it is 1
``ecdctr-changed``         what differs from the original message; absent if nothing does
``ecdctr-dropped-bytes``   number of bytes of the original value that are missing; absent if none is
=========================  ==================================================================

The original message can be read at its origin for as long as its topic retains it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any
from zlib import crc32

from ecdctr.events.records import RecordReject

__all__ = ["ROLLED_BACK", "DeadLetter", "Form", "Identity", "Message", "identity_of", "letters_of"]

ROLLED_BACK = "loss"
"""Reason of letters for rows that could not be learned; they are sent in no order of offsets."""
_ROWS_NAMED = 200
_NAMES_SHOWN, _NAME_SHOWN = 5, 40  # names of headers, and letters of each
_PREFIX = "ecdctr-"
_DIGITS = 19
"""Decimal digits of the largest offset, 2**63 - 1."""

Identity = tuple[str, int, int, str, int]
"""Topic, partition, offset, reason, checksum: a letter has the same identity after a restart."""

Headers = list[tuple[str, bytes]]


class Form(IntEnum):
    """How much of the original message a letter holds; a topic that refuses a letter's size gets the next form."""

    WHOLE = 0
    SHORT = 1
    BARE = 2
    LEAST = 3


@dataclass(frozen=True, slots=True)
class _Limits:
    """Bytes that are retained of each part of a letter."""

    value: int
    key: int
    headers: int
    detail: int


_LIMITS = {
    Form.WHOLE: _Limits(1 << 62, 1 << 62, 1 << 62, 4_096),
    Form.SHORT: _Limits(16_384, 4_096, 8_192, 1_024),
    Form.BARE: _Limits(0, 256, 0, 128),
    Form.LEAST: _Limits(0, 0, 0, 0),
}


@dataclass(frozen=True, slots=True)
class Message:
    """Value, key and headers as the producer takes them: the value is never null, and no value of a header is."""

    value: bytes
    key: bytes | None
    headers: Headers

    @property
    def size(self) -> int:
        """Bytes of all parts; the batch around them adds about a hundred."""
        return len(self.value) + len(self.key or b"") + sum(len(n.encode()) + len(v) for n, v in self.headers)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message, or some rows of one packed message, with one reason.

    Attributes
    ----------
    value, key, headers
        Those of the original message, whatever they are: a value and the value of a header may be null.
    rows
        Rejected rows of a packed message; empty if the whole message is rejected. Of very many, only the first ones.
    count
        Number of rejected events.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    rows: tuple[int, ...] = ()
    count: int = 1

    @property
    def events(self) -> int:
        """Number of rejected events."""
        return max(self.count, len(self.rows))

    def identity(self) -> Identity:
        """See :data:`Identity`."""
        return (self.topic, self.partition, self.offset, self.reason, crc32(self.value or b""))

    def with_key(self) -> DeadLetter:
        """The letter with its origin as key, for a topic that takes no messages without keys because it is compacted."""
        return replace(self, key=f"{self.topic}/{self.partition}/{self.offset}".encode())

    def message(self, form: Form = Form.WHOLE) -> Message:
        """The letter as a message, with as much of the original as ``form`` allows.

        Examples
        --------
        >>> letter = DeadLetter("ads", 0, 7, "missing", "label is missing", None, headers=(("trace", None),))
        >>> letter.message().value, dict(letter.message().headers)["ecdctr-changed"]
        (b'', b'null in the original: value; null in the original: header trace')
        """
        limits = _LIMITS[form]
        changed: list[str] = []
        value, key = self.value or b"", self.key
        if self.value is None:
            changed.append("null in the original: value")
        if len(value) > limits.value:
            changed.append(f"value cut from {len(value)} to {limits.value} bytes")
        if key is not None and len(key) > limits.key:
            changed.append(f"key cut from {len(key)} to {limits.key} bytes")
            key = key[: limits.key]
        headers = self._original_headers(limits.headers, changed)
        headers += self._own_headers(form, limits.detail)
        if changed and form is not Form.LEAST:
            headers.append((_PREFIX + "changed", "; ".join(changed).encode()))
        dropped = len(value) - limits.value
        if dropped > 0:
            headers.append((_PREFIX + "dropped-bytes", str(dropped).encode()))
        return Message(value[: limits.value], key, headers)

    def _original_headers(self, limit: int, changed: list[str]) -> Headers:
        """The first headers of the original message that together have ``limit`` bytes; what is left out is added to ``changed``."""
        out: Headers = []
        nulls: list[str] = []
        size = left_out = 0
        for name, content in self.headers:
            readable = name.encode("utf-8", "backslashreplace").decode()
            size += len(readable.encode()) + len(content or b"")
            # Those of an earlier letter would be mistaken for this letter's own.
            if size > limit or readable.startswith(_PREFIX):
                left_out += 1
                continue
            if content is None:
                nulls.append(readable)
            out.append((readable, content or b""))
        if nulls:
            changed.append(f"null in the original: header {_list(nulls)}")
        if left_out:
            changed.append(f"headers left out: {left_out}")
        return out

    def _own_headers(self, form: Form, detail: int) -> Headers:
        own = {
            "reason": self.reason,
            "topic": self.topic,
            "partition": str(self.partition),
            "offset": str(self.offset),
            "crc32": str(self.identity()[-1]),
        }
        if self.events > 1:
            own["events"] = str(self.events)
        if form is not Form.LEAST:
            own["detail"] = _cut(self.detail, detail)
            named = _ROWS_NAMED if form < Form.BARE else 10
            if self.rows:
                own["rows"] = ",".join(map(str, self.rows[:named])) + ",..." * (self.events > named)
        return [(_PREFIX + name, text.encode()) for name, text in own.items()]


def letters_of(topic: str, partition: int, rejects: Iterable[RecordReject]) -> list[DeadLetter]:
    """One letter per message and reason: rejected rows of a packed message with the same reason share a letter."""
    found: dict[tuple[int, str], tuple[RecordReject, list[int]]] = {}
    counts: Counter[tuple[int, str]] = Counter()
    for reject in rejects:
        key = (reject.record.offset, reject.reason)
        _, rows = found.setdefault(key, (reject, []))
        counts[key] += reject.rows
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
            counts[offset, reason],
        )
        for (offset, reason), (reject, rows) in found.items()
    ]


def identity_of(record: Any) -> Identity | None:
    """Identity of a letter that was read from a dead-letter topic; None for a record of another program."""
    headers: dict[str, bytes] = {name: value for name, value in record.headers or () if value is not None}
    texts = [
        headers.get(_PREFIX + name, b"").decode(errors="replace")
        for name in ("topic", "partition", "offset", "reason", "crc32")
    ]
    topic, partition, offset, reason, crc = texts
    # isdecimal() alone accepts the digits of other scripts.
    if not all(t.isascii() and t.isdecimal() and len(t) <= _DIGITS for t in (partition, offset, crc)):
        return None
    return topic, int(partition), int(offset), reason, int(crc)


def _cut(text: str, limit: int) -> str:
    """At most ``limit`` bytes of UTF-8; surrogates are written as escapes."""
    data = text.encode("utf-8", "backslashreplace")
    return text if len(data) <= limit and text.isprintable() else data[:limit].decode("utf-8", "ignore")


def _list(names: list[str]) -> str:
    """The first names, each of a bounded length."""
    texts = [
        name if len(name) <= _NAME_SHOWN else name[:_NAME_SHOWN] + "..." for name in names[:_NAMES_SHOWN]
    ]
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(text or "(empty name)" for text in texts) + more
