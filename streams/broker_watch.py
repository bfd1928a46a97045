"""``BrokerWatch``: where the click topics end now, and what is wrong with the brokers, requested every two seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from ecdctr.events.kafka import GroupMember, LogEnds, LogProblem, LogProblemKind
from ecdctr.state.errors import OffsetsLostError

__all__ = ["BrokerWatch", "WatchState"]

log = logging.getLogger("ecdctr.worker")
Key = tuple[str, int]

EVERY_S = 2.0
MEMBERS_S = 20.0
"""Interval between two requests for the members of the consumer group."""
STALE_S = 4.5
"""Age from which the reported end of a partition is no longer known: two requests have failed."""
_AT_ONCE = (LogProblemKind.RIGHT, LogProblemKind.PASSWORD, LogProblemKind.CERTIFICATE)


class Reader(Protocol):
    """The methods of :class:`ecdctr.events.kafka.EndsReader` that the watch needs; used in one event loop."""

    async def read(self) -> LogEnds:
        """Ask the brokers; takes some seconds at most."""
        ...

    async def members(self, group: str) -> tuple[GroupMember, ...]:
        """The members of a consumer group."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


@dataclass(frozen=True, slots=True)
class WatchState:
    """What the watch knows; never changed, but replaced as a whole.

    Attributes
    ----------
    ends
        Last reported end of each partition, that is, the next offset to be read (exclusive; under ``read_committed`` the last stable
        offset).
    reported_at
        When each of these ends was reported, monotonic seconds.
    partitions
        All partitions of the click topics that the brokers have shown, also new ones and those without an end.
    problems
        What is wrong now.
    answered_at
        When a broker last answered, monotonic seconds.
    held
        Records of each partition that are written but not readable, because they come after an open transaction; only partitions
        with such records.
    members
        The members of the consumer group that is watched, requested every :data:`MEMBERS_S` seconds.
    """

    ends: Mapping[Key, int] = field(default_factory=dict)
    reported_at: Mapping[Key, float] = field(default_factory=dict)
    partitions: frozenset[Key] = frozenset()
    problems: tuple[LogProblem, ...] = ()
    answered_at: float = 0.0
    held: Mapping[Key, int] = field(default_factory=dict)
    members: tuple[GroupMember, ...] = ()

    def unknown(self, now: float) -> frozenset[Key]:
        """The partitions whose end is not known at ``now`` (monotonic seconds): it was never reported, or is out of date."""
        return frozenset(
            key for key in self.partitions if now - self.reported_at.get(key, -float("inf")) > STALE_S
        )

    def lag(self, positions: Mapping[Key, int], topic: str, now: float) -> int | None:
        """Records of a topic after these positions (a partition without a position counts from 0); None while it is not known."""
        keys = [key for key in self.partitions if key[0] == topic]
        if not keys or any(key[0] == topic for key in self.unknown(now)):
            return None
        return sum(max(0, self.ends[key] - positions.get(key, 0)) for key in keys)


class BrokerWatch:
    """Requests the ends of the click topics every :data:`EVERY_S` seconds, in a daemon thread with an event loop of its own.

    The consumer's own client waits for lost brokers without a limit or a message, knows an end only as of its last fetch, and cannot
    distinguish a broker that came back with an empty log from one without new records.

    Parameters
    ----------
    reader
        Asks the brokers.
    positions
        Returns the next offset of every partition.
    on_lost
        Called once, in the thread of this class, when two checks in a row found that the log ends before a position. One check is
        not enough: a broker that has just come back may not report all of its records yet. A topic that is not shown proves nothing:
        the right to see it may be missing.
    group
        Consumer group whose members are requested; empty: none.
    now
        Monotonic seconds.
    """

    def __init__(
        self,
        reader: Reader,
        positions: Callable[[], Mapping[Key, int]],
        on_lost: Callable[[OffsetsLostError], None],
        group: str = "",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader, self._positions, self._on_lost, self._now = reader, positions, on_lost, now
        self._group, self._members_at = group, -float("inf")
        self._ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self.state = WatchState(answered_at=now())
        self._previous: tuple[LogProblem, ...] = ()
        self._short = False  # whether the previous check found that the log ends before a position

    # -- results, from any thread

    @property
    def ends(self) -> Mapping[Key, int]:
        """Last reported end of each partition; see :class:`WatchState`."""
        return self.state.ends

    @property
    def answered_at(self) -> float:
        """When a broker last answered, monotonic seconds."""
        return self.state.answered_at

    @property
    def problems(self) -> tuple[LogProblem, ...]:
        """What is wrong now. A refusal is listed at once, everything else when two requests in a row have found it."""
        return self.state.problems

    def unknown(self) -> frozenset[Key]:
        """The partitions whose end is not known now."""
        return self.state.unknown(self._now())

    # -- start and end

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="broker-watch", daemon=True).start()

    def stop(self) -> None:
        """Make no further requests; one that is running is abandoned and not waited for."""
        self._ended.set()
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):  # it has ended in the meantime
                loop.call_soon_threadsafe(task.cancel)

    # -- in the thread

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._request())

    async def _request(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            while not self._ended.is_set():
                began = self._now()
                try:
                    known = dict(
                        self._positions()
                    )  # before the request: a position is then not ahead of an older end
                    self._take(await self._reader.read(), known)
                    await self._take_members()
                except OffsetsLostError as error:
                    if not self._ended.is_set():
                        self._on_lost(error)
                    return
                except Exception:  # the next request may succeed; until then the ends become unknown
                    log.debug("the ends of the topics could not be requested", exc_info=True)
                await asyncio.sleep(max(0.0, EVERY_S - (self._now() - began)))
        finally:
            await self._reader.close()

    def _take(self, found: LogEnds, known: Mapping[Key, int]) -> None:
        """Publish what was found; raise OffsetsLostError if it proves that records are gone."""
        now, old = self._now(), self.state
        others = {key for key in old.partitions if key[0] not in found.shown}
        partitions = frozenset(others.union(*found.shown.values()))
        ends = {key: end for key, end in {**old.ends, **found.ends}.items() if key in partitions}
        reported_at = {key: at for key, at in old.reported_at.items() if key in partitions}
        reported_at |= dict.fromkeys(found.ends, now)
        problems = tuple(p for p in found.problems if p.kind in _AT_ONCE or self._seen_before(p))
        self._previous = found.problems
        self.state = replace(
            old,
            ends=ends,
            reported_at=reported_at,
            partitions=partitions,
            problems=problems,
            answered_at=now if found.answered else old.answered_at,
            held=_held(old.held, found, partitions),
        )
        self._check(found, known)

    async def _take_members(self) -> None:
        if not self._group or self._now() - self._members_at < MEMBERS_S:
            return
        self._members_at = self._now()
        try:
            self.state = replace(self.state, members=await self._reader.members(self._group))
        except (
            Exception
        ) as error:  # only a notice depends on it; the right to describe the group may be missing
            log.debug("the members of the group %s are not known: %r", self._group, error)

    def _seen_before(self, problem: LogProblem) -> bool:
        return any(
            old.kind is problem.kind
            and (not (old.partitions or problem.partitions) or {*old.partitions} & {*problem.partitions})
            for old in self._previous
        )

    def _check(self, found: LogEnds, known: Mapping[Key, int]) -> None:
        short = []
        for key, at in sorted(known.items()):
            if key in found.written:
                end = found.written[key]
            elif key[0] in found.shown and key not in found.shown[key[0]]:  # made anew with fewer partitions
                end = 0
            else:
                continue
            if at > end:
                short.append((key, at, end))
        if not short:
            self._short = False
        elif not self._short:
            self._short = True
            log.debug("first check, the next one in %.0f s decides: %s", EVERY_S, short)
        else:
            where = ", ".join(f"{t}[{p}] ends at {end}, learned up to {at}" for (t, p), at, end in short)
            raise OffsetsLostError(
                f"the log is no longer the one that was learned from, as two checks found: {where}. "
                "Start again: the worker then reports what --reset-offsets earliest, latest or checkpoint would lose or double"
            )


def _held(old: Mapping[Key, int], found: LogEnds, partitions: frozenset[Key]) -> dict[Key, int]:
    """The records after open transactions: of partitions that were not asked now, as they were known before."""
    held = {key: n for key, n in old.items() if key in partitions}
    held |= {key: written - found.ends[key] for key, written in found.written.items() if key in found.ends}
    return {key: n for key, n in held.items() if n > 0}
