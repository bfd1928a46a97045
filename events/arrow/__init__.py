"""Packed events: many rows as one Arrow IPC stream, checked against limits before a reader sees it."""

from ecdctr.events.arrow.errors import PackedError
from ecdctr.events.arrow.messages import Unpacked, pack, unpack, unpack_many
from ecdctr.events.arrow.stream import CONTINUATION

__all__ = ["CONTINUATION", "PackedError", "Unpacked", "pack", "unpack", "unpack_many"]
