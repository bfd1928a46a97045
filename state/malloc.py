"""Return freed memory to the operating system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

__all__ = ["trim_memory"]


def _trim() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``; None with another C library."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found


_malloc_trim = _trim()


def trim_memory() -> None:
    """Return the C library's free pages to the operating system; no effect without glibc.

    glibc retains free pages between blocks that are in use. Each checkpoint and each release allocates and frees large
    copies at other addresses, so that the resident size of a process would grow for hours although its live data do not.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
