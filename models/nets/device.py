"""The device of the models, and the settings that make their kernels reproducible bit for bit."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from ecdctr.state.errors import ConfigError

__all__ = ["choose_device", "use_threads"]

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MIB = 1 << 20


def choose_device(name: str) -> torch.device:
    """The torch device of a name; ``auto`` is CUDA if it is available, otherwise the CPU.

    On CUDA, deterministic algorithms are enabled: PyTorch then uses a deterministic kernel for every operation, and raises an
    error if it has none. Results are reproducible with one GPU model, driver and library version; others may round
    differently.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ConfigError(
                f'model.device is "{name}", but torch sees no CUDA device: set model.device = "cpu"'
            )
        # Read by cuBLAS when its first handle is made; without it matrix products may pick another summation order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    else:
        _retain_freed_memory()
    return torch.device(name)


def use_threads(threads: int) -> None:
    """Set torch's number of threads for the calling thread; 0: all cores but one, which is left to the event loop."""
    torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) - 1))


def _retain_freed_memory() -> None:
    """Let the C library retain up to 256 MiB of freed memory instead of returning it to the system.

    Every step frees its activations and allocates as much again. If the memory were returned each time, it would be new pages: some
    5,000 page faults a step at 4,096 rows, a tenth of its time.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    # 32 MiB is the largest block that glibc allows in the heap; larger ones are mapped, as before.
    for option, value in ((_M_MMAP_THRESHOLD, 32), (_M_TRIM_THRESHOLD, 256), (_M_TOP_PAD, 16)):
        mallopt(ctypes.c_int(option), ctypes.c_int(value * _MIB))
