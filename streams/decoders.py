"""``DecodePool``: decodes messages in child processes, next to the trainer.

Decoding holds Python's global lock, and so does the trainer's thread: in one process, each slows the other. Messages are sent to
a process as bytes, and encoded rows are returned. The consumer of the worker keeps the offsets, so the distribution of messages over
processes affects neither which rows are learned nor their order, and a process may die at any time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ecdctr.events.decoder import Decoded, EventDecoder
from ecdctr.events.isolation import DecodingProcess
from ecdctr.events.records import join

__all__ = ["DecodePool"]

LEAST = 256
"""Minimum number of messages per process: splitting fewer of them costs more than it saves."""


class DecodePool:
    """Decodes messages in child processes, as :class:`ecdctr.events.isolation.DecodingProcess` describes.

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
        self._children = [DecodingProcess(decoder) for _ in range(processes)]
        for child in self._children:
            child.start()
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
            No process can be started.
        """
        count = max(1, min(len(self._children), len(values) // LEAST))
        bounds = [len(values) * i // count for i in range(count + 1)]
        loop = asyncio.get_running_loop()
        parts = []
        for start, end in itertools.pairwise(bounds):
            child = self._children[self._turn % len(self._children)]
            self._turn += 1
            part = loop.run_in_executor(
                self._threads, child.decode, values[start:end], packed[start:end], domain
            )
            parts.append(part)
        return join(list(zip(bounds[:-1], await asyncio.gather(*parts), strict=True)))

    def close(self) -> None:
        """End the processes; requests that are running end with an error."""
        for child in self._children:
            child.close()
        self._threads.shutdown(wait=True)
