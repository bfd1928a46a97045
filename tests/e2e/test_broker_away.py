"""The broker pauses, dies, or comes back with an empty log."""

from __future__ import annotations

import os
import re
import time

import polars as pl
import pytest

from ecdctr.state.checkpoints import CheckpointStore
from ecdctr.state.positions import Positions
from tests.support.brokers import KINDS, OwnBroker
from tests.support.sites import Site, frame
from tests.support.waiting import PATIENCE_S, allowance

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(900)]

PAUSE_S = float(os.environ.get("PAUSE_S", "0"))
"""A longer pause: ``PAUSE_S=60 pytest tests/e2e/test_broker_away.py``."""


def test_paused_broker_is_waited_for_and_nothing_is_lost_or_doubled(own_broker, tmp_path):
    site = Site(tmp_path / "site", own_broker)
    try:
        site.produce(6000)
        worker = site.start()
        site.train(500, worker)
        own_broker.suspend()
        # The fault lasts until the worker has noticed it.
        site.wait(site.says("[waiting_for_broker]"), "notice that no broker answers", worker)
        time.sleep(PAUSE_S)
        assert worker.poll() is None
        own_broker.resume()
        site.produce(1000, first=6000)
        site.train(7000, worker)
        site.wait(site.says("a broker answers again"), "report that a broker answers", worker)
        own_broker.suspend()
        code, seconds = site.terminate(worker)
        assert (code, seconds < allowance(10)) == (0, True), "a clean end needs no broker"
        own_broker.resume()
        rebuilt = site.rebuild()
        assert rebuilt.identical, rebuilt.verdict
        assert rebuilt.trained == 7000
        assert site.books() == (0, 0)
    finally:
        site.end()


@pytest.fixture(scope="module", params=KINDS)
def lost(request, tmp_path_factory):
    """A worker whose broker died during training and came back with another, shorter log."""
    folder = tmp_path_factory.mktemp("lost")
    broker = OwnBroker(request.param, folder / "broker")
    site = Site(folder / "site", broker)
    try:
        site.produce(2000)
        worker = site.start()
        site.train(2000, worker)
        broker.kill()
        site.wait(site.says("[waiting_for_broker]"), "report that no broker answers", worker)
        still_there = worker.poll() is None
        broker.start_empty()
        # Topics that are not shown prove nothing: their right may have been withdrawn.
        site.wait(site.says(f'topic "{site.name}-ad" does not exist'), "report the missing topic", worker)
        site.make_topics()
        site.code = worker.wait(timeout=PATIENCE_S)
        site.lost_log = site.log()
        assert still_there
        # Few ads, and more natural clicks than were learned in one partition at least: each choice differs.
        site.produce(
            frame(3000, first=5000).filter((pl.col("domain") == "natural") | (pl.col("event_id") < 5400))
        )
        yield site
    finally:
        site.end()
        broker.stop()


def test_a_broker_that_restarts_with_an_empty_log_ends_the_worker_with_a_report_and_a_checkpoint(lost):
    assert lost.code == 5, lost.lost_log
    assert "the log is no longer the one that was learned from" in lost.lost_log
    assert re.search(rf"{lost.name}-(ad|natural)\[\d\] ends at 0, learned up to \d+", lost.lost_log)
    newest = CheckpointStore(lost.folders.checkpoints).newest()
    assert sum(Positions.from_json(newest.meta["positions"]).values()) == 2000, "all that was learned is kept"


def test_start_fails_and_reports_missing_offsets_and_the_cost_of_each_choice(lost, tmp_path):
    site = lost.copy(tmp_path)
    try:
        worker = site.start()
        assert worker.wait(timeout=PATIENCE_S) == 5
        at, ends = _at_checkpoint(site), site.ends()
        assert any(at[key] > ends[key] for key in at) and any(at[key] < ends[key] for key in at)
        for (topic, partition), offset in at.items():
            if offset > ends[(topic, partition)]:
                assert f'topic "{topic}" partition {partition}: needed from offset {offset}' in site.log()
        for choice in ("earliest", "latest", "checkpoint"):
            # The topics are new ones: no record of theirs has been learned.
            missed = sum(_expected(choice, ends).values())
            assert f"--reset-offsets {choice}: {missed:,} offsets are lost, 0 are" in site.log()
    finally:
        site.end()


@pytest.mark.parametrize("choice", ["earliest", "latest", "checkpoint"])
def test_each_choice_continues_at_the_reported_offsets_and_later_steps_can_be_rebuilt(lost, tmp_path, choice):
    site = lost.copy(tmp_path)
    try:
        ends = site.ends()
        worker = site.start("--reset-offsets", choice)
        site.wait(lambda: Positions(_learned(site)) == Positions(ends), "learn to the end", worker)
        assert site.terminate(worker)[0] == 0
        (reset,) = [e for e in site.entries() if e.kind == "reset"]
        assert reset.extra["choice"] == choice
        assert dict(Positions.from_json(reset.extra["positions"])) == _expected(choice, ends)
        spans = [
            (p.topic, p.partition, p.first, p.end)
            for e in site.entries()
            if e.step > reset.step
            for p in e.parts
        ]
        assert sum(end - first for *_, first, end in spans) == sum(
            ends[key] - at for key, at in _expected(choice, ends).items()
        )
        if spans:
            rebuilt = site.rebuild()
            assert rebuilt.identical, rebuilt.verdict
            assert rebuilt.base is not None and rebuilt.base in rebuilt.verdict
    finally:
        site.end()


def _at_checkpoint(site) -> dict:
    loaded = CheckpointStore(site.folders.checkpoints).newest()
    return dict(Positions.from_json(loaded.meta["positions"]))


def _learned(site) -> dict:
    at: dict = {}
    for entry in site.entries():
        if entry.kind == "reset":
            at = dict(Positions.from_json(entry.extra["positions"]))
        at.update({(p.topic, p.partition): p.end for p in entry.parts})
    return at


def _expected(choice: str, ends: dict) -> dict:
    """Nothing of the old topics is left, so that the nearest offset to the checkpoint is the first of the new ones."""
    return dict(ends) if choice == "latest" else dict.fromkeys(ends, 0)
