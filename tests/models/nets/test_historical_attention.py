"""The attention against its formula, and the frozen form against the attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.models.nets.flat_parameters import initialise
from ecdctr.models.nets.historical_attention import FrozenHistory, HistoricalAttention, HistoryMode

MODES: list[HistoryMode] = ["attention", "mean", "latest"]


def attention(dim: int, mode: HistoryMode = "attention", seed: int = 0) -> HistoricalAttention:
    module = HistoricalAttention(dim, mode)
    initialise(module, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.5)
    return module


def rows_of(m: int, k: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = rng.random((m, k)) < 0.6
    rows = rng.normal(size=(m, k, d)).astype(np.float32)
    rows[~mask] = 0.0  # as the store returns them
    return rows, mask


def by_hand(module: HistoricalAttention, H: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The paper's formula, one id at a time, over the months in which it is present."""
    default = module.default.detach().numpy()
    out = []
    for rows, here in zip(H.astype(np.float64), mask, strict=True):
        present = rows[here]
        if not len(present):
            out.append(default)
        elif module.mode == "mean":
            out.append(present.mean(0))
        elif module.mode == "latest":
            out.append(present[-1])
        else:
            q, k, v = (
                p.detach().numpy().astype(np.float64) for p in (module.query, module.key, module.value)
            )
            scores = (present @ q) @ (present @ k).T / np.sqrt(H.shape[2])
            weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            out.append((weights @ (present @ v)).mean(0))
    return np.stack(out)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_attention_is_the_formula(mode: HistoryMode, k: int) -> None:
    module = attention(6, mode)
    H, mask = rows_of(40, k, 6, seed=k)
    with torch.no_grad():
        found = module(torch.from_numpy(H), torch.from_numpy(mask.astype(np.float32))).numpy()
    np.testing.assert_allclose(found, by_hand(module, H, mask), rtol=1e-4, atol=1e-5)


def test_before_training_it_is_close_to_the_mean() -> None:
    module = HistoricalAttention(16)
    initialise(module, 0)
    H, mask = rows_of(200, 3, 16, seed=1)
    H *= 0.3
    with torch.no_grad():
        found = module(torch.from_numpy(H), torch.from_numpy(mask.astype(np.float32))).numpy()
    mean = by_hand(HistoricalAttention(16, "mean"), H, mask)
    assert np.abs(found - mean).max() < 0.1


def test_without_months_or_present_ids_the_default_is_returned() -> None:
    module = attention(4)
    default = module.default.detach()
    with torch.no_grad():
        assert torch.equal(module(torch.zeros(3, 0, 4), torch.zeros(3, 0)), default.expand(3, 4))
        torch.testing.assert_close(module(torch.zeros(3, 2, 4), torch.zeros(3, 2)), default.expand(3, 4))


def test_the_default_and_the_projections_learn() -> None:
    module = attention(4)
    H, mask = rows_of(30, 3, 4, seed=2)
    module(torch.from_numpy(H), torch.from_numpy(mask.astype(np.float32))).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        assert bool((parameter.grad != 0).any()), name


@pytest.mark.parametrize("mode", MODES)
@given(m=st.integers(0, 40), k=st.integers(0, 4), d=st.integers(1, 17), seed=st.integers(0, 99))
@settings(max_examples=40, derandomize=True)
def test_the_frozen_form_equals_the_attention(mode: HistoryMode, m: int, k: int, d: int, seed: int) -> None:
    module = attention(d, mode, seed)
    H, mask = rows_of(m, k, d, seed)
    vectors, present = FrozenHistory(module).merge(H, mask)
    with torch.no_grad():
        expected = module(torch.from_numpy(H), torch.from_numpy(mask.astype(np.float32))).numpy()
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(present, mask.any(1))


@pytest.mark.parametrize("mode", MODES)
@given(m=st.integers(1, 70), d=st.integers(1, 17), seed=st.integers(0, 99))
@settings(max_examples=40, derandomize=True)
def test_a_merged_row_has_the_same_bits_whatever_the_other_rows(
    mode: HistoryMode, m: int, d: int, seed: int
) -> None:
    frozen = FrozenHistory(attention(d, mode, seed))
    H, mask = rows_of(m, 3, d, seed)
    together, _ = frozen.merge(H, mask)
    some = np.random.default_rng(seed).permutation(m)[: m // 2 + 1]
    np.testing.assert_array_equal(frozen.merge(H[some], mask[some])[0], together[some])
    np.testing.assert_array_equal(frozen.merge(H[:1], mask[:1])[0], together[:1])


def test_freezing_copies() -> None:
    module = attention(4)
    frozen = FrozenHistory(module)
    H, mask = rows_of(10, 3, 4, seed=3)
    before, _ = frozen.merge(H, mask)
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    np.testing.assert_array_equal(frozen.merge(H, mask)[0], before)
