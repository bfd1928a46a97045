"""Leader epochs of fetched records, from the headers of raw batches."""

import asyncio

from aiokafka.protocol.fetch import FetchRequest

from ecdctr.events.kafka import LeaderEpochs, observe_fetches
from ecdctr.state.positions import LogIdentity, Part, Positions
from tests.support.batches import batch

KEY = ("ads", 0)


def known(position: int, epoch: int | None) -> LeaderEpochs:
    identity = LogIdentity(epochs={} if epoch is None else {KEY: epoch})
    return LeaderEpochs({}, Positions({KEY: position}), identity)


def epoch_of(epochs: LeaderEpochs, offset: int) -> int | None:
    return epochs.epoch(Part(*KEY, 0, offset + 1))


def test_each_offset_has_the_epoch_of_its_batch():
    epochs = known(0, None)
    epochs.observe(*KEY, batch(0, 3, 1) + batch(3, 5, 1) + batch(5, 9, 4))
    epochs.observe(*KEY, batch(9, 12, 6))
    assert [epoch_of(epochs, o) for o in (0, 2, 3, 4, 5, 8, 9, 11, 12)] == [1, 1, 1, 1, 4, 4, 6, 6, None]


def test_a_cut_batch_and_old_formats_are_left_out():
    epochs = known(0, None)
    epochs.observe(*KEY, batch(0, 3, 1) + batch(3, 5, 2)[:-1])
    assert epoch_of(epochs, 3) is None
    epochs.observe("old", 0, batch(0, 3, 1, magic=1))
    assert epochs.epoch(Part("old", 0, 0, 1)) is None
    epochs.observe("none", 0, batch(0, 3, -1))
    assert epochs.epoch(Part("none", 0, 0, 1)) is None


def test_what_was_read_in_an_earlier_epoch_is_compared_once():
    epochs = known(7, 3)
    epochs.observe(*KEY, batch(7, 9, 3) + batch(9, 12, 4) + batch(12, 20, 7))
    assert epochs.unchecked(*KEY, 8) == []
    assert epochs.unchecked(*KEY, 9) == [(3, 9)]
    epochs.set_checked(*KEY, 9)
    assert epochs.unchecked(*KEY, 11) == []
    assert epochs.unchecked(*KEY, 15) == [(4, 12)]


def test_an_epoch_that_was_read_beyond_the_first_record_of_the_next_is_a_cut():
    """An unclean election at offset 50; the batch of the new leader that holds the position 60 begins before it."""
    epochs = known(60, 3)
    epochs.observe(*KEY, batch(50, 70, 5))
    assert epochs.unchecked(*KEY, 60) == [(3, 60)], (
        "epoch 3 was read up to 60, whatever the new log begins with"
    )
    assert epoch_of(epochs, 69) == 5


def test_records_that_are_fetched_again_change_nothing():
    epochs = known(0, None)
    epochs.observe(*KEY, batch(0, 3, 1) + batch(3, 9, 2) + batch(9, 12, 3))
    epochs.observe(*KEY, batch(3, 9, 2) + batch(9, 12, 3) + batch(12, 14, 3))
    assert [epoch_of(epochs, o) for o in (2, 3, 9, 13)] == [1, 2, 3, 3]
    assert epochs.unchecked(*KEY, 13) == [(1, 3), (2, 9)]


def test_offsets_that_were_not_observed_have_no_epoch():
    epochs = known(5, 1)
    epochs.observe(*KEY, batch(20, 25, 1))
    assert epoch_of(epochs, 30) is None
    epochs.observe(*KEY, batch(40, 45, 2))
    assert epoch_of(epochs, 30) is None
    assert epochs.epoch(Part("other", 0, 0, 5)) is None


class Client:
    def __init__(self, response):
        self.response = response

    async def send(self, node_id, request, *, group=None):
        return self.response


class Response:
    topics = (("ads", [(0, 0, 9, 9, None, batch(0, 3, 8)), (1, 0, 9, 9, None, b"")]),)


def test_every_fetch_response_of_a_client_is_observed_before_it_is_returned():
    request = FetchRequest.__new__(FetchRequest)
    client, epochs = Client(Response), known(0, None)
    observe_fetches(client, epochs)
    observe_fetches(client, epochs)
    assert asyncio.run(client.send(1, request)) is Response
    assert epoch_of(epochs, 2) == 8
    client.response = object()
    asyncio.run(client.send(1, "another request", group="coordination"))
