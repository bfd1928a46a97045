"""The newest checkpoint is damaged: it is reported and retained, and an older one and the journal give the same state."""

from __future__ import annotations

import pytest

from tests.support.waiting import allowance

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.brokers(
        "embedded", reason="a damaged state folder does not depend on the broker, and takes long"
    ),
]


def flip_a_bit(folder):
    path = max(folder.glob("rows-*.safetensors"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(folder):
    path = folder / "dense.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def lose_a_file(folder):
    min(folder.glob("rows-*.safetensors")).unlink()


def tear_the_manifest(folder):
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (flip_a_bit, "has checksum"),
        (truncate, "the manifest records"),
        (lose_a_file, "No such file"),
        (tear_the_manifest, "damaged"),
    ],
)
def test_a_damaged_checkpoint_is_reported_and_an_older_one_leads_to_the_same_state(
    killed, tmp_path, harm, reason
):
    site = killed.copy(tmp_path / "site", "model.history=attention")
    *_, older, newest = site.checkpoints()
    harm(site.folders.checkpoints / newest)
    _recover(site, older)
    log = site.log()
    assert f"checkpoint {newest} is damaged" in log
    assert reason in log
    assert (site.folders.checkpoints / newest).is_dir(), "a damaged checkpoint is kept"


def test_a_partially_renamed_checkpoint_is_reported_and_skipped(killed, tmp_path):
    site = killed.copy(tmp_path / "site", "model.history=attention")
    *_, older, newest = site.checkpoints()
    folder = site.folders.checkpoints
    (folder / newest).rename(folder / f".partial-{newest}")
    _recover(site, older)
    assert f".partial-{newest}" in site.log()


def _recover(site, older: str) -> None:
    """A worker starts from the checkpoint ``older``, redoes the later steps of the journal, and exits with code 0."""
    last = site.entries()[-1].step
    step = int(older.split("-step-")[1])
    worker = site.start()
    site.wait(site.says("live from step"), "recover", worker)
    code, seconds = site.terminate(worker)
    assert (code, seconds < allowance(10)) == (0, True), site.log()
    assert f"checkpoint {older}: step {step}" in site.log()
    assert f"{last - step} steps redone" in site.log()
    rebuilt = site.rebuild()
    assert rebuilt.identical, rebuilt.verdict
    assert rebuilt.steps == last + 1
    assert site.books() == (0, 0)
