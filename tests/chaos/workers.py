"""The workers of one run: their configuration, their starts and ends, and what their journal tells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ecdctr import factory
from ecdctr.replay.sources import Simulator
from ecdctr.settings import dump_toml, load_settings
from tests.support.journals import JournalReader
from tests.support.waiting import PATIENCE_S, wait_for

__all__ = ["Workers"]

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 4


class Workers:
    """Workers on one state folder, one after another.

    Parameters
    ----------
    folder
        Configuration, log and state.
    brokers
        ``host:port``, with commas.
    simulator
        The log, whose features are configured.
    overrides
        Further configuration keys.
    """

    def __init__(self, folder: Path, brokers: str, simulator: Simulator, *overrides: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        settings = load_settings(
            None,
            [
                f'kafka.brokers="{brokers}"',
                f"topics.partitions={PARTITIONS}",
                f'state.folder="{folder / "state"}"',
                "state.checkpoint_every_s=2",
                "state.checkpoint_every_steps=150",
                "worker.max_idle_s=1",
                "worker.max_wait_s=1",
                "monitor.port=0",
                "model.dim=8",
                "model.hidden=[32, 16]",
                "model.threads=1",
                "model.natural_batch=128",
                "model.ad_batch=32",
                "tpm.live=true",
                "tpm.dim=8",
                "tpm.month=2d",
                'schedule.release_every="2d"',
                *overrides,
            ],
            environ={},
        ).settings
        self.settings = factory.use_features(settings, simulator.feature_specs(), configured=False)
        self.config = folder / "ecdctr.toml"
        self.config.write_text(dump_toml(self.settings), encoding="utf-8")
        self.log_file = folder / "worker.log"
        self.journal = factory.Folders(self.settings.state.folder).journal
        self._reader = JournalReader(self.journal)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start ``ecdctr worker``; its output is appended to the log."""
        command = [sys.executable, "-m", "ecdctr", "worker", "--config", str(self.config), *options]
        return self.launch(command)

    def launch(self, command: list[str], stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Start a process that :meth:`end` ends."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ECDCTR_")}
        with self.log_file.open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log if stdout is None else stdout, stderr=log, env=environment, cwd=ROOT
            )
        self._processes.append(process)
        return process

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """kill -9."""
        worker.send_signal(signal.SIGKILL)
        worker.wait()

    def end(self) -> None:
        """Kill all processes that still run."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def steps(self) -> int:
        """Number of the journal's steps."""
        steps = self._reader.update().steps
        return steps[-1][0] + 1 if steps else 0

    def learned(self) -> int:
        """Offsets that the journal covers."""
        return self._reader.update().learned

    def positions(self) -> Mapping[tuple[str, int], int]:
        """Next offset of every partition after the journal's last step."""
        return self._reader.update().positions

    def log(self) -> str:
        """Output of all workers."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def wait_for(self, done: Callable[[], bool], worker: subprocess.Popen[bytes], what: str) -> None:
        """Wait for an event; the end of the worker is an error, whose message holds the end of the log."""

        def alive() -> str | None:
            return None if worker.poll() is None else f"the worker ended with {worker.returncode}"

        def tail() -> str:
            return "\n".join(self.log().splitlines()[-40:])

        wait_for(done, what, within_s=2 * PATIENCE_S, alive=alive, detail=tail)
