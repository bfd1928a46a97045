"""``Throttle``: how long the brokers ask the click consumer to wait, because a quota is used up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["Throttle"]

LEAST_S = 1.0
"""Shorter waits are how a quota works while the consumer keeps up, and are not reported."""
_CALM_S = 5.0
"""A wait that follows on another within this time continues it."""


class Throttle:
    """The waits that the brokers have asked for in their responses to fetches (KIP-219), from any thread.

    A broker whose quota is used up answers a fetch at once and with nothing, states for how long, and reads no further request
    from the connection until then. A client that does not wait of its own accord takes the broker for one that hangs.

    Parameters
    ----------
    now
        Monotonic seconds.

    Examples
    --------
    >>> t = 0.0
    >>> throttle = Throttle(now=lambda: t)
    >>> throttle.answered(1, 9_000)
    >>> throttle.wait_s(1), throttle.wait_s(2)
    (9.0, 0.0)
    >>> t = 8.0; throttle.answered(1, 6_000); throttle.sentence()
    'broker 1 lets this client wait for 6.0 s before the next fetch, and has limited it for 8 s: a consumer quota of the user or of the client id "ecdctr" is used up (consumer_byte_rate); records are learned at the rate that it allows'
    >>> t = 20.0; throttle.sentence()
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # Replaced as a whole, never changed: other threads read it.
        self._waits: dict[
            Any, tuple[float, float, float]
        ] = {}  # by broker: since, until, seconds of the last

    def answered(self, broker: Any, throttle_ms: int) -> None:
        """A broker has answered a fetch and asks to wait for ``throttle_ms``; 0: it does not."""
        now, known = self._now(), self._waits.get(broker)
        if throttle_ms < 1000 * LEAST_S and known is not None and now > known[1] + _CALM_S:
            self._waits = {b: wait for b, wait in self._waits.items() if b != broker}
        if throttle_ms > 0:
            seconds = throttle_ms / 1000
            since = known[0] if known is not None and now <= known[1] + _CALM_S else now
            until = max(now + seconds, known[1] if known is not None else 0.0)
            self._waits = {**self._waits, broker: (since, until, seconds)}

    def wait_s(self, broker: Any) -> float:
        """Seconds until the broker accepts the next fetch."""
        wait = self._waits.get(broker)
        return 0.0 if wait is None else max(0.0, wait[1] - self._now())

    def sentence(self) -> str | None:
        """The sentence of the reason, of the broker with the longest wait; None while no broker asks for a long one."""
        now = self._now()
        long = {b: w for b, w in self._waits.items() if w[2] >= LEAST_S and now <= w[1] + _CALM_S}
        if not long:
            return None
        broker = max(long, key=lambda b: long[b][2])
        since, _, seconds = long[broker]
        return (
            f"broker {broker} lets this client wait for {seconds:.1f} s before the next fetch, and has limited it for "
            f'{now - since:.0f} s: a consumer quota of the user or of the client id "ecdctr" is used up (consumer_byte_rate); records '
            "are learned at the rate that it allows"
        )
