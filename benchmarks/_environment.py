"""A separate virtual environment for a library that is used for comparison only."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

__all__ = ["environment"]


def environment(place: Path, wanted: Sequence[str]) -> Path:
    """Python of the environment in folder ``place``; it is created with exactly these packages if it does not exist.

    Raises
    ------
    RuntimeError
        With the message of pip.
    """
    python, done = place / "bin" / "python", place / ".installed"
    if not done.exists() or done.read_text() != " ".join(wanted):
        venv.create(place, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        got = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
        if got.returncode:
            raise RuntimeError(f"{' '.join(wanted)}: {got.stderr.strip().splitlines()[-1]}")
        done.write_text(" ".join(wanted))
    return python
