"""Delays between attempts to reach a broker."""

from ecdctr.streams.retry import RetryDelays


def test_delays_grow_and_start_again_after_a_session_that_worked():
    delays = RetryDelays()
    assert [delays.next(restart=False) for _ in range(5)] == [0.5, 1.0, 2.0, 5.0, 5.0]
    # The session before this failure had delivered records: its first delay is the shortest, and the next one grows again.
    assert [delays.next(restart=True), delays.next(restart=False)] == [0.5, 1.0]
