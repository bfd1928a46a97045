"""What a log no longer holds, and what proves it."""

import pytest

from ecdctr.events.kafka import LogState, LossKind, losses
from ecdctr.state.positions import LogIdentity

KEY = ("ads", 0)
SAME = LogIdentity({"ads": "A"}, {KEY: 3})


def found(
    needed: int, reached: int, beginning: int, end: int, *, epoch_end=None, topic_id="A", identity=SAME
):
    ends = {} if epoch_end is None else {KEY: epoch_end}
    state = LogState({KEY: beginning}, {KEY: end}, {"ads": topic_id} if topic_id else {}, ends)
    return losses({KEY: needed}, {KEY: reached}, identity, state)


@pytest.mark.parametrize(
    ("needed", "reached", "beginning", "end", "epoch_end"),
    [
        (50, 50, 0, 50, 50),
        (50, 50, 50, 90, 90),
        (10, 50, 10, 90, 50),
        (0, 0, 0, 0, None),
        (50, 50, 0, 90, None),
    ],
)
def test_a_log_that_holds_everything_has_no_loss(needed, reached, beginning, end, epoch_end):
    assert found(needed, reached, beginning, end, epoch_end=epoch_end) == []


def test_a_topic_made_anew_is_found_even_if_it_has_grown_beyond_the_positions():
    (loss,) = found(50, 50, 0, 90, epoch_end=90, topic_id="B")
    assert loss.kind == LossKind.MADE_ANEW and loss.same_until == 0
    assert "its id was A, now it is B" in str(loss)
    assert found(0, 0, 0, 90, topic_id="B") == [], "nothing was learned from the old one"


def test_an_epoch_that_ends_before_the_position_is_a_cut_even_if_the_log_has_grown():
    (loss,) = found(50, 50, 0, 90, epoch_end=30)
    assert loss.kind == LossKind.CUT and loss.same_until == 30
    assert "cut it at offset 30 (leader epoch 3, which was read up to 50, ends there)" in str(loss)


def test_a_log_that_ends_early_says_what_is_unknown():
    (loss,) = found(50, 50, 0, 40)
    assert loss.kind == LossKind.SHORT and loss.same_until == 40
    assert "it ends before offset 50" in str(loss) and "no topic id" not in str(loss)
    (loss,) = found(50, 50, 0, 40, identity=LogIdentity())
    assert "no topic id and leader epoch" in str(loss)


def test_records_that_retention_deleted_unlearned_are_counted_from_what_is_needed():
    (loss,) = found(50, 70, 60, 90)
    assert loss.kind == LossKind.DELETED
    assert "offsets 50 to 60 were deleted before they were learned (retention)" in str(loss)


def test_without_ids_on_either_side_nothing_is_concluded():
    assert found(50, 50, 0, 90, topic_id=None) == []
    assert found(50, 50, 0, 90, topic_id="B", identity=LogIdentity()) == []


def test_a_topic_that_is_not_shown_proves_nothing_and_a_partition_that_is_missing_does():
    other = LogState({("natural", 0): 0}, {("natural", 0): 9})
    assert losses({KEY: 50}, {KEY: 50}, SAME, other) == []
    fewer = LogState({("ads", 1): 0}, {("ads", 1): 9}, {"ads": "A"})
    (loss,) = losses({KEY: 50}, {KEY: 50}, SAME, fewer)
    assert loss.kind == LossKind.NO_PARTITION and 'topic "ads" partition 0' in str(loss)
