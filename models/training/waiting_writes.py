"""``WaitingWrites``: writes of state that wait while the disk is full."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ecdctr.models.training.progress import Progress
from ecdctr.state.errors import StateError

__all__ = ["WaitingWrites"]

log = logging.getLogger("ecdctr.engine")

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 2.0


class WaitingWrites:
    """Writes state without which training must not continue.

    Parameters
    ----------
    progress
        Its ``last_error`` is set while a write waits.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._waits = True

    def run(self, what: str, write: Callable[[], None]) -> None:
        """Write; wait while the disk is full.

        Parameters
        ----------
        what
            What is written, for the log.
        write
            Is atomic.

        Raises
        ------
        OSError, StateError
            Of the write, after :meth:`stop_waiting`.
        """
        delay, waited = _FIRST_DELAY_S, False
        while True:
            try:
                write()
                if waited:
                    self._progress.last_error = None
                    log.info("%s written: training continues", what)
                return
            except (OSError, StateError) as error:
                waited = True
                self._progress.last_error = f"{what}: {error}"
                log.error("%s cannot be written (%s): waiting for space", what, error)
                if not self._waits:
                    raise
                time.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY_S)

    def stop_waiting(self) -> None:
        """Let a write that waits fail, and every later one that would wait; callable in any thread and in a signal handler."""
        self._waits = False
