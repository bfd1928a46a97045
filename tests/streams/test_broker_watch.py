"""The watch over the broker, on logs that answer as the test wants."""

import threading

import pytest

from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError, StreamError
from ecdctr.streams import broker_watch
from ecdctr.streams.broker_watch import BrokerWatch

KEY = ("natural", 0)
WHOLE, SHORT = {KEY: 500}, {KEY: 0}
GONE = StreamError("no such topic")
AWAY = BrokerUnavailableError("nobody answers")


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
    monkeypatch.setattr(BrokerWatch, "_connect", lambda self: None)
    lost, through, left = [], threading.Event(), list(answers)

    def make_log():
        if not left:
            through.set()
            return Log(WHOLE)
        return Log(left.pop(0))

    def on_lost(error) -> None:
        lost.append((error, len(left)))
        through.set()

    watching = BrokerWatch(KafkaSettings(), make_log, lambda: {KEY: 400}, on_lost)
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


@pytest.mark.parametrize("between", [WHOLE, AWAY, ValueError("coming up")])
def test_one_look_that_does_not_see_a_topic_ends_nothing(between, monkeypatch):
    assert watch([WHOLE, GONE, between, SHORT, between, GONE, WHOLE], monkeypatch) == []
