"""The watch over the identity of the log: one connection, and two looks in a row."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from ecdctr.events.kafka import LogState
from ecdctr.state.errors import BrokerUnavailableError
from ecdctr.state.positions import LogIdentity, Positions
from ecdctr.streams import identity_watch
from ecdctr.streams.identity_watch import IdentityWatch
from tests.support.waiting import PATIENCE_S

KEY = ("ads", 0)
SAME, OTHER = (LogState({KEY: 0}, {KEY: 90}, {"ads": topic_id}) for topic_id in ("A", "B"))


class World:
    """A watch over a topic that was learned up to 50; ``looks``: what each check finds, an error or a state."""

    def __init__(self, monkeypatch, looks) -> None:
        monkeypatch.setattr(identity_watch, "EVERY_S", 0.001)
        self.looks, self.seen = list(looks), 0
        self.opened = self.closed = 0
        self.lost: list[BaseException] = []
        self.done = threading.Event()
        engine = SimpleNamespace(positions=Positions({KEY: 50}), identity=LogIdentity({"ads": "A"}))
        self.watch = IdentityWatch(self.connect, engine, self.on_lost)
        thread = threading.Thread(target=self.watch._run, daemon=True)
        thread.start()
        assert self.done.wait(PATIENCE_S)
        self.watch.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()

    def on_lost(self, error) -> None:
        self.lost.append(error)
        self.done.set()

    def connect(self):
        self.opened += 1
        return self

    def close(self) -> None:
        self.closed += 1

    def state(self, _):
        if not self.looks:
            self.done.set()
            return SAME
        self.seen += 1
        found = self.looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def test_the_connection_is_kept_over_checks_and_closed_at_the_end(monkeypatch):
    world = World(monkeypatch, [SAME] * 20)
    assert (world.opened, world.closed, world.lost) == (1, 1, [])


def test_a_check_that_failed_is_followed_by_a_new_connection(monkeypatch):
    world = World(monkeypatch, [SAME, BrokerUnavailableError("gone"), SAME, SAME])
    assert (world.opened, world.closed, world.lost) == (2, 2, [])


@pytest.mark.parametrize(
    ("looks", "lost"),
    [
        ([OTHER, OTHER], 1),
        ([OTHER, SAME, OTHER], 0),
        ([OTHER, BrokerUnavailableError("gone"), OTHER], 0),
    ],
)
def test_two_checks_in_a_row_decide(monkeypatch, looks, lost):
    world = World(monkeypatch, [*looks, SAME] if not lost else looks)
    assert len(world.lost) == lost and world.opened == world.closed
