"""``RejectShare``: whether all, or nearly all, of the events that arrive are rejected."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["RejectShare"]

SHARE = 0.9
WINDOWS = ((15.0, 200), (300.0, 20))
"""Seconds, and the rejected events in them that are enough: of a busy stream in the last seconds, of a slow one in minutes."""
TIMES_SHARE, TIMES_ENOUGH = 0.01, 20
"""Share and number of events of the last minutes that are rejected for their times, from which on they are reported."""
_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    rows: int
    letters: Counter[str]


class RejectShare:
    """Compares the counts of learned rows and of rejected events over the last seconds.

    Examples
    --------
    >>> share = RejectShare()
    >>> share.sentence(0.0, 0, {}, {}), share.sentence(10.0, 5, {"ts": 300}, {"ts": "ads[0] at offset 4: ts is 5"})
    (None, '98% of the last 305 events were rejected (1,800 per minute): ts (300), for example ads[0] at offset 4: ts is 5')
    """

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self._example = ""

    def sentence(
        self, now: float, rows: int, letters: Mapping[str, int], examples: Mapping[str, str]
    ) -> str | None:
        """The sentence of the reason, or None while enough events are valid; called about once per second.

        Parameters
        ----------
        now
            Monotonic seconds.
        rows, letters
            Rows learned, and events rejected by reason, since the start.
        examples
            The last rejected event of each reason: where it was read, and what is wrong with which field.
        """
        samples = self._samples
        self._example = examples.get("ts", "")
        if not samples or now - samples[-1].at >= _EVERY_S:
            samples.append(_Sample(now, rows, Counter(letters)))
        while len(samples) > 1 and now - samples[1].at > WINDOWS[-1][0]:
            samples.popleft()
        for seconds, enough in WINDOWS:
            old = next(s for s in samples if now - s.at <= seconds or s is samples[-1])
            rejected = Counter(letters) - old.letters
            total = rejected.total()
            events = total + max(0, rows - old.rows)
            if total < enough or total < SHARE * events:
                continue
            per_minute = 60 * total / max(now - old.at, _EVERY_S)
            reasons = ", ".join(f"{reason} ({n:,})" for reason, n in rejected.most_common(3))
            example = examples.get(rejected.most_common(1)[0][0])
            return (
                f"{total / events:.0%} of the last {events:,} events were rejected ({per_minute:,.0f} per minute): {reasons}"
                + (f", for example {example}" if example else "")
            )
        return None

    def of_times(self) -> str | None:
        """A sentence if many of the events of the last minutes were rejected for their times; call it after :meth:`sentence`.

        >>> share = RejectShare()
        >>> for at, rows, letters in ((0.0, 0, {}), (60.0, 900, {"ts": 50})):
        ...     _ = share.sentence(at, rows, letters, {"ts": "ads[0] at offset 4: ts is 4070908800000 (2099-01-01)"})
        >>> share.of_times()
        '50 of the last 950 events were rejected for their times, for example ads[0] at offset 4: ts is 4070908800000 (2099-01-01)'
        """
        if not self._samples:
            return None
        old, new = self._samples[0], self._samples[-1]
        rejected = new.letters - old.letters
        events = rejected.total() + max(0, new.rows - old.rows)
        if rejected["ts"] < TIMES_ENOUGH or rejected["ts"] < TIMES_SHARE * events:
            return None
        found = f"{rejected['ts']:,} of the last {events:,} events were rejected for their times"
        return found + (f", for example {self._example}" if self._example else "")
