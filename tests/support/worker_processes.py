"""Starts ``ecdctr worker`` as a process of its own, without importing the libraries for each one again.

A start of ``python -m ecdctr worker`` spends about four processor seconds on imports (PyTorch for the most part), and the
tests start some hundreds of workers. Here a server process (``multiprocessing``, method ``forkserver``) imports them once,
and each worker is forked from it: a separate process with its own memory, files, signals and exit code, which can be
suspended and killed like any other. Tests of the start itself, and of what happens before the imports have ended, start a
new interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

__all__ = ["RunningProcess", "start_worker"]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.support.imported_by_workers"])


class RunningProcess(Protocol):
    """What tests use of a process: the part of :class:`subprocess.Popen` that a forked worker has, too."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...
    def terminate(self) -> None: ...


class _Forked:
    """A worker that the server has forked."""

    def __init__(self, arguments: Sequence[str], output: Path, environment: Mapping[str, str]) -> None:
        self._process = _CONTEXT.Process(
            target=_run,
            args=(list(arguments), os.fspath(output), dict(environment), os.fspath(Path.cwd())),
            daemon=True,
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.args = ["ecdctr", *arguments]
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def start_worker(
    arguments: Sequence[str],
    output: Path,
    *,
    new_interpreter: bool = False,
    environment: Mapping[str, str] | None = None,
) -> RunningProcess:
    """Start ``ecdctr`` with these arguments.

    Parameters
    ----------
    arguments
        Command and options, for instance ``["worker", "--config", path]``.
    output
        A file to which both output streams are appended.
    new_interpreter
        Start Python as a user does, instead of a fork with the imports done.
    environment
        Variables beside those of the tests, of which those that begin with ``ECDCTR_`` are left out.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ECDCTR_")}
    variables = {**inherited, "COLUMNS": "2000", **(environment or {})}
    if not new_interpreter:
        return _Forked(arguments, output, variables)
    with output.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "ecdctr", *arguments], stdout=file, stderr=file, env=variables
        )


def _run(arguments: list[str], output: str, environment: dict[str, str], folder: str) -> None:
    """Replace output, environment and arguments, then run the command line."""
    file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["ecdctr", *arguments]

    from ecdctr.cli import main

    main()
