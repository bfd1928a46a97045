"""How a process ends: at the first Ctrl-C at the next safe point, at the second one at once; an early SIGTERM; and in bounded time."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["end_in_time", "exit_on_sigterm", "interruptible"]

log = logging.getLogger("ecdctr")


def exit_on_sigterm() -> None:
    """End the process with code 0 at SIGTERM, until another handler is installed: nothing has begun that would need an end."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))


def end_in_time(code: int, within_s: float = 3.0) -> None:
    """End the process with this code even if the interpreter does not; call it when all work is done and the interpreter is to end.

    The interpreter waits for every thread that is not a daemon, without a limit, and also for the threads of all executors: one that
    asks a name server, or a token provider that hangs, keeps a process alive that has written its last checkpoint.
    """

    def end() -> None:
        time.sleep(within_s)
        names = [
            t.name for t in threading.enumerate() if t is not threading.main_thread() and t.name != "end"
        ]
        log.warning("threads that have not ended are given up: %s", ", ".join(names) or "unknown")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)

    threading.Thread(target=end, name="end", daemon=True).start()


@contextmanager
def interruptible(on_interrupt: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed.

    Outside the main thread, which receives the signals, it always returns False.

    Parameters
    ----------
    on_interrupt
        Called at the first Ctrl-C.

    Examples
    --------
    >>> messages = []
    >>> with interruptible(lambda: messages.append("stopping")) as stopped:
    ...     signal.raise_signal(signal.SIGINT)
    ...     print(stopped(), messages)
    True ['stopping']
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted.is_set
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        interrupted.set()
        on_interrupt()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted.is_set
    finally:
        signal.signal(signal.SIGINT, before)
