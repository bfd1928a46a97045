"""Positions never move back, and the identity of the log follows what each step reports."""

from __future__ import annotations

from collections.abc import Mapping

from ecdctr.state.positions import LogIdentity, Part, Positions


class Origin:
    def __init__(self, topic_ids: Mapping[str, str], epoch: int | None) -> None:
        self.topic_ids, self._epoch = topic_ids, epoch

    def epoch(self, part: Part) -> int | None:
        return self._epoch


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
