"""One vector for all parameters: same optimiser, same values, same names."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ecdctr.models.nets.flat_parameters import FlatModule, initialise


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 4, bias=False)  # before a batch norm its gradient would be noise
        self.norm = nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.norm(self.first(x))))  # type: ignore[no-any-return]


def small() -> Small:
    module = Small()
    initialise(module, 3)
    return module


def learn(module: nn.Module, x: torch.Tensor) -> None:
    module(x).square().sum().backward()


def test_adam_over_the_vector_is_adam_over_the_parameters() -> None:
    module, reference = small(), small()
    reference.load_state_dict(module.state_dict())
    flat = FlatModule(module, torch.device("cpu"), lr=0.01)
    adam = torch.optim.Adam(reference.parameters(), lr=0.01)
    for i in range(10):
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(i))
        flat.zero_gradient()
        learn(module, x)
        flat.step()
        adam.zero_grad()
        learn(reference, x)
        adam.step()
    for (name, ours), (_, theirs) in zip(
        module.named_parameters(), reference.named_parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)
    assert float(flat.steps) == 10


def test_parameters_and_buffers_are_views_of_the_vectors() -> None:
    module = small()
    flat = FlatModule(module, torch.device("cpu"), lr=0.01, last=lambda name: name.startswith("norm"))
    assert flat.n_first == 5 * 4 + 4 + 1
    flat.values.data.fill_(2.0)
    flat.buffers.fill_(3.0)
    assert all(bool((p == 2.0).all()) for p in module.parameters())
    assert float(module.norm.running_mean[0]) == 3.0  # type: ignore[index]
    flat.values.data[: flat.n_first].zero_()
    assert bool((module.norm.weight == 2.0).all())
    assert bool((module.first.weight == 0.0).all())


def test_state_round_trip() -> None:
    a, b = (FlatModule(small(), torch.device("cpu"), lr=0.01) for _ in range(2))
    for _ in range(3):
        a.zero_gradient()
        learn(a.module, torch.randn(4, 5))
        a.step()
    state = copy.deepcopy(a.state())
    assert state["values/first.weight"].shape == (4, 5)
    b.load_state(state)
    x = torch.randn(4, 5)
    for flat in (a, b):
        flat.zero_gradient()
        learn(flat.module, x)
        flat.step()
    again, mine = b.state(), a.state()
    assert set(again) == set(mine)
    for name, value in mine.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    state["values/first.weight"] = np.zeros((4, 6), np.float32)
    with pytest.raises(ValueError, match=r"values/first\.weight"):
        b.load_state(state)


def test_undo() -> None:
    flat = FlatModule(small(), torch.device("cpu"), lr=0.01)
    before, undo = flat.state(), flat.undo()
    learn(flat.module.eval(), torch.randn(4, 5))
    flat.step()
    assert not np.array_equal(before["values/first.weight"], flat.state()["values/first.weight"])
    flat.revert(undo)
    for name, value in flat.state().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_initial_values_depend_on_seed_and_name_only() -> None:
    torch.manual_seed(1)
    a = small()
    torch.manual_seed(2)
    b = small()
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert float(a.first.weight.detach().abs().max()) <= 5**-0.5
    other = Small()
    initialise(other, 4)
    assert not torch.equal(a.first.weight, other.first.weight)
