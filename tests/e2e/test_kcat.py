"""A foreign client: what ``kcat`` produces is trained on."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from models.events import to_json_messages

pytestmark = pytest.mark.broker


@pytest.fixture
def kcat(site):
    """The command, with the site's broker."""
    if shutil.which("kcat") is None:
        pytest.skip("kcat is not installed (Debian: apt-get install kcat)")
    command = ["kcat", "-b", site.settings.kafka.addresses[0]]
    found = subprocess.run([*command, "-L"], capture_output=True, text=True, timeout=60)
    if found.returncode:  # librdkafka 2.0.2 stumbles over tagged fields in an answer that newer ones read
        pytest.skip(f"this kcat does not understand the embedded broker: {found.stderr.strip()[:200]}")
    return command


def test_json_lines_from_kcat_are_trained_on(site, kit, kcat):
    natural = kit.frame(800).filter(domain="natural")
    lines = b"".join(key + b"\t" + value + b"\n" for key, value in to_json_messages(natural))
    done = subprocess.run(
        [*kcat, "-P", "-t", f"{site.name}-natural", "-K", "\t"],
        input=lines, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    worker = site.start()
    site.train(len(natural), worker)
    assert site.terminate(worker)[0] == 0
    rebuilt = site.rebuild()
    assert rebuilt.identical, rebuilt.verdict
    assert rebuilt.trained == len(natural), "no row became a dead letter"
    assert site.books() == (0, 0)
