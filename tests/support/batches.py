"""Raw record batches of Kafka's protocol."""

from __future__ import annotations

import struct


def batch(first: int, end: int, epoch: int, magic: int = 2) -> bytes:
    """A batch with the offsets ``first <= o < end``: its header field by field (KIP-98), and a body of zeros."""
    body = struct.pack(">i", epoch) + struct.pack(">b", magic) + bytes(4) + bytes(2)
    body += struct.pack(">i", end - first - 1) + bytes(30)
    return struct.pack(">q", first) + struct.pack(">i", len(body)) + body
