"""``FlatModule``: a module's parameters as slices of one vector, with one Adam over it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["FlatModule", "FlatUndo", "initialise"]


def initialise(module: nn.Module, seed: int) -> None:
    """Draw every matrix parameter uniformly from ``+- 1 / sqrt(fan_in)``; biases are set to 0, other vectors are unchanged.

    From raw Philox bits keyed by the parameter's name, like :func:`ecdctr.models.nets.embedding_table.initial_rows` and for the same
    reason. Square matrices named ``*.value`` are initialised to the identity (see ``HistoricalAttention``).
    """
    for name, parameter in module.named_parameters():
        last = name.split(".")[-1]
        if parameter.dim() < 2:
            if last == "bias":
                parameter.data.zero_()
            continue
        if last == "value":
            parameter.data.copy_(torch.eye(parameter.shape[0]))
            continue
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
        raw = np.random.Philox(key=np.array([seed, key], np.uint64)).random_raw(parameter.numel())
        unit = ((raw >> np.uint64(40)).astype(np.float64) + 0.5) * 2.0**-23 - 1.0
        values = (unit / np.sqrt(parameter.shape[1])).astype(np.float32).reshape(tuple(parameter.shape))
        parameter.data.copy_(torch.from_numpy(values))


@dataclass(frozen=True, slots=True)
class FlatUndo:
    """Copies of all dense values that a step may change."""

    values: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor


class FlatModule:
    """Parameters, gradients, Adam moments and float buffers of a module, each as one vector.

    With one vector, the operations of every step are cheap for any number of layers: one fused Adam, one check for NaN,
    one copy to undo a step, one copy to transfer a model.

    Parameters
    ----------
    module
        Its parameters and buffers become views of the vectors; do not move it to another device afterwards.
    device
        Device of the vectors.
    lr
        Learning rate of Adam.
    last
        Selects by name the parameters at the end of the vector.

    Attributes
    ----------
    values, gradient
        Float32 vectors of all parameters.
    n_first
        Number of values before those selected by ``last``.
    buffers
        Float32 vector of all floating-point buffers (batch norm's running statistics).
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        lr: float,
        last: Callable[[str], bool] = lambda _: False,
    ) -> None:
        module.to(device)
        self.module = module
        named = sorted(module.named_parameters(), key=lambda pair: last(pair[0]))  # stable
        self.n_first = sum(p.numel() for n, p in named if not last(n))
        total = sum(p.numel() for _, p in named)
        self.values = nn.Parameter(torch.empty(total, device=device))
        self.gradient = torch.zeros(total, device=device)
        self.values.grad = self.gradient
        self._where: dict[str, tuple[slice, torch.Size]] = {}
        begin = 0
        for name, parameter in named:
            where = slice(begin, begin + parameter.numel())
            self._where[name] = (where, parameter.shape)
            self.values.data[where].copy_(parameter.data.reshape(-1))
            parameter.data = self.values.data[where].view(parameter.shape)
            parameter.grad = self.gradient[where].view(parameter.shape)
            begin = where.stop
        floats = [(n, b) for n, b in module.named_buffers() if b.is_floating_point()]
        self.buffers = torch.empty(sum(b.numel() for _, b in floats), device=device)
        self._where_buffer: dict[str, tuple[slice, torch.Size]] = {}
        begin = 0
        for name, buffer in floats:
            where = slice(begin, begin + buffer.numel())
            self._where_buffer[name] = (where, buffer.shape)
            self.buffers[where].copy_(buffer.reshape(-1))
            buffer.set_(self.buffers[where].view(buffer.shape))  # type: ignore[call-overload]
            begin = where.stop
        self.adam = torch.optim.Adam([self.values], lr=lr, fused=True)
        self.mean = torch.zeros_like(self.values.data)
        self.square = torch.zeros_like(self.values.data)
        self.steps = torch.zeros((), device=device)
        # Set here and not at the first step, so that a restored optimiser needs no special case.
        self.adam.state[self.values] = {"step": self.steps, "exp_avg": self.mean, "exp_avg_sq": self.square}

    def bind(self, twin: nn.Module, values: Tensor) -> None:
        """Make another module of the same shape read ``values`` and share everything else.

        Parameters
        ----------
        twin
            Its parameters become views of ``values``; its gradients and buffers are this module's.
        values
            Float32 vector as long as :attr:`values`, in the same order.
        """
        twin.to(values.device)
        for name, parameter in twin.named_parameters():
            where, shape = self._where[name]
            parameter.data = values[where].view(shape)
            parameter.grad = self.gradient[where].view(shape)
        own_buffers = dict(self.module.named_buffers())
        for name, buffer in twin.named_buffers():
            buffer.set_(own_buffers[name])  # type: ignore[call-overload]

    def zero_gradient(self) -> None:
        """Set the gradient to 0; call it before a backward pass, which adds to the gradient."""
        self.gradient.zero_()

    def step(self) -> None:
        """One Adam step (Kingma and Ba, 2015) with the current gradient."""
        self.adam.step()

    def reset_adam(self) -> None:
        """Reset the moments and the step count."""
        self.mean.zero_()
        self.square.zero_()
        self.steps.zero_()

    def undo(self) -> FlatUndo:
        """Copies of all values that :meth:`step` changes."""
        return FlatUndo(self.values.data.clone(), self.mean.clone(), self.square.clone(), self.steps.clone())

    def revert(self, undo: FlatUndo) -> None:
        """Restore parameters and optimiser."""
        self.values.data.copy_(undo.values)
        self.mean.copy_(undo.mean)
        self.square.copy_(undo.square)
        self.steps.copy_(undo.steps)

    def state(self) -> dict[str, NDArray[Any]]:
        """Copies of everything, by name: ``values/<parameter>``, ``mean/...``, ``square/...``, ``buffer/...``, ``steps``."""
        out: dict[str, NDArray[Any]] = {}
        for kind, vector in self._vectors():
            copy = vector.detach().cpu().numpy().copy()
            for name, (where, shape) in self._places(kind):
                out[f"{kind}/{name}"] = copy[where].reshape(tuple(shape))
        for name, buffer in self.module.named_buffers():
            if not buffer.is_floating_point():
                out[f"buffer/{name}"] = buffer.cpu().numpy().copy()
        out["steps"] = self.steps.cpu().numpy().copy()
        return out

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Inverse of :meth:`state`."""
        for kind, vector in self._vectors():
            for name, (where, shape) in self._places(kind):
                value = state[f"{kind}/{name}"]
                if tuple(value.shape) != tuple(shape):
                    raise ValueError(f"{kind}/{name} has shape {value.shape}, expected {tuple(shape)}")
                vector.data[where].copy_(torch.from_numpy(np.array(value, np.float32).reshape(-1)))
        for name, buffer in self.module.named_buffers():
            if not buffer.is_floating_point():
                buffer.copy_(torch.from_numpy(np.array(state[f"buffer/{name}"])))
        self.steps.copy_(torch.from_numpy(np.array(state["steps"], np.float32)))

    def _vectors(self) -> Iterator[tuple[str, Tensor]]:
        yield "values", self.values.data
        yield "mean", self.mean
        yield "square", self.square
        yield "buffer", self.buffers

    def _places(self, kind: str) -> Iterator[tuple[str, tuple[slice, torch.Size]]]:
        yield from (self._where_buffer if kind == "buffer" else self._where).items()
