"""Graceful interruption: the first Ctrl-C ends the work at the next safe point, the second one at once; an early SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["exit_on_sigterm", "interruptible"]


def exit_on_sigterm() -> None:
    """End the process with code 0 at SIGTERM, until another handler is installed: nothing has begun that would need an end."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))


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
