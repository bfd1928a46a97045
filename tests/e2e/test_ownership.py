"""One trainer per state folder, a standby, a clean end."""

from __future__ import annotations

import signal
import socket
import time

import pytest

from tests.support.sites import Site
from tests.support.waiting import PATIENCE_S, allowance

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    # tests/e2e/test_reading_apache_kafka.py stops workers on Apache Kafka.
    pytest.mark.brokers(
        "embedded", reason="the lock of the state folder does not depend on the broker, and takes long"
    ),
]


def test_a_second_worker_is_refused_and_a_standby_takes_over_within_ten_seconds(site):
    site.produce(1000)
    first = site.start()
    site.train(1000, first)

    second = site.start()
    assert second.wait(timeout=PATIENCE_S) == 4
    assert f"is owned by process {first.pid} on host {socket.gethostname()}" in site.log()
    assert "--standby" in site.log()

    standby = site.start("--standby")
    site.wait(site.says("standby: waiting"), "stand by", standby)
    asked_to_stop = site.start("--standby")
    site.wait(lambda: site.log().count("standby: waiting") == 2, "stand by as well", asked_to_stop)
    code, seconds = site.terminate(asked_to_stop)
    assert (code, seconds < allowance(10)) == (0, True)

    site.produce(1000, first=1000)
    site.kill(first)
    died = time.monotonic()
    steps = len(site.entries())
    site.wait(lambda: len(site.entries()) > steps, "learn after the take-over", standby)
    taken_over_s = time.monotonic() - died
    assert taken_over_s < allowance(10)
    site.train(2000, standby)
    assert site.terminate(standby)[0] == 0
    rebuilt = site.rebuild()
    assert rebuilt.identical, rebuilt.verdict
    assert site.books() == (0, 0)


def test_sigterm_checkpoints_and_exits_0_while_training_and_while_recovering(broker, tmp_path):
    total = 2_000  # 440 steps of eight and two rows: seconds, in which the signals come
    site = Site(
        tmp_path, broker,
        "state.checkpoint_every_steps=1000000", "model.natural_batch=8", "model.ad_batch=2",
    )  # fmt: skip
    try:
        site.produce(total)
        worker = site.start()
        site.train(500, worker)
        code, seconds = stop(site, worker)
        assert (code, seconds < allowance(10)) == (0, True), site.log()
        at_end = site.entries()[-1].step
        assert _step(site.checkpoints()[-1]) == at_end, "the last step is in the checkpoint"
        assert site.learned() < total, "it was in the midst of training"

        worker = site.start()
        site.train(total, worker)
        site.kill(worker)
        worker = site.start()
        site.wait(site.says("steps to redo"), "begin to redo the journal", worker)
        code, seconds = stop(site, worker)
        assert (code, seconds < allowance(10)) == (0, True), site.log()
        stopped_at = _step(site.checkpoints()[-1])
        assert at_end <= stopped_at < site.entries()[-1].step, "it was in the midst of recovery"

        worker = site.start()
        site.wait(lambda: site.log().count("live from step") == 3, "recover", worker)
        assert site.terminate(worker)[0] == 0
        rebuilt = site.rebuild()
        assert rebuilt.identical, rebuilt.verdict
        assert rebuilt.trained == total
        assert site.books() == (0, 0)
    finally:
        site.end()


def stop(site, worker) -> tuple[int, float]:
    """SIGTERM to a stopped worker: it arrives between two of its steps, whatever the delay of this process."""
    with site.paused(worker):
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
    return worker.wait(timeout=PATIENCE_S), time.monotonic() - began


def _step(checkpoint: str) -> int:
    return int(checkpoint.split("-step-")[1])
