"""``DecodingProcess``: the parent's side of one decoding process, which survives the death of that process."""

from __future__ import annotations

import hashlib
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np

from ecdctr.events.arrow import claimed_rows
from ecdctr.events.decoder import Decoded, EventDecoder, Reject
from ecdctr.events.encode import TEXT_NOTE
from ecdctr.events.isolation.wire import pack_request, pack_setup, receive, send, unpack_answer
from ecdctr.events.records import join
from ecdctr.state.errors import StreamError

__all__ = ["COMMAND", "TRIES", "DecodingProcess"]

log = logging.getLogger("ecdctr.decoding")

COMMAND = (sys.executable, "-P", "-m", "ecdctr.events.isolation.serve")

TRIES = 3
"""Number of processes that end while they decode one message alone, before it is refused."""

LIMIT_S = 60.0
"""A process that has not answered for so long is ended, as if it had died."""
START_S = 120.0
"""The same while it starts."""
_END_S = 2.0


class DecodingProcess:
    """Decodes messages in a child process; it handles one request at a time.

    1. The process is started with the first request, and replaced when it has ended. It ends with the process that started it.
    2. If it ends during a request, the request is repeated once: it may have been killed from outside.
    3. If it ends again, the messages are sent one by one. One over which :data:`TRIES` processes end is refused (``crash``); the
       others are decoded. A message that was refused is not tried again by this object.
    4. If a process ends before it can decode anything, the installation is at fault, and no message: that is an error.

    Parameters
    ----------
    decoder
        The process has a decoder of the same configuration.
    command
        Starts the process.
    """

    def __init__(self, decoder: EventDecoder, command: Sequence[str] = COMMAND) -> None:
        self._setup, self._command = pack_setup(decoder), command
        self._empty = decoder.from_json([], 0)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = self._closed = False
        self._refused: set[bytes] = set()

    def start(self) -> None:
        """Start the process now, without waiting for it."""
        one_thread = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | one_thread
        )
        self._is_ready = False

    @property
    def pid(self) -> int:
        """Process id; 0: it is not running."""
        return 0 if self._process is None else self._process.pid

    def decode(
        self,
        values: Sequence[bytes | None],
        packed: Sequence[bool],
        domain: int,
        text_notes: Sequence[str] = (),
    ) -> Decoded:
        """Decode as :func:`ecdctr.events.records.decode_values` does, to the last bit; a message that ends its reader is a reject.

        Raises
        ------
        StreamError
            No process can be started, or this object is closed.
        """
        with self._lock:
            if not self._refused:
                for _ in range(2):  # 2
                    decoded = self._ask(pack_request(values, packed, domain, text_notes))
                    if decoded is not None:
                        return decoded
            return join(
                [
                    (i, self._alone(value, form, domain, text_notes))
                    for i, (value, form) in enumerate(zip(values, packed, strict=True))
                ]
            )

    def _alone(
        self, value: bytes | None, packed: bool, domain: int, text_notes: Sequence[str]
    ) -> Decoded:  # 3
        digest = hashlib.sha256(value or b"").digest()
        if digest not in self._refused:
            for _ in range(TRIES):
                decoded = self._ask(pack_request([value], [packed], domain, text_notes))
                if decoded is not None:
                    return decoded
            log.error(
                "a message of %d bytes ended %d decoding processes: it is refused", len(value or b""), TRIES
            )
            self._refused.add(digest)
        notes = {TEXT_NOTE + name: np.empty(0, object) for name in text_notes} if text_notes else None
        rows = claimed_rows(value or b"") if packed else 1
        detail = f"reading the message ended {TRIES} decoding processes"
        none = self._empty.batch.with_notes(notes)
        return Decoded(none, self._empty.index, [Reject(0, "crash", detail, rows=rows)])

    def _ask(self, request: bytes) -> Decoded | None:
        """The answer of the process; None: it ended."""
        process = self._ready()
        try:
            send(process.stdin, request)
            self._wait(process, LIMIT_S)
            return unpack_answer(receive(process.stdout))
        except (EOFError, OSError):
            code = self._end()
            if self._closed:
                raise StreamError("decoding was stopped") from None
            log.warning("a decoding process ended with code %s: it is replaced", code)
            return None

    def _ready(self) -> subprocess.Popen[bytes]:  # 4
        """A process that can decode."""
        code: int | None = None
        for _ in range(TRIES):
            if self._closed:
                raise StreamError("decoding was stopped")
            if self._process is None:
                self.start()
            process = self._process
            assert process is not None
            if self._is_ready:
                return process
            try:
                send(process.stdin, self._setup)
                self._wait(process, START_S)
                receive(process.stdout)
                self._is_ready = True
                return process
            except (EOFError, OSError):
                code = self._end()
                log.warning("a decoding process ended with code %s at its start", code)
        raise StreamError(
            f"{TRIES} decoding processes ended at their start, the last with code {code}: see their output above"
        )

    def _wait(self, process: subprocess.Popen[bytes], limit_s: float) -> None:
        """Return when the process answers or ends; end it if it does neither in time."""
        assert process.stdout is not None
        deadline = time.monotonic() + limit_s
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN | select.POLLHUP)
        while not poll.poll(200):
            if self._closed or time.monotonic() > deadline:
                if not self._closed:
                    log.warning("a decoding process has not answered for %.0f s: it is ended", limit_s)
                process.kill()
                raise EOFError

    def close(self) -> None:
        """End the process; a request that is running ends with an error."""
        self._closed = True
        with self._lock:
            self._end()

    def _end(self) -> int | None:
        """End the process and return its exit code."""
        process, self._process, self._is_ready = self._process, None, False
        if process is None:
            return None
        for pipe in (process.stdin, process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # the process is dead, and buffered data cannot be sent
                continue
        try:
            return process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
