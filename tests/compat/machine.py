"""Properties of a machine on which the last bits of a result depend; recorded with the bits and compared first."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch


def this_machine() -> dict[str, str]:
    """Versions and processor that the last bits of a float32 product depend on."""
    return {
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def difference(recorded: Mapping[str, str]) -> str | None:
    """Why this machine cannot reproduce recorded bits; None if it can."""
    here = this_machine()
    found = [f"{k} {recorded[k]!r}, here {here[k]!r}" for k in recorded if recorded[k] != here[k]]
    return f"the bits were recorded with {'; '.join(found)}" if found else None


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
