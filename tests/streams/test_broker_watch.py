"""The watch over the broker, on logs that answer as the test wants."""

import asyncio
import logging
import threading

import pytest

from ecdctr.state.errors import BrokerRefusedError, BrokerUnavailableError, StreamError
from ecdctr.streams import broker_watch
from ecdctr.streams.broker_watch import BrokerWatch
from tests.support.waiting import until

KEY = ("natural", 0)
WHOLE, SHORT = {KEY: 500}, {KEY: 0}
GONE = StreamError("no such topic")
AWAY = BrokerUnavailableError("nobody answers")
REFUSED = BrokerRefusedError('does not show topic "natural"')


class Log:
    """Answers once: with ends, or with an error."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def partitions(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return [KEY]

    def end(self, keys):
        return self.answer


def watch(answers, monkeypatch) -> list:
    """The losses that a watch reports over these looks, each of which has learned 400 offsets."""
    monkeypatch.setattr(broker_watch, "EVERY_S", 0.001)
    lost, through, left = [], threading.Event(), list(answers)

    def make_log():
        if not left:
            through.set()
            return Log(WHOLE)
        return Log(left.pop(0))

    def on_lost(error) -> None:
        lost.append((error, len(left)))
        through.set()

    watching = BrokerWatch(make_log, lambda: {KEY: 400}, on_lost)
    watching.start()
    assert through.wait(60)
    watching.stop()
    return lost


@pytest.mark.parametrize("answer", [SHORT, GONE])
def test_a_log_that_two_looks_find_shorter_is_lost(answer, monkeypatch):
    [(error, left)] = watch([WHOLE, answer, answer, WHOLE], monkeypatch)
    assert left == 1, "the second look decided"
    assert "natural[0] ends at 0, learned up to 400" in str(error)
    assert "as two checks found" in str(error)


@pytest.mark.parametrize("between", [WHOLE, AWAY, REFUSED, ValueError("coming up")])
def test_one_look_that_does_not_see_a_topic_ends_nothing(between, monkeypatch):
    assert watch([WHOLE, GONE, between, SHORT, between, GONE, WHOLE], monkeypatch) == []


def test_a_right_that_is_withdrawn_is_named_and_proves_no_loss(monkeypatch, caplog):
    monkeypatch.setattr(broker_watch, "EVERY_S", 0.001)
    monkeypatch.setattr(broker_watch, "SILENT_S", 0.0)
    lost, refused = [], True

    def make_log():
        if refused:
            raise REFUSED
        return Log(WHOLE)

    async def main():
        nonlocal refused
        watching = BrokerWatch(make_log, lambda: {KEY: 400}, lost.append)
        watching.start()
        reporting = asyncio.create_task(watching.report())
        await until(lambda: logged("the brokers have refused requests for"), "name the refusal")
        refused = False
        await until(lambda: logged("a broker answers again"), "notice the end of the refusal")
        watching.stop()
        reporting.cancel()

    async def logged(text: str) -> bool:
        return text in caplog.text

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert 'does not show topic "natural"; training continues when they accept them' in caplog.text
    assert not lost
