"""The end of a worker: what a signal may interrupt, and after what no checkpoint follows."""

from __future__ import annotations

import asyncio
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from ecdctr.events.decoder import EventDecoder
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import OffsetsLostError, StreamError
from ecdctr.state.positions import Part, Positions
from ecdctr.streams.dead_letters import DeadLetters, MemoryDeadLetters
from ecdctr.streams.retry import StopRequestedError
from ecdctr.streams.settings import MonitorSettings, TopicSettings, WorkerSettings
from ecdctr.streams.trainer_thread import TrainerThread
from ecdctr.streams.worker import Worker
from tests.support.intakes import SPECS
from tests.support.waiting import PATIENCE_S

ROLLED_BACK = SimpleNamespace(parts=(Part("ads", 0, 3, 6),))


class Engine:
    """Recovers one step that is rolled back, or none, and is then asked to stop."""

    step = 7
    progress = SimpleNamespace(rows={})

    def __init__(self, *, on_skipped, **_):
        self.on_skipped = on_skipped
        self.closed: list[bool] = []
        self.waits = True

    def stop_waiting(self):
        self.waits = False

    def close(self, *, checkpoint=True):
        self.closed.append(checkpoint)


class Stopped(Worker):
    """Is asked to stop at the end of its recovery."""

    rolls_back = False

    def _recover(self, engine, reset_offsets):
        if self.rolls_back:
            engine.on_skipped(ROLLED_BACK, np.array([0]), "loss is nan")
        raise StopRequestedError


@pytest.fixture
def worker(tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("ecdctr.streams.worker.rows_by_kind", lambda _: "")
    return Stopped(
        make_engine=Engine,
        decoder=EventDecoder(SPECS),
        make_log=lambda _: None,
        kafka=KafkaSettings(),
        topics=TopicSettings(),
        worker=WorkerSettings(),
        monitor=MonitorSettings(port=0),
        state_folder=tmp_path,
        natural_batch=8,
        ad_batch=8,
    )


@pytest.mark.parametrize("rolls_back", [False, True])
def test_no_checkpoint_follows_a_step_whose_letters_were_not_sent(worker, rolls_back):
    worker.rolls_back = rolls_back
    assert worker.run() == 0
    assert worker._engine.closed == [not rolls_back]


def test_a_signal_after_the_event_loop_does_not_interrupt_the_last_checkpoint(worker):
    async def stream():
        worker._loop, worker._stop = asyncio.get_running_loop(), asyncio.Event()

    asyncio.run(stream())
    worker._on_signal(signal.SIGTERM, None)
    assert worker._stop_requested


def test_a_failure_ends_the_waits_of_other_threads(worker):
    assert not worker._is_ending()
    worker._fail(StreamError("gone"))
    assert worker._is_ending()


def test_lost_offsets_end_a_trainer_that_waits_for_letters_or_for_the_disk(worker):
    """Neither a dead-letter topic that takes nothing nor a full disk holds up the end of the process."""
    sending = asyncio.Event()

    class TakesNothing(MemoryDeadLetters):
        async def send(self, letters):
            sending.set()
            await asyncio.Event().wait()

    engine = worker._engine = Engine(on_skipped=worker._rollback_letters.add)
    worker._rollback_letters._letters_of = lambda *_: []
    lost = OffsetsLostError("ads[0] ends at 5, learned up to 9")

    async def main():
        worker._loop, worker._stop = asyncio.get_running_loop(), asyncio.Event()
        await worker._rollback_letters.start(TakesNothing())
        trainer = asyncio.ensure_future(
            asyncio.to_thread(engine.on_skipped, ROLLED_BACK, np.array([0]), "loss is nan")
        )
        await sending.wait()
        await asyncio.to_thread(worker._offsets_lost, lost)
        with pytest.raises(StopRequestedError):
            await asyncio.wait_for(trainer, PATIENCE_S)

    asyncio.run(main())
    assert worker._failure is lost
    assert not engine.waits, "a write that waits for disk space fails now"


def test_a_stop_says_that_it_waits_for_a_long_step(monkeypatch, caplog):
    monkeypatch.setattr("ecdctr.streams.trainer_thread.SAID_EVERY_S", 0.01)
    running, goes_on = threading.Event(), threading.Event()

    class Long:
        step, progress = 7, SimpleNamespace(busy="training: a CPM release is being made")

        def bind_thread(self):
            pass

        def run(self, step):
            running.set()
            while "waiting for the end" not in caplog.text and not goes_on.wait(0.01):
                pass

    trainer = TrainerThread(Long(), 1, on_taken=lambda: None, on_failure=print)
    trainer.steps.put(None)
    trainer.start()
    assert running.wait(PATIENCE_S)
    trainer.stop()
    goes_on.set()
    assert "the step that follows step 7" in caplog.text and "a CPM release is being made" in caplog.text


def test_a_stop_that_the_trainer_notices_is_no_failure(worker):
    worker._on_signal(signal.SIGTERM, None)
    worker._fail(StopRequestedError())
    assert worker._reporter.health.verdict().phase == "stopping"


def test_a_stop_before_the_first_step_closes_what_sends_dead_letters(worker, monkeypatch):
    stopped = []

    async def stop(_):
        stopped.append(1)

    async def start(_, positions):
        raise StopRequestedError

    monkeypatch.setattr(DeadLetters, "start", start)
    monkeypatch.setattr(DeadLetters, "stop", stop)
    with pytest.raises(StopRequestedError):
        asyncio.run(worker._train(Engine(on_skipped=None), Positions(), {}))
    assert stopped
