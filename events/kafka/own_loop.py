"""``run_in_own_loop``: runs a coroutine to its end, also where the calling thread already runs an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["run_in_own_loop"]

T = TypeVar("T")


def run_in_own_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a thread of its own, cancel the tasks that it leaves, and return its result."""

    async def work_and_clean_up() -> T:
        try:
            return await work
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def run() -> T:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(work_and_clean_up())
        finally:
            loop.close()  # does not wait for a name that is still being resolved, as asyncio.run does

    with ThreadPoolExecutor(1, thread_name_prefix="broker-probe") as thread:
        return thread.submit(run).result()
