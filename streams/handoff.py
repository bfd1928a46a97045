"""From the event loop to the trainer's thread: a bounded queue of steps."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping

from ecdctr.events.align import Aligner, Chunk
from ecdctr.events.step import Step
from ecdctr.models.training import Engine, StepResult

__all__ = ["AlignedIntake", "TrainerThread"]

log = logging.getLogger("ecdctr.worker")


class TrainerThread(threading.Thread):
    """Owns the engine and takes steps from a bounded queue.

    Parameters
    ----------
    engine
        Used by this thread alone from :meth:`start` on.
    length
        Steps that may wait; when it is full, fetching pauses.
    on_taken
        Called after each step is taken (from this thread).
    on_failure
        Called once with the exception that ended training (from this thread).
    """

    def __init__(
        self,
        engine: Engine,
        length: int,
        on_taken: Callable[[], None],
        on_failure: Callable[[BaseException], None],
        on_step: Callable[[Step, StepResult, float], None] | None = None,
    ) -> None:
        super().__init__(name="trainer", daemon=True)
        self.engine = engine
        self.steps: queue.Queue[Step | None] = queue.Queue(maxsize=length)
        self._on_taken, self._on_failure, self._on_step = on_taken, on_failure, on_step
        self._stop_now = threading.Event()

    def run(self) -> None:
        try:
            self.engine.bind_thread()
            while not self._stop_now.is_set():
                try:
                    step = self.steps.get(timeout=0.2)
                except queue.Empty:
                    self.engine.idle()
                    continue
                if step is None:
                    return
                self._on_taken()
                began = time.perf_counter()
                result = self.engine.run(step)
                if self._on_step is not None:
                    self._on_step(step, result, time.perf_counter() - began)
        except BaseException as error:
            log.exception("training ended")
            self._on_failure(error)

    def stop(self) -> None:
        """End after the step in flight; what waits in the queue is read again later."""
        self._stop_now.set()
        self.join()


class AlignedIntake:
    """What the agents hand rows to: aligns them and feeds the trainer's queue.

    Runs in the event loop. Rows stay here when their partition is taken away by a rebalance: they are ours to
    count, whoever else reads the topic, and a partition that returns goes on at :meth:`position`.

    Parameters
    ----------
    aligner
        Positions in it are those of the checkpoint or of the redone journal.
    buffer_rows
        Rows of one partition that may wait here; beyond it the partition is paused.
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

    # -- the agents' side

    def position(self, topic: str, partition: int) -> int | None:
        """Next offset that the agents should hand in; a partition that was added to a topic begins at 0."""
        if self.aligner.position(topic, partition) is None and topic in self.domains:
            log.info("%s[%d] is new: read from its beginning", topic, partition)
            self.aligner.open_lane(topic, partition, self.domains[topic], 0, time.monotonic())
        return self.aligner.position(topic, partition)

    def wants(self, topic: str, partition: int) -> bool:
        """False while the partition is far ahead: it is then not fetched."""
        return (
            self.aligner.position(topic, partition) is not None
            and self.aligner.buffered(topic, partition) < self.buffer_rows
        )

    async def put(self, chunk: Chunk) -> None:
        """Rows of one partition, their dead letters already acknowledged."""
        self.aligner.add(chunk, time.monotonic())
        self._wake.set()

    def set_end(self, topic: str, partition: int, end: int) -> None:
        """The broker said that the partition holds offsets up to ``end``."""
        if self.aligner.position(topic, partition) is not None:
            self.aligner.set_end(topic, partition, end)

    # -- the trainer's side

    def attach(self, trainer: TrainerThread) -> None:
        """Name the thread that takes the steps; called in the running loop."""
        self.trainer = trainer
        self._loop = asyncio.get_running_loop()

    def taken(self) -> None:
        """The trainer took a step (called from its thread)."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    async def pump(self) -> None:
        """Cut steps as they become due and move them to the trainer's queue; never returns."""
        assert self.trainer is not None
        while True:
            # Wakes by itself too: idle partitions and waiting rows become due by the clock.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), timeout=0.05)
            self._wake.clear()
            if not self._ready:
                self._ready = self.aligner.cut(time.monotonic())
            while self._ready:
                try:
                    self.trainer.steps.put_nowait(self._ready[0])
                except queue.Full:
                    break
                self._ready.pop(0)

    def lag(self, topic: str, learned: Mapping[tuple[str, int], int]) -> int:
        """Records of a topic that the log holds and nobody has learned."""
        return self.aligner.lag(topic, learned)

    @property
    def waiting_rows(self) -> int:
        """Rows buffered here and in the queue's hands but not yet learned."""
        return self.aligner.buffered_rows + sum(len(s.batch) for s in self._ready)
