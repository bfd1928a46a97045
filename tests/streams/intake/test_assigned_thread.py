"""The consumer's thread leaves nothing behind in a loop that ends."""

from __future__ import annotations

import asyncio
import gc
import warnings
from types import SimpleNamespace

import pytest

from ecdctr.streams.intake.assigned_thread import AssignedThread


@pytest.mark.parametrize("closed", [False, True])
def test_waking_a_loop_that_has_ended_leaves_no_coroutine_that_is_not_awaited(closed):
    loop = asyncio.new_event_loop()
    if closed:
        loop.close()
    thread = SimpleNamespace(parent_loop=loop, last_wakeup_at=0.0)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        asyncio.run(AssignedThread._wakeup_timer_in_thread(thread))
        loop.close()
        del loop
        thread.parent_loop = None
        gc.collect()
    assert [str(w.message) for w in found] == []
    assert thread.last_wakeup_at > 0


def test_the_loop_is_woken():
    async def main():
        thread = SimpleNamespace(parent_loop=asyncio.get_running_loop(), last_wakeup_at=0.0)
        await asyncio.to_thread(asyncio.run, AssignedThread._wakeup_timer_in_thread(thread))

    asyncio.run(asyncio.wait_for(main(), 60))
