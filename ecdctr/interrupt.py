"""Ctrl-C as a wish: the first one ends the work at the next good place, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interruptible"]


@contextmanager
def interruptible(told: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether the user has asked to stop.

    Outside the main thread, where no signal arrives, it never does.

    Parameters
    ----------
    told
        Called at the first Ctrl-C.

    Examples
    --------
    >>> heard = []
    >>> with interruptible(lambda: heard.append("stopping")) as stopped:
    ...     signal.raise_signal(signal.SIGINT)
    ...     print(stopped(), heard)
    True ['stopping']
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def heard(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        asked.set()
        told()

    before = signal.signal(signal.SIGINT, heard)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
