"""Packed events: many rows as one Arrow IPC stream, checked against limits before a reader sees it."""

from ecdctr.events.arrow.errors import PackedError
from ecdctr.events.arrow.messages import Unpacked, pack, unpack, unpack_many
from ecdctr.events.arrow.stream import CONTINUATION, claimed_rows

__all__ = ["CONTINUATION", "PackedError", "Unpacked", "claimed_rows", "pack", "unpack", "unpack_many"]
