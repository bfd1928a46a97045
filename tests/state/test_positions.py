"""Positions never move back, and the identity of the log follows what each step reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ecdctr.state.positions import LogIdentity, Part, Positions


class Origin:
    def __init__(self, topic_ids: Mapping[str, str], epoch: int | None) -> None:
        self.topic_ids, self._epoch = topic_ids, epoch

    def epoch(self, part: Part) -> int | None:
        return self._epoch

    def decisions(self, parts: Sequence[Part]) -> dict[str, Any]:
        return {"refused": len(parts)}


def test_a_part_that_was_passed_does_not_move_its_partition_back() -> None:
    positions = Positions({("ads", 0): 9})
    positions.advance([Part("ads", 0, 2, 5), Part("ads", 1, 0, 3)])
    assert positions == {("ads", 0): 9, ("ads", 1): 3}


def test_an_epoch_that_becomes_unknown_is_forgotten() -> None:
    identity = LogIdentity({"ads": "old"}, {("ads", 0): 3, ("ads", 1): 7})
    change = identity.changes([Part("ads", 0, 0, 5)], Origin({}, None))
    assert change == {"epochs": {"ads": {"0": None}}}
    identity.apply(change)
    assert identity.to_json() == {"topics": {"ads": "old"}, "epochs": {"ads": {"1": 7}}}
    assert identity.changes([Part("ads", 0, 5, 9)], Origin({}, None)) == {}


def test_a_topic_that_was_created_again_has_its_new_id() -> None:
    identity = LogIdentity({"ads": "old"}, {("ads", 0): 3})
    change = identity.changes([Part("ads", 0, 0, 5)], Origin({"ads": "new"}, 3))
    assert change == {"topics": {"ads": "new"}}
    identity.apply(change)
    assert identity.to_json() == {"topics": {"ads": "new"}, "epochs": {"ads": {"0": 3}}}


def test_an_entry_records_what_changed_and_what_was_decided_and_nothing_that_is_empty() -> None:
    identity, parts = LogIdentity({"ads": "old"}, {("ads", 0): 3}), [Part("ads", 0, 0, 5)]
    assert identity.journaled(parts, None) == {}
    changed = {"log": {"topics": {"ads": "new"}}, "times": {"refused": 1}}
    assert identity.journaled(parts, Origin({"ads": "new"}, 3)) == changed
    assert identity.journaled(parts, Origin({"ads": "old"}, 3)) == {"times": {"refused": 1}}
    assert identity.journaled([], Origin({"ads": "new"}, 3)) == {}
