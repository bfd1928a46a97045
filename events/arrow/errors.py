"""``PackedError``: a packed message that is not read."""

from __future__ import annotations

__all__ = ["PackedError"]


class PackedError(ValueError):
    """The bytes are not a complete, uncompressed Arrow IPC stream within the limits.

    Attributes
    ----------
    rows
        Number of rows that the message claims before the place where it cannot be read; at least 1.
    """

    def __init__(self, message: str, rows: int = 1) -> None:
        super().__init__(message)
        self.rows = max(1, rows)
