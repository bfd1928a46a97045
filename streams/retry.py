"""Repeated attempts to reach a broker that does not answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ecdctr.state.errors import BrokerRefusedError, BrokerUnavailableError, ConfigError, EcdctrError

__all__ = ["MENDED_LATER", "RetryDelays", "StopRequestedError", "call_until_available", "retry_delay"]

log = logging.getLogger("ecdctr.worker")

_DELAYS_S = (0.5, 1.0, 2.0, 5.0)
SAY_AGAIN_S = 60.0
"""The same error is logged again after this time."""
_LOOK_S = 0.1
"""Interval at which a pause looks whether a stop was requested."""

MENDED_LATER = (BrokerUnavailableError, BrokerRefusedError, ConfigError)
"""What can pass by itself once a worker is running: a right, a password or a certificate was valid before, and is being replaced."""

T = TypeVar("T")


class StopRequestedError(EcdctrError):
    """The worker was asked to stop before it reached the live stream."""


def retry_delay(attempt: int) -> float:
    """Seconds to wait after attempt 0, 1, ...

    >>> [retry_delay(n) for n in (0, 1, 2, 3, 4, 99)]
    [0.5, 1.0, 2.0, 5.0, 5.0, 5.0]
    """
    return _DELAYS_S[min(attempt, len(_DELAYS_S) - 1)]


class RetryDelays:
    """Delays between the sessions of a repeated connection; they start again after a session that worked."""

    def __init__(self) -> None:
        self._attempt = 0

    def next(self, *, restart: bool) -> float:
        """Seconds to wait after a session has failed; ``restart``: it had worked before, so start again at the shortest delay."""
        if restart:
            self._attempt = 0
        delay = retry_delay(self._attempt)
        self._attempt += 1
        return delay


def call_until_available(
    call: Callable[[], T],
    timeout_s: float,
    stop_requested: Callable[[], bool],
    *,
    errors: tuple[type[EcdctrError], ...] = (BrokerUnavailableError,),
) -> T:
    """Repeat a call for as long as no broker is available.

    Parameters
    ----------
    call
        Raises one of ``errors`` while it has to be repeated.
    timeout_s
        No further attempt after this time; ``inf``: no limit.
    stop_requested
        Ends the attempts when it returns True.
    errors
        The errors after which the call is repeated; :data:`MENDED_LATER` in a worker that is running.

    Raises
    ------
    EcdctrError
        One of ``errors``, after ``timeout_s``.
    StopRequestedError
        A stop was requested.
    """
    deadline = time.monotonic() + timeout_s
    attempt, said, said_at = 0, "", 0.0
    while True:
        try:
            return call()
        except errors as error:
            if stop_requested():
                raise StopRequestedError from None
            if time.monotonic() > deadline:
                raise
            now = time.monotonic()
            if str(error) != said or now - said_at >= SAY_AGAIN_S:
                log.warning("%s; trying again", error)
                said, said_at = str(error), now
            resume_at = time.monotonic() + retry_delay(attempt)
            while time.monotonic() < resume_at and not stop_requested():
                time.sleep(_LOOK_S)
            if stop_requested():
                raise StopRequestedError from None
            attempt += 1
