"""Alert rules: raised once, resolved once, never repeated in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ecdctr.events.time import duration_ms
from ecdctr.monitor.settings import RuleSpec

__all__ = ["Alert", "Measurement", "RuleBook"]


@dataclass(frozen=True, slots=True)
class Alert:
    """A finding that somebody should act on.

    Attributes
    ----------
    key
        Names the rule and what it is about; the same while the alert lasts.
    rule, severity
        Of the configuration.
    what
        In a sentence.
    since_ms
        Event time from which the cause was there.
    raised_ms, resolved_ms
        Event time; ``resolved_ms`` None: still raised.
    value, limit
        How large, and what would have been well.
    cause
        Likely cause, in a sentence.
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

    def to_json(self) -> dict[str, Any]:
        """Plain data, with ``status`` ("raised" or "resolved")."""
        return {**asdict(self), "status": "raised" if self.resolved_ms is None else "resolved"}


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a rule looks at, now.

    Attributes
    ----------
    about
        Tells the things apart that one rule watches (domain, arm, feature).
    value
        None: nothing can be said; an alert that is raised stays as it is.
    what, cause
        Sentences for the alert.
    since_ms
        From when on, where that is known better than by looking; else None.
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
    """The state of every alert.

    One (rule, thing) goes: well -> bad for ``hold`` -> *raised* -> well for ``clear`` -> *resolved*. Nothing is said in between.

    Parameters
    ----------
    rules
        Of the configuration. Neither ``above`` nor ``below``: 1 and more is bad (the drift figures are in such units).
    """

    def __init__(self, rules: Sequence[RuleSpec]) -> None:
        self.rules = tuple(rules)
        self._states: dict[str, _State] = {}

    def update(
        self, clock_ms: int, measure: Callable[[RuleSpec], Sequence[Measurement] | None]
    ) -> list[Alert]:
        """Look at everything again; gives what was raised or resolved by it.

        A thing that ``measure`` no longer speaks of is well; where it gives None, nothing can be said and all stays as it is.
        """
        out: list[Alert] = []
        for rule in self.rules:
            met = set()
            found = measure(rule)
            if found is None:
                continue
            for m in found:
                key = f"{rule.name}:{m.about}"
                met.add(key)
                if m.value is None or not math.isfinite(m.value):
                    continue
                limit = _broken(rule, m.value)
                if limit is not None:
                    out += self._bad(key, rule, m, limit, clock_ms)
                else:
                    out += self._good(key, rule, clock_ms)
            for key in [k for k in self._states if k.startswith(f"{rule.name}:") and k not in met]:
                out += self._good(key, rule, clock_ms)
        return out

    def raised(self) -> list[Alert]:
        """Alerts that are up, oldest first."""
        up = [s.alert for s in self._states.values() if s.alert is not None]
        return sorted(up, key=lambda a: (a.raised_ms, a.key))

    def to_json(self) -> dict[str, Any]:
        """The state of every alert, for :meth:`restore`."""
        return {
            key: {
                "bad_since": s.bad_since,
                "good_since": s.good_since,
                "alert": None if s.alert is None else asdict(s.alert),
            }
            for key, s in self._states.items()
        }

    def restore(self, states: Mapping[str, Any], clock_ms: int) -> list[Alert]:
        """Go on from :meth:`to_json`; gives alerts of rules that are no longer configured: they are resolved by that."""
        names = {rule.name for rule in self.rules}
        gone = []
        for key, s in states.items():
            alert = None if s["alert"] is None else Alert(**s["alert"])
            if key.partition(":")[0] in names:
                self._states[key] = _State(s["bad_since"], s["good_since"], alert)
            elif alert is not None:
                gone.append(replace(alert, resolved_ms=clock_ms))
        return gone

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


def _broken(rule: RuleSpec, value: float) -> float | None:
    """The limit that the value breaks."""
    if rule.above is None and rule.below is None:
        return 1.0 if value >= 1 else None
    if rule.above is not None and value > rule.above:
        return rule.above
    if rule.below is not None and value < rule.below:
        return rule.below
    return None
