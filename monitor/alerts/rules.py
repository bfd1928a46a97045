"""Alert rules: an alert is raised once and resolved once, and never repeated in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypedDict, cast

from ecdctr.events.time import duration_ms
from ecdctr.monitor.settings import RuleSpec

__all__ = ["Alert", "AlertRecord", "Measurement", "RuleBook"]


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that somebody should act on.

    Attributes
    ----------
    key
        Identifies the rule and its subject; constant while the alert lasts.
    rule, severity
        From the configuration.
    what
        A sentence that describes the condition.
    since_ms
        Event time at which the condition began.
    raised_ms, resolved_ms
        Event time; ``resolved_ms`` None: still raised.
    value, limit
        The measured value, and the limit that it exceeded.
    cause
        A sentence that names the likely cause.
    """

    key: str
    rule: str
    severity: str
    what: str
    since_ms: int
    raised_ms: int
    value: float | None
    limit: float | None
    cause: str
    resolved_ms: int | None = None

    def to_json(self) -> AlertRecord:
        """Plain data, with ``status``."""
        record = {**asdict(self), "status": "raised" if self.resolved_ms is None else "resolved"}
        return cast("AlertRecord", record)


class AlertRecord(TypedDict):
    """An :class:`Alert` as plain data, as pages, topics and webhooks receive it."""

    key: str
    rule: str
    severity: str
    what: str
    since_ms: int
    raised_ms: int
    value: float | None
    limit: float | None
    cause: str
    resolved_ms: int | None
    status: Literal["raised", "resolved"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """The current value of one subject of a rule.

    Attributes
    ----------
    about
        The subject (domain, arm, feature): one rule may have several.
    value
        None: unknown now; a raised alert stays raised.
    what, cause
        Sentences for the alert.
    since_ms
        Event time at which the condition began, where it is known; None: the time of the first bad measurement.
    """

    about: str
    value: float | None
    what: str
    cause: str
    since_ms: int | None = None


@dataclass(slots=True)
class _State:
    bad_since: int | None = None
    good_since: int | None = None
    alert: Alert | None = None


class RuleBook:
    """The state of all alerts.

    The states of one (rule, subject) are: good -> bad for ``hold`` -> *raised* -> good for ``clear`` -> *resolved*. Nothing is reported
    in between.

    Parameters
    ----------
    rules
        From the configuration. For a rule with neither ``above`` nor ``below``, values from 1 are bad, which suits the drift metrics.
    """

    def __init__(self, rules: Sequence[RuleSpec]) -> None:
        self.rules = tuple(rules)
        self._states: dict[str, _State] = {}

    def update(
        self, clock_ms: int, measure: Callable[[RuleSpec], Sequence[Measurement] | None]
    ) -> list[Alert]:
        """Evaluate all rules; returns the alerts that were raised or resolved.

        A subject that ``measure`` no longer returns is good. If it returns None, the rule cannot be evaluated and its alerts do not
        change.
        """
        out: list[Alert] = []
        for rule in self.rules:
            measured = set()
            found = measure(rule)
            if found is None:
                continue
            for m in found:
                key = f"{rule.name}:{m.about}"
                measured.add(key)
                if m.value is None or not math.isfinite(m.value):
                    continue
                limit = _exceeded(rule, m.value)
                if limit is not None:
                    out += self._bad(key, rule, m, limit, clock_ms)
                else:
                    out += self._good(key, rule, clock_ms)
            for key in [k for k in self._states if k.startswith(f"{rule.name}:") and k not in measured]:
                out += self._good(key, rule, clock_ms)
        return out

    def raised(self) -> list[Alert]:
        """Alerts that are raised, oldest first."""
        raised = [s.alert for s in self._states.values() if s.alert is not None]
        return sorted(raised, key=lambda a: (a.raised_ms, a.key))

    def to_json(self) -> dict[str, Any]:
        """Return the state of all alerts for :meth:`restore`."""
        return {
            key: {
                "bad_since": s.bad_since,
                "good_since": s.good_since,
                "alert": None if s.alert is None else asdict(s.alert),
            }
            for key, s in self._states.items()
        }

    def restore(self, states: Mapping[str, Any], clock_ms: int) -> list[Alert]:
        """Continue from :meth:`to_json`; returns alerts of rules that are no longer configured, which are thereby resolved."""
        names = {rule.name for rule in self.rules}
        resolved = []
        for key, s in states.items():
            alert = None if s["alert"] is None else Alert(**s["alert"])
            if key.partition(":")[0] in names:
                self._states[key] = _State(s["bad_since"], s["good_since"], alert)
            elif alert is not None:
                resolved.append(replace(alert, resolved_ms=clock_ms))
        return resolved

    def _bad(self, key: str, rule: RuleSpec, m: Measurement, limit: float, now: int) -> list[Alert]:
        state = self._states.setdefault(key, _State())
        state.good_since = None
        if state.bad_since is None:
            state.bad_since = now
        if state.alert is not None or now - state.bad_since < duration_ms(rule.hold):
            return []
        since = state.bad_since if m.since_ms is None else min(m.since_ms, now)
        assert m.value is not None
        state.alert = Alert(key, rule.name, rule.severity, m.what, since, now, m.value, limit, m.cause)
        return [state.alert]

    def _good(self, key: str, rule: RuleSpec, now: int) -> list[Alert]:
        state = self._states.get(key)
        if state is None:
            return []
        state.bad_since = None
        if state.alert is None:
            del self._states[key]
            return []
        if state.good_since is None:
            state.good_since = now
        if now - state.good_since < duration_ms(rule.clear):
            return []
        del self._states[key]
        return [replace(state.alert, resolved_ms=now)]


def _exceeded(rule: RuleSpec, value: float) -> float | None:
    """The limit that the value exceeds; None: it is within the limits."""
    if rule.above is None and rule.below is None:
        return 1.0 if value >= 1 else None
    if rule.above is not None and value > rule.above:
        return rule.above
    if rule.below is not None and value < rule.below:
        return rule.below
    return None
