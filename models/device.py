"""Where the models live, and what makes their kernels give the same bits each time."""

from __future__ import annotations

import os

import torch

from state.errors import ConfigError

__all__ = ["choose_device"]


def choose_device(name: str) -> torch.device:
    """``auto``: CUDA if there, else the CPU.

    On CUDA the deterministic kernels are switched on: PyTorch then uses them where it has them and raises where it
    has none. That holds for one machine, driver and library version; other GPUs may round differently.
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
    return torch.device(name)
