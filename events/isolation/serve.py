"""Main program of a decoding process: ``python -m ecdctr.events.isolation.serve``."""

from __future__ import annotations

import contextlib
import resource
import signal
import sys

from ecdctr.events.isolation.wire import (
    READY,
    decoder_of,
    pack_answer,
    receive,
    request_of,
    send,
)
from ecdctr.events.records import decode_values

__all__ = ["serve"]

MEMORY = 8 << 30
"""Bytes of memory of a process. A message that needs more ends the process, not the machine."""


def serve() -> None:
    """Answer requests until the parent closes the pipe."""
    # A signal to the process group is handled by the worker, which ends this process when it no longer needs it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    try:
        decoder = decoder_of(receive(stdin))
        send(stdout, READY)
        while True:
            request = request_of(receive(stdin))
            packed = [bool(flag) for flag in request.packed]
            decoder.text_notes = tuple(request.text_notes)
            send(stdout, pack_answer(decode_values(decoder, request.values, packed, request.domain)))
    except (EOFError, BrokenPipeError):
        return


if __name__ == "__main__":
    serve()
