"""Delivery of alerts to the log, to a topic and to a webhook; training never waits for any of them."""

from __future__ import annotations

import logging
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ecdctr.monitor.alerts.rules import AlertRecord

__all__ = ["AlertDelivery", "Send", "webhook"]

log = logging.getLogger("ecdctr.alerts")

QUEUE_LENGTH = 1_000
WAITS_S = (1.0, 5.0, 20.0)
"""Pauses between attempts to deliver one alert on one channel."""

Send = Callable[[bytes, bytes], None]
"""``send(key, value)``: returns after the alert was delivered, raises if it could not be."""

Outcome = Callable[[str, str], None]
"""``outcome(channel, "sent" | "failed" | "dropped")``."""


class AlertDelivery:
    """One thread with a bounded queue per channel, so that a channel that hangs does not delay the others.

    Parameters
    ----------
    channels
        ``{name: send}``. After an exception the delivery is repeated a few times, and then abandoned on that channel with an error in
        the log. The alert itself is logged in any case.
    outcome
        Called with the outcome of each alert on each channel, for the metrics.
    waits_s
        Pauses between attempts; their number limits the attempts.

    Examples
    --------
    >>> sent = []
    >>> delivery = AlertDelivery({"list": lambda key, value: sent.append(value)})
    >>> delivery.send({"key": "pcoc-ad", "status": "resolved", "what": "PCOC is back"})
    >>> delivery.close(); sent
    [b'{"key":"pcoc-ad","status":"resolved","what":"PCOC is back"}']
    """

    def __init__(
        self,
        channels: Mapping[str, Send],
        *,
        outcome: Outcome = lambda _channel, _what: None,
        queue_length: int = QUEUE_LENGTH,
        waits_s: tuple[float, ...] = WAITS_S,
    ) -> None:
        self._outcome = outcome
        self._channels = [
            _Channel(name, send, outcome, queue_length, waits_s) for name, send in channels.items()
        ]

    def send(self, alert: AlertRecord) -> None:
        """Log the alert and queue it for all channels; returns at once."""
        raised = alert["status"] == "raised"
        level = logging.WARNING if raised else logging.INFO
        log.log(level, "alert %s: %s", alert["status"], alert["what"])
        key = str(alert["key"]).encode()
        value = msgspec.json.encode(alert)
        for channel in self._channels:
            channel.put(key, value)

    def close(self, timeout_s: float = 5.0) -> None:
        """Deliver the queued alerts, for at most ``timeout_s``."""
        for channel in self._channels:
            channel.end()
        for channel in self._channels:
            channel.thread.join(timeout_s)
            channel.give_up.set()


class _Channel:
    def __init__(
        self, name: str, send: Send, outcome: Outcome, length: int, waits_s: tuple[float, ...]
    ) -> None:
        self._name, self._send, self._outcome, self._waits_s = name, send, outcome, waits_s
        self._queue: queue.Queue[tuple[bytes, bytes]] = queue.Queue(length)
        self._ending = threading.Event()
        self.give_up = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"alerts-{name}", daemon=True)
        self.thread.start()

    def put(self, key: bytes, value: bytes) -> None:
        try:
            self._queue.put_nowait((key, value))
        except queue.Full:
            self._outcome(self._name, "dropped")
            log.error("alerts: the queue for %s is full, %s was not delivered", self._name, key.decode())

    def end(self) -> None:
        self._ending.set()

    def _run(self) -> None:
        while not self.give_up.is_set():
            try:
                item = self._queue.get(timeout=0.2)
            except queue.Empty:
                if self._ending.is_set():
                    return
                continue
            self._deliver(*item)

    def _deliver(self, key: bytes, value: bytes) -> None:
        for attempt in range(len(self._waits_s) + 1):
            try:
                self._send(key, value)
            except Exception as error:  # no exception of a channel may end the thread
                last = attempt == len(self._waits_s)
                log.log(
                    logging.ERROR if last else logging.WARNING,
                    "alert %s: delivery to %s failed (%s)%s",
                    key.decode(),
                    self._name,
                    _reason(error),
                    ", abandoned" if last else "",
                )
                if last or self.give_up.wait(self._waits_s[attempt]):
                    self._outcome(self._name, "failed")
                    return
            else:
                self._outcome(self._name, "sent")
                return


def _reason(error: Exception) -> str:
    """The kind of failure, without text that may contain a secret (the address of a webhook is one)."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
        return error.reason.strerror or type(error.reason).__name__
    return type(error).__name__


def webhook(url: str, timeout_s: float) -> Send:
    """A channel that posts each alert as JSON; any response but 2xx is a failure.

    The address is a secret, so it is never logged or shown. Redirects are not followed, because a token must not reach another host.
    """
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https"):
        raise ValueError("the address of a webhook must begin with https:// or http://")
    opener = urllib.request.build_opener(_NoRedirect)

    def send(key: bytes, value: bytes) -> None:
        request = urllib.request.Request(
            url,
            data=value,
            headers={"Content-Type": "application/json", "X-Ecdctr-Alert": key.decode("latin-1")},
        )
        with opener.open(request, timeout=timeout_s) as response:
            response.read(1)

    return send


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None
