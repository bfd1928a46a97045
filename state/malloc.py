"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

__all__ = ["give_back"]


def _trim() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``; None with another C library."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found


_malloc_trim = _trim()


def give_back() -> None:
    """Let the C library return free pages; does nothing where it cannot.

    glibc keeps what lies between blocks still in use. Large copies come and go with each checkpoint and each release, each
    time elsewhere: over hours a process seems to grow though it holds no more than before.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
