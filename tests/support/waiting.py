"""Waiting for an event, and bounds of wall-clock times on machines that run other work, too.

All waits share one generous limit. Only a failing test reaches it, so its length does not slow down passing tests, and
a machine that is four times slower than usual does not reach it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 120.0
"""Limit of a wait."""
_SPIN_S = 0.05


def wait_for(
    condition: Callable[[], T],
    what: str = "",
    *,
    within_s: float = PATIENCE_S,
    alive: Callable[[], str | None] = lambda: None,
    detail: Callable[[], str] = lambda: "",
    every_s: float = 0.02,
) -> T:
    """Poll a condition until it is true, and return its value.

    Parameters
    ----------
    condition
        Should not raise: an exception ends the wait, so that unexpected errors are reported at once.
    what
        Names the event in the message of a failure.
    alive
        Returns the reason why waiting is pointless, or None; called each time that the condition is not true.
    detail
        Called when the wait has failed; its text is appended to the message.

    Raises
    ------
    AssertionError
        Time is up, or ``alive`` returned a text.
    """
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        if (reason := alive()) is not None:
            if found := condition():  # it may have come true just before the end
                return found
            raise AssertionError(f"{what or condition}: {reason}\n{detail()}")
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{what or condition}: not within {within_s:.0f} s, the last answer was {found!r}\n{detail()}"
            )
        time.sleep(every_s)
    return found


def wait_until_equal(
    read: Callable[[], T],
    expected: T,
    what: str = "",
    *,
    within_s: float = PATIENCE_S,
    alive: Callable[[], str | None] = lambda: None,
) -> None:
    """Read until the value is ``expected``; for values that change in several parts.

    The message of a failure shows the difference from the last value read.
    """
    deadline = time.monotonic() + within_s
    while (found := read()) != expected and time.monotonic() < deadline and alive() is None:
        time.sleep(0.05)
    assert found == expected, alive() or f"{what}: not within {within_s:.0f} s"


async def until(
    condition: Callable[[], Awaitable[T]],
    what: str = "",
    *,
    within_s: float = PATIENCE_S,
    detail: Callable[[], str] = lambda: "",
    every_s: float = 0.02,
) -> T:
    """:func:`wait_for` for a coroutine function."""
    deadline = time.monotonic() + within_s
    while not (found := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{what or condition}: not within {within_s:.0f} s, the last answer was {found!r}\n{detail()}"
            )
        await asyncio.sleep(every_s)
    return found


def contention() -> float:
    """How many times longer work takes than on an idle machine; 1 on an idle one.

    The larger of two measurements: wall over processor seconds of a short loop of this process (now), and
    runnable processes per processor (over the last minute).
    """
    wall, cpu = time.perf_counter(), time.thread_time()
    while time.thread_time() - cpu < _SPIN_S:
        pass
    now = (time.perf_counter() - wall) / (time.thread_time() - cpu)
    return max(1.0, now, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def allowance(seconds: float) -> float:
    """The bound of ``seconds``, scaled by the present load of this machine.

    On an idle machine it is ``seconds``. Use it for promised durations only; waits use :data:`PATIENCE_S`.
    """
    return seconds * contention()
