"""Limits of one packed message. They bound what a reader does before it does anything."""

from __future__ import annotations

__all__ = [
    "MAX_BATCHES",
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_EXPANDED",
    "MAX_FIELDS",
    "MAX_PACKED_ROWS",
    "MAX_TEXT",
    "ROW_BYTES",
]

MAX_BYTES = 64 << 20
"""Bytes of a message."""

MAX_PACKED_ROWS = 1_000_000
"""Rows of a message."""

ROW_BYTES = 8
"""Least number of bytes per row: an event has five required fields, so that a message which claims more rows than it has bytes for
describes none of them."""

MAX_BATCHES = 1_000
"""Record batches and dictionaries of a message."""

MAX_FIELDS = 4_096
"""Columns of a schema, those within structs and lists included."""

MAX_DEPTH = 16
"""Nesting of types. Readers walk a schema recursively, and end the process when their stack is exhausted."""

MAX_TEXT = 1 << 20
"""Bytes of all names and metadata of a schema. In a flatbuffer, many fields can refer to the same text, which a reader copies."""

MAX_EXPANDED = 64 << 20
"""Bytes of the values of dictionary columns after each index has been replaced by its value, as a reader does."""
