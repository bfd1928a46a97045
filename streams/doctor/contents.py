"""Checks of sampled messages: decoding, labels and clocks."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from ecdctr.events.decoder import REASONS
from ecdctr.streams.doctor.checks import Check, failed, ok, skipped, warning
from ecdctr.streams.doctor.fields import Sampled, Times

__all__ = ["check_clocks", "check_contents"]

_SKEW_MS = 60_000
"""Clocks of machines that are kept in time differ by less."""
_NAMED = 5


def check_contents(topic: str, sampled: Sampled, click_topic_of: str) -> Iterator[Check]:
    """Whether the worker's decoder accepts the sampled messages, and whether their labels can be learned.

    Parameters
    ----------
    click_topic_of
        "natural" or "ad": the key of the topic.
    """
    name = f'messages of "{topic}"'
    if not sampled.messages:
        yield skipped(
            name, "the topic has no messages: their format cannot be checked", "send some, and check again"
        )
        return
    events = sampled.rows + sampled.refused
    found = f"{sampled.messages:,} messages with {events:,} events"
    if not sampled.refused:
        yield ok(name, f"{found}: a worker would learn all of them")
    elif not sampled.rows:
        yield failed(name, f"{found}: a worker would refuse all of them", _why(topic, sampled))
    else:
        yield warning(
            name,
            f"{found}: a worker would send {sampled.refused:,} ({sampled.refused / events:.1%}) to the dead-letter topic",
            _why(topic, sampled),
        )
    if sampled.rows:
        yield from _labels(topic, sampled, click_topic_of)


def _why(topic: str, sampled: Sampled) -> str:
    named = [
        f"{refusal.reason} ({REASONS.get(refusal.reason, 'refused')}): {refusal.events:,}, for example "
        f"{topic}[{refusal.partition}] offset {refusal.offset}: {refusal.detail}"
        for refusal in sampled.refusals[:_NAMED]
    ]
    more = len(sampled.refusals) - _NAMED
    return "; ".join(named) + (f"; {more} more reasons" if more > 0 else "")


def _labels(topic: str, sampled: Sampled, click_topic_of: str) -> Iterator[Check]:
    name = f'labels of "{topic}"'
    rate = sampled.clicks / sampled.rows
    if 0 < rate < 1:
        yield ok(name, f"{rate:.2%} of the rows are clicks")
    elif rate:
        yield warning(
            name,
            f"each of {sampled.rows:,} rows is a click: nothing can be learned",
            f"send impressions without a click (label 0) to topics.{click_topic_of}, too",
        )
    else:
        yield warning(
            name,
            f"none of {sampled.rows:,} rows is a click",
            "see whether clicks are joined to impressions (label 1)",
        )


def check_clocks(topic: str, times: Times, now_ms: float | None = None) -> Iterator[Check]:
    """Whether time stamps of records, event times and the clock of this machine agree.

    Parameters
    ----------
    now_ms
        The clock of this machine; default: now.
    """
    if not len(times.ahead_of_record):
        return
    now = time.time() * 1000 if now_ms is None else now_ms
    name = f'clocks of "{topic}"'
    age = now - times.newest_record
    found = f"the newest message is {_span(age)} old"
    if times.newest_record <= 0:
        yield skipped(name, "the messages have no time stamps")
        return
    if age < -_SKEW_MS:
        yield warning(
            name,
            f"the newest message is dated {_span(-age)} after the clock of this machine",
            "set the clocks of this machine, of the brokers and of the producers (NTP)",
        )
        return
    ahead = int(np.count_nonzero(times.ahead_of_record > _SKEW_MS))
    behind = float(np.median(-times.ahead_of_record))
    found += f"; event time is {_span(behind)} (median) before the time stamp of the message"
    if ahead:
        share = ahead / len(times.ahead_of_record)
        most = float(np.max(times.ahead_of_record))
        yield warning(
            name,
            f"{ahead:,} events ({share:.1%}) are dated after their own message, by up to {_span(most)}: event time drives "
            "releases, months and windows",
            "correct the clock of the producer of ts, or its unit (milliseconds since the epoch)",
        )
    else:
        yield ok(name, found)


def _span(ms: float) -> str:
    """A length of time in words.

    >>> _span(1500), _span(90_000), _span(7_200_000), _span(200_000_000)
    ('1.5 s', '1.5 min', '2.0 h', '2.3 days')
    """
    seconds = ms / 1000
    for limit, unit, size in ((60, "s", 1), (3600, "min", 60), (86_400, "h", 3600)):
        if abs(seconds) < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"
