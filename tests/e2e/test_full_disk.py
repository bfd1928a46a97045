"""The disk is full: training continues or waits, reports it, and loses nothing."""

from __future__ import annotations

from contextlib import contextmanager, suppress

import pytest

from tests.support.disks import disk
from tests.support.sites import Site
from tests.support.waiting import allowance

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.brokers("embedded", reason="a full disk does not depend on the broker, and takes long"),
]
PAGE = 4096


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB."""
    with disk(tmp_path / "disk", 8) as folder:
        yield folder


@contextmanager
def full(disk, left: int = 0):
    """Fill the disk except for ``left`` bytes."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(PAGE))
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - left)
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture
def small_site(broker, tmp_path, small_disk):
    # Networks so large, beside the few rows, that a checkpoint alone does not fit where all else does.
    site = Site(
        tmp_path / "site", broker,
        f'state.folder="{small_disk / "state"}"', "state.keep_checkpoints=1", "model.hidden=[128, 64]",
    )  # fmt: skip
    yield site
    site.end()


def test_a_checkpoint_without_disk_space_is_reported_and_the_next_one_includes_its_rows(
    small_site, small_disk
):
    site = small_site
    site.produce(1000)
    worker = site.start()
    site.train(1000, worker)
    site.wait(site.checkpoints, "first checkpoint", worker)
    with full(small_disk, left=64 * PAGE):
        before = site.checkpoints()
        site.produce(1000, first=1000)
        site.train(2000, worker)
        site.wait(site.says("checkpoint not written"), "report the failure", worker)
        assert "No space left" in site.log()
        assert site.checkpoints()[-1] == before[-1]
    site.produce(1000, first=2000)
    site.train(3000, worker)
    site.wait(lambda: site.checkpoints()[-1] > before[-1], "a checkpoint after room was made", worker)
    assert site.terminate(worker)[0] == 0
    rebuilt = site.rebuild()
    assert rebuilt.identical, rebuilt.verdict
    assert rebuilt.trained == 3000
    assert site.books() == (0, 0)


def test_training_waits_while_the_journal_has_no_disk_space(small_site, small_disk):
    site = small_site
    site.produce(1000)
    worker = site.start()
    site.train(1000, worker)
    with full(small_disk):
        site.produce(1000, first=1000)
        site.wait(site.says("waiting for space"), "report that the disk is full", worker)
    site.train(2000, worker)
    with full(small_disk):
        site.produce(1000, first=2000)
        reports = site.log().count("waiting for space")
        site.wait(lambda: site.log().count("waiting for space") > reports, "report it again", worker)
        code, seconds = site.terminate(worker)
        assert code == 4, "what is in memory could not be made durable: that is no clean end"
        assert seconds < allowance(10)
    worker = site.start()
    site.train(3000, worker)
    assert site.terminate(worker)[0] == 0
    rebuilt = site.rebuild()
    assert rebuilt.identical, rebuilt.verdict
    assert rebuilt.trained == 3000
    assert site.books() == (0, 0)
