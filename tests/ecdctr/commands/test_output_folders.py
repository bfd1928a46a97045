"""Commands that write a folder neither remove nor replace what they have not written themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from ecdctr.commands.compare import compare_reports
from ecdctr.commands.demo import run_demo
from ecdctr.commands.drift import DriftOptions, drift_source
from ecdctr.commands.replay import ReplayOptions, replay_source
from ecdctr.commands.tpm_train import train_tpm
from ecdctr.settings import load_settings
from ecdctr.state.errors import ConfigError, StateError, StateLockedError
from ecdctr.state.lock import FolderLock
from ecdctr.state.output_folder import OutputFolder
from ecdctr.studies.cache import check_page
from ecdctr.studies.evidence import run_evidence
from ecdctr.studies.forgetting_page import run_forgetting

SOURCE = "sim:days=2,live_from=1,users=30,items=20,natural_per_day=60,ads_per_day=20,history_per_day=50,month_days=1"
QUIET = Console(quiet=True, markup=False)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def settings(folder: Path):
    return load_settings(None, [f"state.folder={json.dumps(str(folder))}", "model.hidden=[4]"], environ={})


def replay(out: Path) -> None:
    loaded = settings(out.parent / "elsewhere")
    replay_source(QUIET, QUIET, loaded, SOURCE, out, ReplayOptions(quiet=True))


def drift(out: Path) -> None:
    drift_source(QUIET, QUIET, settings(out.parent / "elsewhere"), SOURCE, SOURCE, out)


def drift_save(out: Path) -> None:
    drift_source(
        QUIET,
        QUIET,
        settings(out.parent / "elsewhere"),
        SOURCE,
        SOURCE,
        out.parent / "d",
        DriftOptions(save=out),
    )


def demo(out: Path) -> None:
    run_demo(QUIET, out)


WORKER = ("state/checkpoints/00000003-step-500/manifest.json", "state/journal/journal-000000000000.log",
          "state/ad-window/day-0020000.rows", "state/scores/schema.json", "state/LOCK", "state/monitor/alerts.json")  # fmt: skip
OTHERS = {
    "replay: a worker's state": (replay, WORKER, "state"),
    "replay: a state of other programs": (replay, ("state/db.sqlite",), "state"),
    "replay: other people's report": (replay, ("report.html",), "report.html"),
    "replay: a table": (replay, ("days.parquet",), "days.parquet"),
    "replay: a state folder itself": (replay, ("checkpoints/x", "scores/schema.json"), "is a state folder"),
    "demo: a worker's state": (demo, WORKER, "state"),
    "demo: a worker beside its configuration": (demo, ("ecdctr.toml", *WORKER), "ecdctr.toml"),
    "demo: a summary": (demo, ("summary.json",), "summary.json"),
    "drift: other people's figures": (drift, ("drift.json",), "drift.json"),
    "drift --save: another reference": (drift_save, ("reference.npz",), "reference.npz"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_case_s8_what_others_wrote_is_refused_and_unchanged(tmp_path, case):
    command, names, named = OTHERS[case]
    out = tmp_path / "out"
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(f"content of {name}")
    before = content(out)
    with pytest.raises(StateError, match=named) as failure:
        command(out)
    assert "choose another folder" in str(failure.value)
    after = content(out)
    after.pop(".ecdctr-output.lock", None)
    assert after == before


@pytest.mark.parametrize("command", [replay, drift, drift_save, demo])
def test_case_s8_a_folder_in_use_a_link_and_a_file_are_refused(tmp_path, command):
    out = tmp_path / "out"
    with (
        FolderLock(out, name=".ecdctr-output.lock"),
        pytest.raises(StateLockedError, match="choose another folder"),
    ):
        command(out)
    target = tmp_path / "precious"
    target.write_text("content")
    for name in ("report.html", "drift.html", "reference.json"):
        (out / name).symlink_to(target)
    with pytest.raises(StateError, match="is a link"):
        command(out)
    assert target.read_text() == "content"
    with pytest.raises(StateError, match="is a file, not a folder"):
        command(target)


@pytest.mark.slow
def test_case_s8_a_command_replaces_its_own_output_beside_other_files(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for _ in range(2):
        replay(out)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "state" / "scores" / "schema.json").is_file()
    with pytest.raises(StateError, match=r"report.html exists and was written by `ecdctr replay`"):
        compare_reports(QUIET, out, out, out)
    (out / "state" / "journal").mkdir()
    with pytest.raises(StateError, match="is the state folder of a worker"):
        replay(out)


def test_case_s8_output_of_an_earlier_version_is_recognised(tmp_path):
    """That version recorded nothing in the folder."""
    replay(tmp_path / "out")
    (tmp_path / "out" / ".ecdctr-output.json").unlink()
    replay(tmp_path / "out")
    drift(tmp_path / "drift")
    (tmp_path / "drift" / ".ecdctr-output.json").unlink()
    drift(tmp_path / "drift")


def test_case_s8_a_damaged_or_later_record_is_refused(tmp_path):
    output = OutputFolder(tmp_path, "ecdctr replay")
    for text, message in (("{", "is damaged"), ('{"format": 9, "files": {}}', "has format 9")):
        (tmp_path / ".ecdctr-output.json").write_text(text)
        with pytest.raises(StateError, match=message), output.hold(["report.html"], lambda _: False):
            raise AssertionError


def test_case_s8_pages_of_studies_replace_only_pages_of_studies(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("# Mine\n")
    for study in (run_evidence, run_forgetting):
        with pytest.raises(ConfigError, match="was not written by `ecdctr evidence`"):
            study(QUIET, page, short=True)
    (tmp_path / "plot.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"plot\.png exists"):
        check_page(tmp_path / "plot.md")
    page.write_text("# Evidence\n\nWritten by `ecdctr evidence --short`.\n")
    check_page(page)
    check_page(tmp_path / "new.md")


def test_case_s8_two_trainings_of_tpm_do_not_write_one_folder(tmp_path):
    with FolderLock(tmp_path / "state" / "tpm"), pytest.raises(StateLockedError):
        train_tpm(QUIET, QUIET, settings(tmp_path / "state"), SOURCE, partial=True)
    assert not (tmp_path / "state" / "snapshots").exists()
