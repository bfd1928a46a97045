"""The broker refuses to fetch from a position: only repeated looks at the log decide that its records are gone."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from faust.types import TP

from ecdctr.state.errors import OffsetsLostError
from ecdctr.streams.intake import consumer as consumer_module
from ecdctr.streams.intake.consumer import LogConsumer

ADS = TP("ads", 0)


class Consumer:
    """What :meth:`LogConsumer._check_refused` uses; the position is 10. ``looks``: beginning and end at each look."""

    def __init__(self, *looks: tuple[int, int]) -> None:
        self.looks = list(looks)
        self.failures: list[BaseException] = []
        self.app = SimpleNamespace(fail=self.failures.append)
        self._keeper = SimpleNamespace(position=lambda *_: 10)
        self._missing: dict[TP, float] = {}
        self._thread = SimpleNamespace(
            call_thread=self.ends, _ensure_consumer=lambda: SimpleNamespace(end_offsets=None)
        )

    async def earliest_offsets(self, tp):
        return {tp: self.looks[0][0]}

    async def ends(self, _, tps):
        return dict.fromkeys(tps, self.looks.pop(0)[1])


@pytest.mark.parametrize(
    ("looks", "lost"),
    [
        ([(12, 20), (12, 20)], "ads[0] begins at offset 12, training needs 10"),
        ([(0, 5), (0, 5)], "ads[0] ends at 5, learned up to 10"),
        ([(12, 20), (0, 20)], None),
        ([(0, 5), (0, 20)], None),
        ([(12, 20), (0, 20), (12, 20)], None),  # not in a row
    ],
)
def test_one_look_does_not_decide(monkeypatch, looks, lost):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(consumer_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    made = Consumer(*looks)
    asyncio.run(LogConsumer._check_refused(made, ADS))
    assert not made.failures, "the first look decides nothing"
    while made.looks:
        asyncio.run(LogConsumer._check_refused(made, ADS))
    assert len(made.failures) == (lost is not None)
    assert all(lost in str(error) for error in made.failures)
    assert all(isinstance(error, OffsetsLostError) for error in made.failures)
