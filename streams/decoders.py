"""``DecodePool``: processes that decode messages, beside the one that reads and trains.

Decoding needs Python's lock, and so does every operation of the trainer's thread: in one process each slows the
other. Only bytes go out and encoded rows come back. The one consumer keeps the offsets: which process decodes what has
no say in which rows are learned, nor in their order, so that a process may die at any time.
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
"""Messages below which one process decodes them all: sending them costs more than it gives."""

TRIES = 3
"""Processes that may die over the same messages."""

_LENGTH = struct.Struct("<Q")


class _Setup(msgspec.Struct):
    """What a decoder is made of."""

    specs: list[dict[str, Any]]
    max_string: int
    ts_min_ms: int
    ts_max_ms: int
    list_field: str | None
    oracle_field: str | None


class _Ask(msgspec.Struct, array_like=True):
    domain: int
    packed: bytes
    values: list[bytes | None]


class _Answer(msgspec.Struct, array_like=True):
    """Columns as (data type, shape, bytes)."""

    columns: dict[str, tuple[str, list[int], bytes]]
    rejects: list[tuple[int, str, str, int]]


_ask, _answer, _setup = (
    msgspec.msgpack.Decoder(_Ask),
    msgspec.msgpack.Decoder(_Answer),
    msgspec.msgpack.Decoder(_Setup),
)
_encode = msgspec.msgpack.Encoder().encode


class DecodePool:
    """Decodes messages in processes of its own.

    A process that dies is replaced and asked again; one that was asked for nothing dies unnoticed. They end with the
    process that started them, however that ends.

    Parameters
    ----------
    decoder
        Each process has one like it.
    processes
        How many.

    Attributes
    ----------
    pids
        Of the processes that run.
    """

    def __init__(self, decoder: EventDecoder, processes: int) -> None:
        limits = decoder.limits
        setup = _Setup(
            [spec.model_dump(mode="json") for spec in decoder.schema.specs],
            limits.max_string, limits.ts_min_ms, limits.ts_max_ms, decoder.list_field, decoder.oracle_field,
        )  # fmt: skip
        self._helpers = [_Helper(_encode(setup)) for _ in range(processes)]
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decode")
        self._turn = 0

    @property
    def pids(self) -> list[int]:
        return [helper.pid for helper in self._helpers]

    async def decode(self, values: Sequence[bytes | None], packed: Sequence[bool], domain: int) -> Decoded:
        """As :func:`ecdctr.events.records.decode_values`, to the last bit."""
        count = max(1, min(len(self._helpers), len(values) // LEAST))
        bounds = [len(values) * i // count for i in range(count + 1)]
        loop = asyncio.get_running_loop()
        asked = []
        for start, end in itertools.pairwise(bounds):
            ask = _encode(_Ask(domain, bytes(packed[start:end]), list(values[start:end])))
            helper = self._helpers[self._turn % len(self._helpers)]
            self._turn += 1
            asked.append(loop.run_in_executor(self._threads, helper.decode, ask))
        return join(list(zip(bounds[:-1], await asyncio.gather(*asked), strict=True)))

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown(wait=True)
        for helper in self._helpers:
            helper.close()


class _Helper:
    """One process, from this side; a request at a time."""

    def __init__(self, setup: bytes) -> None:
        self._setup = setup
        self._lock = threading.Lock()
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def decode(self, ask: bytes) -> Decoded:
        with self._lock:  # a caller that was cancelled may have left a request under way
            for _ in range(TRIES):
                try:
                    _send(self._process.stdin, ask)
                    return _unpacked(_answer.decode(_receive(self._process.stdout)))
                except (EOFError, OSError):
                    code = self.close()
                    log.warning("a decoding process ended with code %s: another one takes its place", code)
                    self._process = self._start()
        raise StreamError(
            f"{TRIES} decoding processes ended over the same messages: see what they said above; "
            "worker.decoders = 0 decodes in the worker itself"
        )

    def close(self) -> int:
        """Give its exit code."""
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what was still to be sent finds no reader
                continue
        try:
            return self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        alone = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ecdctr.streams.decoders"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | alone,
        )  # fmt: skip
        try:
            _send(process.stdin, self._setup)
        except OSError:  # it is dead already: whoever asks it next will see
            log.warning("a decoding process ended at once")
        return process


def serve() -> None:
    """The process: decode what is asked until the other side closes the pipe."""
    # A signal to the whole group is the worker's to answer: it ends this process when it is through.
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
            ask = _ask.decode(_receive(stdin))
            packed = [bool(flag) for flag in ask.packed]
            _send(stdout, _encode(_packed(decode_values(decoder, ask.values, packed, ask.domain))))
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
        name: np.frombuffer(data, dtype).reshape(shape).copy()  # what comes from bytes cannot be written to
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
