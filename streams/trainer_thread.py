"""``TrainerThread``: the thread that owns the engine and runs the steps of a bounded queue."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from ecdctr.events.step import Step
from ecdctr.models.training import Engine, StepResult
from ecdctr.state.errors import EcdctrError

__all__ = ["TrainerThread"]

log = logging.getLogger("ecdctr.worker")

SAID_EVERY_S = 10.0
_POLL_S = 0.2
"""Interval of :meth:`Engine.idle` while no step is queued."""


class TrainerThread(threading.Thread):
    """Owns the engine and takes steps from a bounded queue.

    Parameters
    ----------
    engine
        Only this thread uses it after :meth:`start`.
    length
        Capacity of the queue, in steps; fetching pauses while it is full.
    on_taken
        Called in this thread after each step is taken from the queue.
    on_failure
        Called once in this thread, with the exception that ended training.
    on_step
        Called in this thread after each step, with the step, its result and its wall seconds.
    on_idle
        Called in this thread several times per second while no step is queued.
    """

    def __init__(
        self,
        engine: Engine,
        length: int,
        on_taken: Callable[[], None],
        on_failure: Callable[[BaseException], None],
        on_step: Callable[[Step, StepResult, float], None] | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(name="trainer", daemon=True)
        self.engine = engine
        self.steps: queue.Queue[Step] = queue.Queue(maxsize=length)
        self._on_taken, self._on_failure = on_taken, on_failure
        self._on_step, self._on_idle = on_step, on_idle
        self._stop_requested = threading.Event()

    def run(self) -> None:
        try:
            self.engine.bind_thread()
            while not self._stop_requested.is_set():
                try:
                    step = self.steps.get(timeout=_POLL_S)
                except queue.Empty:
                    self.engine.idle()
                    if self._on_idle is not None:
                        self._on_idle()
                    continue
                self._on_taken()
                began = time.perf_counter()
                result = self.engine.run(step)
                if self._on_step is not None:
                    self._on_step(step, result, time.perf_counter() - began)
        except EcdctrError as error:  # the worker ends with its sentence
            log.debug("training ended", exc_info=True)
            self._on_failure(error)
        except BaseException as error:
            log.exception("training ended")
            self._on_failure(error)

    def stop(self) -> None:
        """End after the current step. Steps that are still queued are read from the log again after a restart.

        A step is not interrupted, because its journal entry exists; while it is waited for, that is logged every
        :data:`SAID_EVERY_S` seconds.
        """
        self._stop_requested.set()
        began = time.monotonic()
        while self.is_alive():
            self.join(SAID_EVERY_S)
            if self.is_alive():
                log.warning(
                    "stopping: waiting for the end of the step that follows step %d, for %.0f s (%s)",
                    self.engine.step, time.monotonic() - began, self.engine.progress.busy or "training",
                )  # fmt: skip
