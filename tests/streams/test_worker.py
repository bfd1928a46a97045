"""The end of a worker: what a signal may interrupt, and after what no checkpoint follows."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace

import pytest

from ecdctr.events.decoder import EventDecoder
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import StreamError
from ecdctr.state.positions import Part, Positions
from ecdctr.streams.dead_letters import DeadLetters
from ecdctr.streams.retry import StopRequestedError
from ecdctr.streams.settings import MonitorSettings, TopicSettings, WorkerSettings
from ecdctr.streams.worker import Worker
from tests.support.intakes import SPECS

ROLLED_BACK = SimpleNamespace(parts=(Part("ads", 0, 3, 6),))


class Engine:
    """Recovers one step that is rolled back, or none, and is then asked to stop."""

    step = 7
    progress = SimpleNamespace(rows={})

    def __init__(self, *, on_skipped, **_):
        self.on_skipped = on_skipped
        self.closed: list[bool] = []

    def close(self, *, checkpoint=True):
        self.closed.append(checkpoint)


class Stopped(Worker):
    """Is asked to stop at the end of its recovery."""

    rolls_back = False

    def _recover(self, engine, reset_offsets):
        if self.rolls_back:
            engine.on_skipped(ROLLED_BACK, "loss is nan")
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
