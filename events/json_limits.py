"""``beyond_limits``: whether the text of one JSON event is larger or nested deeper than is read."""

from __future__ import annotations

import re

import numpy as np

__all__ = ["MAX_DEPTH", "MAX_JSON_BYTES", "beyond_limits"]

MAX_JSON_BYTES = 8 << 20
"""Bytes of an event; brokers take messages of 1 MiB by default."""

MAX_DEPTH = 64
"""Nesting of lists and objects. Without a limit of its own, how deep a parser can go depends on the depth of its caller, so that the same
event could be read in a file and rejected live."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)


def beyond_limits(text: bytes) -> str | None:
    """Why an event is not read; None if it is within the limits.

    >>> beyond_limits(b'{"a": "[[[["}'), beyond_limits(b"[" * 70)
    (None, 'is nested more than 64 levels deep')
    """
    if len(text) > MAX_JSON_BYTES:
        return f"has {len(text):,} bytes; at most {MAX_JSON_BYTES:,} are read"
    # Most events have fewer brackets than the limit: counting them is fast.
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return None
    letters = np.frombuffer(_STRING.sub(b"", text), np.uint8)
    opened = (letters == ord("[")) | (letters == ord("{"))
    closed = (letters == ord("]")) | (letters == ord("}"))
    depth = np.cumsum(opened.astype(np.int32) - closed)
    return f"is nested more than {MAX_DEPTH} levels deep" if depth.max(initial=0) > MAX_DEPTH else None
