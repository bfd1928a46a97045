"""Encoding of a journal entry as a line of text: a checksum and compact JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import crc32c as _crc32c

from ecdctr.state.errors import StateError
from ecdctr.state.journals.protocol import EntryKind, JournalEntry
from ecdctr.state.positions import Part

__all__ = ["decode_line", "encode_line"]

_encode = json.JSONEncoder(separators=(",", ":")).encode


def encode_line(entry: JournalEntry) -> bytes:
    """CRC-32C in hex, a space, compact JSON, a newline.

    >>> encode_line(JournalEntry(7, EntryKind.AD, (Part("ad-clicks", 0, 3, 5),), 1000))
    b'86a015d5 {"step":7,"kind":"ad","parts":[["ad-clicks",0,3,5]],"clock":1000}\\n'
    """
    content: dict[str, Any] = {
        "step": entry.step,
        "kind": entry.kind,
        "parts": entry.parts,
        "clock": entry.clock,
    }
    if entry.extra:
        content["extra"] = entry.extra
    if entry.rows is not None:
        content["rows"] = entry.rows
    body = _encode(content).encode()
    return b"%08x %b\n" % (_crc32c.crc32c(body), body)


def decode_line(line: bytes) -> JournalEntry:
    """Inverse of :func:`encode_line`.

    Raises
    ------
    ValueError
        The line is damaged; the message describes the damage.
    StateError
        The line is intact, but its kind is not one of :class:`EntryKind`: a later version wrote it.

    >>> decode_line(b'86a015d5 {"step":7,"kind":"ad","parts":[["ad-clicks",0,3,5]],"clock":1000}\\n').parts
    (Part(topic='ad-clicks', partition=0, first=3, end=5),)
    """
    if not line.endswith(b"\n"):
        raise ValueError("no end of line")
    body = line[9:-1]
    found = b"%08x " % _crc32c.crc32c(body)
    if found != line[:9]:
        raise ValueError(f"the line has checksum {found[:8].decode()}, but records {line[:8]!r}")
    content = json.loads(body)
    return JournalEntry(
        step=content["step"],
        kind=_kind(content),
        parts=tuple(Part(*part) for part in content["parts"]),
        clock=content["clock"],
        extra=content.get("extra", {}),
        rows=content.get("rows"),
    )


def _kind(content: Mapping[str, Any]) -> EntryKind:
    try:
        return EntryKind(content["kind"])
    except ValueError:
        # Not a ValueError: the reader would treat the last line of the journal as damaged and remove it.
        raise StateError(
            f"journal step {content['step']} has the kind {content['kind']!r}, which this version does not support: "
            "continue with the version of ecdctr that wrote the journal"
        ) from None
