"""Reading the next frame in a thread while the current one is processed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")


def read_ahead(frames: Iterator[T]) -> Iterator[T]:
    """Yield the same items; a thread reads the next one while the caller processes the current one.

    Only reading runs in the thread, because it rarely holds the interpreter's lock. Decoding in a second thread would
    stall every operation of the training loop.

    Examples
    --------
    >>> list(read_ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        try:
            pending = pool.submit(_next, frames)
            while (item := pending.result()) is not None:
                pending = pool.submit(_next, frames)
                yield item[0]
        finally:
            pool.shutdown(wait=True)
            if isinstance(frames, Generator):
                frames.close()


def _next(frames: Iterator[T]) -> tuple[T] | None:
    for frame in frames:
        return (frame,)
    return None
