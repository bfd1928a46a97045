"""A worker that is asked to stop ends in time, whenever it is asked and whatever its threads do."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from tests.support.sites import Site
from tests.support.waiting import allowance

REPETITIONS = int(os.environ.get("ECDCTR_STOPS", "3"))


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.brokers("embedded", reason="when a worker ends does not depend on the broker")
def test_case_s9_a_worker_ends_within_ten_seconds_whenever_it_is_asked(broker, tmp_path):
    moments = random.Random(11)
    site = Site(tmp_path, broker, "model.natural_batch=8", "model.ad_batch=2")
    rows = 0
    try:
        for number in range(REPETITIONS):
            site.produce(400, first=rows)
            site.send(f"{site.name}-ad", [b"{broken"])
            rows += 400
            worker = site.start()
            if moments.random() < 0.3:
                site.wait(lambda n=number: site.log().count("live from step") > n, "recover", worker)
            else:
                steps = len(site.entries()) + moments.randrange(1, 40)
                site.wait(lambda n=steps: len(site.entries()) >= n, "learn", worker)
            code, seconds = site.terminate(worker)
            assert (code, seconds < allowance(10)) == (0, True), (
                f"stop {number}: {code}, {seconds:.1f} s\n{site.log()}"
            )
        assert "Traceback" not in site.log()
        assert "given up" not in site.log()
        worker = site.start()
        site.train(rows + REPETITIONS, worker)
        assert site.terminate(worker)[0] == 0
        assert site.books() == (0, 0)
    finally:
        site.end()


HANGING = """
import importlib, threading, time
from concurrent.futures import ThreadPoolExecutor
cli = importlib.import_module("ecdctr.cli.app")
cli.app = lambda **_: {ends}
threading.Thread(target=time.sleep, args=(1000,), name="stuck").start()
ThreadPoolExecutor(1).submit(time.sleep, 1000)
cli.main()
"""


@pytest.mark.parametrize(("ends", "code"), [("3", 3), ("(_ for _ in ()).throw(RuntimeError(1))", 1)])
def test_case_s9_a_thread_that_hangs_does_not_keep_a_process_that_has_ended(ends, code):
    done = subprocess.run(
        [sys.executable, "-c", HANGING.format(ends=ends)],
        capture_output=True,
        text=True,
        timeout=allowance(30),
    )
    assert done.returncode == code, done.stderr
    assert "stuck" in done.stderr
