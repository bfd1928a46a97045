"""``AlignedIntake``: aligns the rows of the Faust agents by event time and fills the trainer's queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import time
from collections.abc import Mapping

from ecdctr.events.align import Aligner, Chunk
from ecdctr.events.step import Step
from ecdctr.streams.trainer_thread import TrainerThread

__all__ = ["AlignedIntake"]

log = logging.getLogger("ecdctr.worker")

_EMIT_EVERY_S = 0.05
"""Maximum time between two calls of the aligner: idle partitions and waiting rows become due by the clock, without a new row."""


class AlignedIntake:
    """The intake of the worker: aligns rows and moves the steps to the trainer's queue.

    Runs in the event loop. If the consumer is built again, reading continues at :meth:`position`: buffered rows are retained.

    Parameters
    ----------
    aligner
        Its positions are those after recovery.
    buffer_rows
        Rows of one partition that may be buffered; a partition with more of them is paused.
    domains
        ``{topic: domain}``.
    """

    def __init__(self, aligner: Aligner, buffer_rows: int, domains: Mapping[str, int]) -> None:
        self.aligner = aligner
        self.domains = dict(domains)
        self.buffer_rows = buffer_rows
        self.trainer: TrainerThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._ready: list[Step] = []

    # -- for the agents

    def position(self, topic: str, partition: int) -> int | None:
        """Next offset that the agents should deliver. A partition that was added to a topic begins at 0."""
        if self.aligner.position(topic, partition) is None and topic in self.domains:
            log.info("%s[%d] is new: it is read from its beginning", topic, partition)
            self.aligner.open_partition(topic, partition, self.domains[topic], 0, time.monotonic())
        return self.aligner.position(topic, partition)

    def wants(self, topic: str, partition: int) -> bool:
        """Whether the partition should be fetched; False while its buffer is full."""
        return (
            self.aligner.position(topic, partition) is not None
            and self.aligner.buffered(topic, partition) < self.buffer_rows
        )

    async def put(self, chunk: Chunk) -> None:
        """Buffer rows of one partition, whose dead letters have been acknowledged."""
        self.aligner.add(chunk, time.monotonic())
        self._wake.set()

    def set_end(self, topic: str, partition: int, end: int) -> None:
        """Record that the partition has records before this offset; an end that is known to be later is kept."""
        if self.aligner.position(topic, partition) is not None:
            self.aligner.set_end(topic, partition, max(end, self.aligner.end(topic, partition) or 0))

    def set_ends(self, ends: Mapping[tuple[str, int], int]) -> None:
        """Record the ends that the brokers have just reported, whether or not anything was fetched."""
        for (topic, partition), end in ends.items():
            if self.aligner.position(topic, partition) is not None:
                self.aligner.set_end(topic, partition, end)

    # -- for the trainer

    def attach(self, trainer: TrainerThread) -> None:
        """Set the thread that takes the steps; called in the running loop."""
        self.trainer = trainer
        self._loop = asyncio.get_running_loop()

    def taken(self) -> None:
        """Called in the trainer's thread when it has taken a step."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    async def pump(self) -> None:
        """Take steps from the aligner as they become due and move them to the trainer's queue; never returns."""
        assert self.trainer is not None
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), timeout=_EMIT_EVERY_S)
            self._wake.clear()
            if not self._ready:
                self._ready = self.aligner.emit_steps(time.monotonic())
            while self._ready:
                try:
                    self.trainer.steps.put_nowait(self._ready[0])
                except queue.Full:
                    break
                self._ready.pop(0)

    def lag(self, topic: str, learned: Mapping[tuple[str, int], int]) -> int:
        """Number of records of a topic that are in the log and have not been learned."""
        return self.aligner.lag(topic, learned)

    @property
    def waiting_rows(self) -> int:
        """Rows in the buffers, and rows of steps that are not in the trainer's queue yet."""
        return self.aligner.buffered_rows + sum(len(s.batch) for s in self._ready)
