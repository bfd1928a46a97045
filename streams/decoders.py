"""``DecodePool``: decodes messages in child processes.

Decoding holds Python's global lock, and so does the trainer's thread: in one process, each slows the other. Messages are sent to
a process as bytes, and encoded rows are returned. The consumer of the worker keeps the offsets, so the distribution of messages over
processes affects neither which rows are learned nor their order, and a process may die at any time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import msgspec
import numpy as np

from ecdctr.events.batch import COLUMNS, Batch
from ecdctr.events.decoder import Decoded, EventDecoder, Reject
from ecdctr.events.records import decode_values, join
from ecdctr.events.settings import FeatureSpec
from ecdctr.state.errors import StreamError

__all__ = ["DecodePool"]

log = logging.getLogger("ecdctr.streams")

LEAST = 256
"""Minimum number of messages per process: splitting fewer of them costs more than it saves."""

TRIES = 3
"""Number of processes that may die while they decode the same messages, before decoding fails."""

_LENGTH = struct.Struct("<Q")


class _Setup(msgspec.Struct):
    """Arguments of the decoder of a process."""

    specs: list[dict[str, Any]]
    max_string: int
    ts_min_ms: int
    ts_max_ms: int
    list_field: str | None
    oracle_field: str | None


class _Request(msgspec.Struct, array_like=True):
    domain: int
    packed: bytes
    values: list[bytes | None]


class _Answer(msgspec.Struct, array_like=True):
    """Columns as (data type, shape, bytes)."""

    columns: dict[str, tuple[str, list[int], bytes]]
    rejects: list[tuple[int, str, str, int]]


_request, _answer, _setup = (
    msgspec.msgpack.Decoder(_Request),
    msgspec.msgpack.Decoder(_Answer),
    msgspec.msgpack.Decoder(_Setup),
)
_encode = msgspec.msgpack.Encoder().encode


class DecodePool:
    """Decodes messages in child processes.

    A process that dies is replaced at the next request, which is then repeated. The processes end with the process that started
    them, however that ends.

    Parameters
    ----------
    decoder
        Each process has a decoder of the same configuration.
    processes
        Number of processes.

    Attributes
    ----------
    pids
        Process ids.
    """

    def __init__(self, decoder: EventDecoder, processes: int) -> None:
        limits = decoder.limits
        setup = _Setup(
            [spec.model_dump(mode="json") for spec in decoder.schema.specs],
            limits.max_string, limits.ts_min_ms, limits.ts_max_ms, decoder.list_field, decoder.oracle_field,
        )  # fmt: skip
        self._children = [_Child(_encode(setup)) for _ in range(processes)]
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decode")
        self._turn = 0

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._children]

    async def decode(self, values: Sequence[bytes | None], packed: Sequence[bool], domain: int) -> Decoded:
        """Decode with the same result as :func:`ecdctr.events.records.decode_values`, to the last bit.

        Raises
        ------
        StreamError
            :data:`TRIES` processes died over the same messages.
        """
        count = max(1, min(len(self._children), len(values) // LEAST))
        bounds = [len(values) * i // count for i in range(count + 1)]
        loop = asyncio.get_running_loop()
        parts = []
        for start, end in itertools.pairwise(bounds):
            request = _encode(_Request(domain, bytes(packed[start:end]), list(values[start:end])))
            child = self._children[self._turn % len(self._children)]
            self._turn += 1
            parts.append(loop.run_in_executor(self._threads, child.decode, request))
        return join(list(zip(bounds[:-1], await asyncio.gather(*parts), strict=True)))

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown(wait=True)
        for child in self._children:
            child.close()


class _Child:
    """The parent's side of one process; it handles one request at a time."""

    def __init__(self, setup: bytes) -> None:
        self._setup = setup
        self._lock = threading.Lock()
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def decode(self, request: bytes) -> Decoded:
        with self._lock:  # a cancelled caller may have left a request that is still running
            for _ in range(TRIES):
                try:
                    _send(self._process.stdin, request)
                    return _unpacked(_answer.decode(_receive(self._process.stdout)))
                except (EOFError, OSError):
                    code = self.close()
                    log.warning("a decoding process ended with code %s: it is replaced", code)
                    self._process = self._start()
        raise StreamError(
            f"{TRIES} decoding processes ended while they decoded the same messages: see their output above; "
            "worker.decoders = 0 decodes in the worker itself"
        )

    def close(self) -> int:
        """End the process and return its exit code."""
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # the process is dead, and buffered data cannot be sent
                continue
        try:
            return self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        one_thread = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ecdctr.streams.decoders"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | one_thread,
        )  # fmt: skip
        try:
            _send(process.stdin, self._setup)
        except OSError:  # it is dead already: the next request replaces it
            log.warning("a decoding process ended at its start")
        return process


def serve() -> None:
    """Main function of the process: answer requests until the parent closes the pipe."""
    # A signal to the process group is handled by the worker, which ends this process when it no longer needs it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    try:
        setup = _setup.decode(_receive(stdin))
        decoder = EventDecoder(
            [FeatureSpec(**spec) for spec in setup.specs],
            max_string=setup.max_string,
            ts_min_ms=setup.ts_min_ms,
            ts_max_ms=setup.ts_max_ms,
            list_field=setup.list_field,
            oracle_field=setup.oracle_field,
        )
        while True:
            request = _request.decode(_receive(stdin))
            packed = [bool(flag) for flag in request.packed]
            _send(stdout, _encode(_packed(decode_values(decoder, request.values, packed, request.domain))))
    except (EOFError, BrokenPipeError):
        return


def _packed(decoded: Decoded) -> _Answer:
    columns = {**decoded.batch.columns(COLUMNS), "index": decoded.index}
    return _Answer(
        {
            name: (column.dtype.str, list(column.shape), np.ascontiguousarray(column).tobytes())
            for name, column in columns.items()
            if column is not None
        },
        [(r.index, r.reason, r.detail, r.row) for r in decoded.rejects],
    )


def _unpacked(answer: _Answer) -> Decoded:
    columns = {
        name: np.frombuffer(data, dtype).reshape(shape).copy()  # an array over bytes is read-only
        for name, (dtype, shape, data) in answer.columns.items()
    }
    index = columns.pop("index")
    return Decoded(
        Batch(**columns),  # type: ignore[arg-type]
        index,
        [Reject(*reject) for reject in answer.rejects],
    )


def _send(pipe: IO[bytes] | None, data: bytes) -> None:
    assert pipe is not None
    pipe.write(_LENGTH.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> bytes:
    assert pipe is not None
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    size = _LENGTH.unpack(head)[0]
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


if __name__ == "__main__":
    serve()
