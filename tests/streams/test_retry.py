"""Delays between attempts to reach a broker, and what is logged meanwhile."""

import pytest

from ecdctr.state.errors import BrokerUnavailableError
from ecdctr.streams import retry
from ecdctr.streams.retry import RetryDelays, call_until_available


def test_delays_grow_and_start_again_after_a_session_that_worked():
    delays = RetryDelays()
    assert [delays.next(restart=False) for _ in range(5)] == [0.5, 1.0, 2.0, 5.0, 5.0]
    # The session before this failure had delivered records: its first delay is the shortest, and the next one grows again.
    assert [delays.next(restart=True), delays.next(restart=False)] == [0.5, 1.0]


@pytest.mark.parametrize(("every_s", "logged"), [(60.0, ["a", "b", "a"]), (0.0, ["a", "a", "b", "a"])])
def test_an_error_that_stays_the_same_is_not_logged_at_each_attempt(monkeypatch, caplog, every_s, logged):
    monkeypatch.setattr(retry, "_DELAYS_S", (0.0,))
    monkeypatch.setattr(retry, "SAY_AGAIN_S", every_s)
    errors = ["a", "a", "b", "a"]

    def call() -> str:
        if errors:
            raise BrokerUnavailableError(errors.pop(0))
        return "answered"

    assert call_until_available(call, 60.0, lambda: False) == "answered"
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == logged
