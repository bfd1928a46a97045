"""``HealthReport``: turns what the watch, the intake and the engine know into the reasons of the worker's health."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ecdctr.events.kafka import GroupMember, LogProblem, LogProblemKind
from ecdctr.monitor.dashboard import Health, Reason
from ecdctr.streams.broker_watch import WatchState
from ecdctr.streams.health.lag import LagReport, lag_report, name_partitions
from ecdctr.streams.health.rejects import RejectShare
from ecdctr.streams.health.transactions import OpenTransactions

__all__ = ["Counts", "HealthReport"]

Key = tuple[str, int]

_REASONS = {
    LogProblemKind.NO_BROKER: Reason.WAITING_FOR_BROKER,
    LogProblemKind.RIGHT: Reason.RIGHT_MISSING,
    LogProblemKind.PASSWORD: Reason.PASSWORD_REFUSED,
    LogProblemKind.CERTIFICATE: Reason.CERTIFICATE_REFUSED,
    LogProblemKind.NO_LEADER: Reason.NO_LEADER,
    LogProblemKind.TOPIC_MISSING: Reason.TOPIC_MISSING,
}
_REFUSED = (LogProblemKind.RIGHT, LogProblemKind.PASSWORD, LogProblemKind.CERTIFICATE)


@dataclass(frozen=True, slots=True)
class Counts:
    """Totals since the start.

    Attributes
    ----------
    rows
        Rows learned.
    rejected
        Rejected events by reason.
    examples
        The last rejected event of each reason, as ``ads[0] at offset 4: ts is 5``.
    """

    rows: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)


class HealthReport:
    """Reports the reasons that are found in the state of the brokers and of the intake; called about once per second.

    Parameters
    ----------
    health
        Receives the conditions.
    topics
        The click topics.
    now
        Monotonic seconds.
    """

    def __init__(
        self, health: Health, topics: Iterable[str], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._health, self._topics, self._now = health, tuple(topics), now
        self._rejects = RejectShare()
        self._transactions = OpenTransactions()
        self._since: dict[Reason, float] = {}

    def update(
        self,
        state: WatchState,
        learned: Mapping[Key, int],
        counts: Counts,
        consumer: str | None = None,
        damaged: Mapping[Key, str] | None = None,
        stalled: str | None = None,
    ) -> LagReport:
        """Set the conditions of :class:`Health`, and return the lag.

        Parameters
        ----------
        state
            What the watch over the brokers knows.
        learned
            Next offset to learn of each partition.
        counts
            Rows and rejected events.
        consumer
            Why the consumer could not connect the last time; None if it is connected.
        damaged
            The partitions whose next batch is damaged, each with a sentence.
        stalled
            See :meth:`ecdctr.streams.intake.StallWatch.sentence`.
        """
        now = self._now()
        lag = lag_report(state, learned, self._topics, now)
        self._set(self._of_brokers(state, lag, consumer, now))
        self._health.condition(Reason.DAMAGED_RECORDS, "; ".join((damaged or {}).values()) or None)
        self._health.condition(Reason.STALLED, stalled)
        self._health.condition(Reason.OTHER_MEMBER, _others(state.members))
        held = {key: n for key, n in state.held.items() if key not in state.unknown(now)}
        self._health.condition(Reason.OPEN_TRANSACTION, self._transactions.sentence(now, state.ends, held))
        self._health.condition(
            Reason.ONLY_DEAD_LETTERS,
            self._rejects.sentence(now, counts.rows, counts.rejected, counts.examples),
        )
        self._health.condition(Reason.WRONG_TIMES, self._rejects.of_times())
        return lag

    def _set(self, found: Mapping[Reason, str]) -> None:
        for reason in _REASONS.values():
            self._health.condition(reason, found.get(reason))

    def _of_brokers(
        self, state: WatchState, lag: LagReport, consumer: str | None, now: float
    ) -> dict[Reason, str]:
        """The conditions of brokers, topics and partitions."""
        problems: dict[Reason, list[LogProblem]] = {}
        for problem in state.problems:
            problems.setdefault(_REASONS[problem.kind], []).append(problem)
        self._since = {reason: self._since.get(reason, now) for reason in problems}
        found = {
            reason: _described(together, now - self._since[reason], now - state.answered_at)
            for reason, together in problems.items()
        }
        unknown = state.unknown(now)
        if unknown and not found:
            oldest = min((state.reported_at.get(key, state.answered_at) for key in unknown), default=now)
            found[Reason.WAITING_FOR_BROKER] = (
                f"where {name_partitions(unknown)} ends has not been reported for {now - oldest:.0f} s; training continues when the "
                "broker answers"
            )
        elif not state.partitions and not found and now - state.answered_at > _FIRST_ANSWER_S:
            found[Reason.WAITING_FOR_BROKER] = f"no broker has answered for {now - state.answered_at:.0f} s"
        if consumer is not None and not found and lag.total != 0:
            found[Reason.WAITING_FOR_BROKER] = consumer
        return found


_FIRST_ANSWER_S = 5.0
_NAMED_MEMBERS = 3


def _others(members: Sequence[GroupMember]) -> str | None:
    """The sentence about members of the group; the first few are named."""
    if not members:
        return None
    if len(members) == 1:
        return f"the consumer group has another member: {members[0]}. It takes no records from this worker"
    named = ", ".join(map(str, members[:_NAMED_MEMBERS]))
    more = len(members) - _NAMED_MEMBERS
    rest = f" and {more} more" if more > 0 else ""
    return f"the consumer group has {len(members)} other members: {named}{rest}. They take no records from this worker"


def _described(problems: list[LogProblem], lasted_s: float, silent_s: float) -> str:
    """One sentence for all problems of one reason."""
    first = problems[0]
    texts = "; ".join(dict.fromkeys(problem.text for problem in problems))
    if first.kind in _REFUSED:
        return f"the brokers have refused requests for {lasted_s:.0f} s: {texts}; training continues when they accept them"
    if first.kind is LogProblemKind.NO_BROKER and not first.partitions:
        return f"no broker has answered for {silent_s:.0f} s ({texts}); training continues when one does"
    return texts
