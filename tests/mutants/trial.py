"""Tests of one module with one mutant: in a forked process, so that third-party modules are imported once."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType

import hypothesis
import pytest

__all__ = ["ROOT", "Target", "Trial", "run_tests", "warm_up"]

ROOT = Path(__file__).resolve().parents[2]
_CONTEXT = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Target:
    """A module that is mutated, and the tests that have to notice.

    Attributes
    ----------
    module
        Name without ``ecdctr.``.
    tests
        Files, relative to the root.
    skip
        Words in the names of tests that do not run: they measure time, start interpreters (which import the module as it
        is on disk), or take long and are about another module.
    """

    module: str
    tests: tuple[str, ...]
    skip: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return ROOT / f"{self.module.replace('.', '/')}.py"


@dataclass(frozen=True)
class Trial:
    """Whether all tests passed, and how long they took, in seconds of the processor and of the clock."""

    passed: bool
    processor_s: float
    wall_s: float


class _Mutated(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Loads one module from a text; nothing is written to the working tree."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def find_spec(self, fullname, path, target=None):
        if fullname != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        spec.loader = _Mutated(fullname, spec.origin, self.source)
        return spec


class _QuickestFirst:
    """Plugin of pytest: measures each test, and runs those first that were quick before."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._before, self.seconds = seconds, {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        session.items.sort(key=lambda item: self._before.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


def run_tests(
    target: Target, source: str, folder: Path, seconds: dict[str, float], cpu_s: float, wall_s: float
) -> Trial:
    """Run a target's tests with ``source`` in place of its module; a process that exceeds a limit did not pass.

    ``seconds``: how long each test took before, as :func:`warm_up` returns it.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = _CONTEXT.Process(target=_in_child, args=(target, source, folder, cpu_s, seconds, None))
    process.start()
    process.join(wall_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # and processes that its tests have left
    process.join()
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Trial(process.exitcode == 0, processor, wall)


def warm_up(target: Target, folder: Path) -> dict[str, float]:
    """Import, in this process, the third-party modules that the target's tests import; returns the seconds of each test."""
    receive, send = _CONTEXT.Pipe(duplex=False)
    source = target.path.read_text(encoding="utf-8")
    process = _CONTEXT.Process(target=_in_child, args=(target, source, folder, 600.0, {}, send))
    process.start()
    send.close()
    seconds: dict[str, float] = {}
    with contextlib.suppress(EOFError):
        names, seconds = receive.recv()
        for name in names:
            if name not in sys.modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
    process.join()
    return seconds


def _in_child(
    target: Target,
    source: str,
    folder: Path,
    cpu_s: float,
    before: dict[str, float],
    results: Connection | None,
) -> None:
    os.setpgid(0, 0)
    folder.mkdir(exist_ok=True)
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s) + 1, int(cpu_s) + 1))
    # The same examples for each mutant; the smallest failing example is not needed.
    hypothesis.settings.register_profile(
        "mutants", deadline=None, derandomize=True, database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    # Other modules are compiled once for all mutants.
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(folder / "pycache")
    sys.meta_path.insert(0, _Finder(f"ecdctr.{target.module}", source))
    # Before pytest, whose own importer would read files of doctests from the disk.
    importlib.import_module(f"ecdctr.{target.module}")
    doctests = Path("ecdctr") / target.path.relative_to(ROOT)
    paths = [str(ROOT / path) for path in (*target.tests, doctests)]
    options = ["-x", "-q", "--tb=line", "--assert=plain", "-m", "not slow", "--hypothesis-profile=mutants"]
    for plugin in (
        "cacheprovider",
        "xdist",
        "unraisableexception",
    ):  # the last one collects garbage, which takes long
        options += ["-p", f"no:{plugin}"]
    options += ["-k", " and ".join(f"not {word}" for word in target.skip)] if target.skip else []
    options += [f"--rootdir={ROOT}", f"--basetemp={folder / 'tmp'}"]
    order = _QuickestFirst(before)
    code = pytest.main([*options, *paths], plugins=[order])
    if results is not None:
        ours = ("ecdctr", "tests", "__main__", "conftest")
        names = [name for name in list(sys.modules) if name.partition(".")[0] not in ours]
        results.send((names, order.seconds))
    sys.stdout.flush()
    os._exit(int(code))
