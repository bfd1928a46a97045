"""Another client: messages of Debian's ``kcat`` are learned."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from ecdctr.events.decoder import to_json_messages
from ecdctr.streams.embedded import EmbeddedBroker
from tests.support.sites import Site, frame
from tests.support.waiting import PATIENCE_S

pytestmark = [pytest.mark.broker, pytest.mark.slow]


def test_json_lines_from_kcat_are_learned(tmp_path):
    if shutil.which("kcat") is None:
        pytest.skip("kcat is not installed (Debian: apt-get install kcat)")
    with EmbeddedBroker(old_clients=True) as broker:
        site = Site(tmp_path, broker.address)
        try:
            natural = frame(800).filter(domain="natural")
            lines = b"".join(key + b"\t" + value + b"\n" for key, value in to_json_messages(natural))
            done = subprocess.run(
                ["kcat", "-P", "-b", broker.address, "-t", f"{site.name}-natural", "-K", "\t"],
                input=lines, capture_output=True, timeout=PATIENCE_S,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            worker = site.start()
            site.train(len(natural), worker)
            assert site.terminate(worker)[0] == 0
            rebuilt = site.rebuild()
            assert rebuilt.identical, rebuilt.verdict
            assert rebuilt.trained == len(natural), "no row became a dead letter"
            assert site.books() == (0, 0)
        finally:
            site.end()
