"""``guard_packed``: the packed messages of a decoder are read by a process of their own."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from ecdctr.events.decoder import Decoded, EventDecoder
from ecdctr.events.isolation.process import DecodingProcess

__all__ = ["guard_packed"]


def guard_packed(decoder: EventDecoder) -> EventDecoder:
    """Let a process of its own read the packed messages of a decoder; the result is the decoder.

    JSON is decoded by the caller itself, because its parser has limits of its own. The reader of Arrow messages is native code
    with many types: what it reads is bounded first (:mod:`ecdctr.events.arrow`), and if it ends its process all the same, the message is
    a reject. The process is started when the first packed message arrives, and ends with the decoder.
    """
    reader = decoder.packed_reader = _Reader(DecodingProcess(decoder))
    weakref.finalize(decoder, reader.close)
    return decoder


class _Reader:
    """A :class:`ecdctr.events.decoder.PackedReader`."""

    def __init__(self, process: DecodingProcess) -> None:
        self._process = process

    def read(self, values: Sequence[bytes | None], domain: int, text_notes: Sequence[str]) -> Decoded:
        return self._process.decode(values, [True] * len(values), domain, text_notes)

    def close(self) -> None:
        self._process.close()
