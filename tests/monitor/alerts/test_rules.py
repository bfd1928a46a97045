"""Alert rules: alerts are raised once after the hold time and resolved once."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.monitor.alerts.rules import Measurement, RuleBook
from ecdctr.monitor.settings import RuleSpec

HOUR = 3_600_000


def run(rule, values, step=HOUR):
    """Events as (hour, raised or resolved); None in ``values``: unknown."""
    book = RuleBook([rule])
    out = []
    for i, v in enumerate(values):
        measured = [Measurement("ad", v, f"value {v}", "why")]
        for event in book.update(i * step, lambda _, m=measured: m):
            out.append((i, "raised" if event.resolved_ms is None else "resolved"))
    return out, book


def test_raised_after_hold_and_resolved_after_clear():
    rule = RuleSpec(name="r", metric="pcoc", above=2.0, hold="2h", clear="3h")
    events, book = run(rule, [1, 3, 3, 3, 3, 1, 1, 1, 1, 1])
    assert events == [(3, "raised"), (8, "resolved")]
    assert book.raised() == []


def test_a_flicker_is_neither_raised_nor_resolved():
    rule = RuleSpec(name="r", metric="pcoc", above=2.0, hold="2h", clear="2h")
    assert run(rule, [3, 1, 3, 1, 3, 1])[0] == []
    assert run(rule, [3, 3, 3, 1, 3, 1, 3, 1])[0] == [(2, "raised")]


def test_an_alert_has_its_start_value_limit_and_cause():
    _, book = run(
        RuleSpec(name="low", metric="ctr", below=0.5, hold="1h", severity="critical"), [1, 0.2, 0.1]
    )
    (alert,) = book.raised()
    assert alert.to_json() == {
        "key": "low:ad",
        "rule": "low",
        "severity": "critical",
        "what": "value 0.1",
        "since_ms": HOUR,
        "raised_ms": 2 * HOUR,
        "value": 0.1,
        "limit": 0.5,
        "cause": "why",
        "resolved_ms": None,
        "status": "raised",
    }


def test_an_unknown_value_keeps_an_alert_and_a_missing_subject_resolves_it():
    rule = RuleSpec(name="r", metric="drift.feature", clear="1h")
    events, book = run(rule, [2, None, None, None])
    assert events == [(0, "raised")] and book.raised()
    assert book.update(5 * HOUR, lambda _: []) == []
    (resolved,) = book.update(7 * HOUR, lambda _: [])
    assert resolved.resolved_ms == 7 * HOUR


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0.0, 5.0, None]), max_size=60), st.integers(0, 3), st.integers(0, 3))
def test_raised_and_resolved_alternate(values, hold, clear):
    rule = RuleSpec(name="r", metric="pcoc", above=2.0, hold=f"{hold}h", clear=f"{clear}h")
    events, book = run(rule, values)
    kinds = [kind for _, kind in events]
    assert kinds == ["raised", "resolved"] * (len(kinds) // 2) + ["raised"] * (len(kinds) % 2)
    assert bool(book.raised()) == bool(len(kinds) % 2)
