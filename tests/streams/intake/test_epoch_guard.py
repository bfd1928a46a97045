"""Records of a new leader are compared before they are learned."""

import pytest

from ecdctr.events.kafka import LeaderEpochs
from ecdctr.state.errors import BrokerRefusedError, BrokerUnavailableError, ConfigError, OffsetsLostError
from ecdctr.state.positions import LogIdentity, Positions
from ecdctr.streams.intake import EpochGuard
from tests.support.batches import batch

KEY = ("ads", 0)


class Log:
    timeout_s = 60.0

    def __init__(self, *ends: int) -> None:
        self.ends = list(ends)

    def pause(self, seconds): ...

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def epoch_ends(self, epochs):
        assert epochs == {KEY: 3}
        return {KEY: self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]}


def guard(*ends: int, answers_at: int = 1, error: Exception | None = None) -> EpochGuard:
    """A guard of records that were read up to 50 in epoch 3, which ends at ``ends`` when it is asked for, and then from 50 on in epoch 5."""
    epochs = LeaderEpochs({}, Positions({KEY: 50}), LogIdentity(epochs={KEY: 3}))
    epochs.observe(*KEY, batch(50, 60, 5))
    attempts = []

    def connect():
        attempts.append(1)
        if len(attempts) < answers_at:
            raise error or BrokerUnavailableError("no broker answers")
        return Log(*ends)

    return EpochGuard(epochs, connect, lambda: False)


def test_one_look_does_not_decide_that_the_log_was_cut():
    made = guard(20, 50)
    made.check(*KEY, 55)
    assert not made.is_due(*KEY, 55)


def test_the_records_of_a_new_leader_are_learned_if_nothing_was_cut():
    made = guard(50, answers_at=2)
    assert made.is_due(*KEY, 55)
    made.check(*KEY, 55)
    assert not made.is_due(*KEY, 55)


@pytest.mark.parametrize(
    "error", [BrokerRefusedError("the right Read is missing"), ConfigError("no such file")]
)
def test_a_connection_that_is_refused_for_a_while_does_not_end_the_worker(error):
    made = guard(50, answers_at=3, error=error)
    made.check(*KEY, 55)
    assert not made.is_due(*KEY, 55)


def test_the_records_of_a_new_leader_are_not_learned_after_a_cut():
    made = guard(20)
    with pytest.raises(
        OffsetsLostError, match=r"ads\[0\] was cut at offset 20 .*leader epoch 3 was read up to offset 50"
    ):
        made.check(*KEY, 55)
    assert made.is_due(*KEY, 55), "it is found again"
