"""Batch norm: as torch's for chunks of enough rows, by running statistics for smaller ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ecdctr.models.nets.batch_norm import MIN_ROWS, BatchNorm


def pair() -> tuple[BatchNorm, nn.BatchNorm1d]:
    ours, theirs = BatchNorm(3, momentum=0.1), nn.BatchNorm1d(3, momentum=0.1)
    return ours, theirs


@pytest.mark.parametrize("n", [MIN_ROWS, 50])
def test_enough_rows_are_treated_as_torch_does(n: int) -> None:
    ours, theirs = pair()
    for i in range(3):
        x = torch.randn(n, 3, generator=torch.Generator().manual_seed(i)) * 2 + 1
        torch.testing.assert_close(ours.run(x, training=True), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert ours.num_batches_tracked == theirs.num_batches_tracked
    x = torch.randn(4, 3)
    torch.testing.assert_close(ours.run(x, training=False), theirs.eval()(x))


@pytest.mark.parametrize("n", [1, MIN_ROWS - 1])
def test_few_rows_are_normalised_by_the_running_statistics(n: int) -> None:
    norm, _ = pair()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))  # type: ignore[union-attr]
    norm.running_var.copy_(torch.tensor([4.0, 1.0, 0.25]))  # type: ignore[union-attr]
    x = torch.randn(n, 3, requires_grad=True)
    out = norm.run(x, training=True)
    expected = (x.detach() - torch.tensor([1.0, 2.0, 3.0])) / (torch.tensor([4.0, 1.0, 0.25]) + 1e-5).sqrt()
    torch.testing.assert_close(out.detach(), expected)
    out.sum().backward()  # the statistics count as constants
    assert x.grad is not None
    assert bool((x.grad != 0).all())


def test_a_stream_of_single_rows_still_learns_the_statistics() -> None:
    norm = BatchNorm(1, momentum=0.1)
    rows = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0)) * 3 + 5
    for row in rows.split(1):
        norm.run(row, training=True)
    assert abs(float(norm.running_mean) - 5) < 1.0  # type: ignore[arg-type]
    assert abs(float(norm.running_var) - 9) < 3.0  # type: ignore[arg-type]


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def with_running_statistics() -> BatchNorm:
    norm = BatchNorm(3, momentum=0.01, running=True)
    for i in range(100):
        norm.run(rows(100, seed=i), training=True)
    return norm


def test_running_statistics_are_those_of_all_rows() -> None:
    norm, x = with_running_statistics(), torch.cat([rows(100, seed=i) for i in range(100)]).numpy()
    np.testing.assert_allclose(norm.running_mean, x.mean(0), atol=0.05)
    np.testing.assert_allclose(norm.running_var, x.var(0), rtol=0.05)


@pytest.mark.parametrize("n", [1, 5, 200])
def test_with_running_statistics_a_row_is_learned_as_it_was_predicted(n: int) -> None:
    norm, x = with_running_statistics(), rows(n, seed=999) + 3
    predicted = norm.run(x, training=False)
    assert torch.equal(norm.run(x, training=True), predicted)


def test_the_common_part_of_a_chunks_rows_is_preserved() -> None:
    """Batch norm of torch removes it: the rows of one hour then look like those of any other."""
    shared = torch.full((32, 3), 5.0)
    assert bool((with_running_statistics().run(shared, training=True) > 1.0).all())
    assert bool((nn.BatchNorm1d(3)(shared).abs() < 1e-2).all())
