"""The network against formulas written out by hand in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ecdctr.models.nets.flat_parameters import initialise
from ecdctr.models.nets.input_encoder import InputEncoder
from ecdctr.models.nets.network import CtrNet, HistoryInput, is_batch_norm


def build(world: Any, **changes: Any) -> tuple[CtrNet, InputEncoder]:
    history = changes.pop("history_dim", None)
    flag = changes.pop("domain_flag", False)
    encoder = InputEncoder(world.schema, torch.device("cpu"))
    net = CtrNet(encoder.layouts, world.schema.n_dense, world.model(**changes), history, flag)
    initialise(net, 1)
    return net, encoder


def rows_of(
    encoder: InputEncoder, encoded: Any, seed: int = 0
) -> tuple[list[torch.Tensor], list[np.ndarray]]:
    """Random tables, and the rows of them that a batch needs."""
    rng = np.random.default_rng(seed)
    tables = [rng.normal(size=(layout.rows, layout.dim)).astype(np.float32) for layout in encoder.layouts]
    return [torch.from_numpy(t[r.index]) for t, r in zip(tables, encoded.tables, strict=True)], tables


def by_hand(world: Any, batch: Any, tables: list[np.ndarray]) -> np.ndarray:
    """Input vector of each row: width 3 first (site), then width 4 (user, item, mean of tags), then the numbers."""
    site, wide = tables
    out = []
    for features, dense in zip(batch.features, batch.dense, strict=True):
        tags = [wide[102 + tag] for tag in features[3:6] if tag]
        out.append(
            np.concatenate(
                [
                    site[features[2]],
                    wide[features[0]],
                    wide[61 + features[1]],
                    np.mean(tags, axis=0) if tags else np.zeros(4, np.float32),
                    dense / np.sqrt(1 + 1e-5),
                ]
            )
        )
    return np.stack(out)


def mlp_by_hand(net: CtrNet, x: np.ndarray) -> np.ndarray:
    hidden = x
    for linear in net.linear:
        hidden = np.maximum(hidden @ linear.weight.detach().numpy().T / np.sqrt(1 + 1e-5), 0)
    return hidden @ net.out.weight.detach().numpy()[0] + net.out.bias.detach().numpy()


def test_dcn_is_the_formula_of_the_paper(world: Any) -> None:
    net, encoder = build(world)
    batch = world.batch(20)
    batch.features[3, 3:] = 0  # an empty bag
    encoded = encoder.encode(batch)
    rows, tables = rows_of(encoder, encoded)
    x = by_hand(world, batch, tables)
    crossed = x
    for layer in net.cross:
        crossed = x * (crossed @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()) + crossed
    expected = mlp_by_hand(net, x) + crossed @ net.out_cross.weight.detach().numpy()[0]
    with torch.no_grad():
        found = net(rows, encoded, None, training=False).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_dot_gives_the_mlp_the_products_of_all_pairs(world: Any) -> None:
    net, encoder = build(world, interaction="dot")
    batch = world.batch(12)
    encoded = encoder.encode(batch)
    rows, tables = rows_of(encoder, encoded)
    x = by_hand(world, batch, tables)
    user, item, tags = x[:, 3:7], x[:, 7:11], x[:, 11:15]  # only vectors of the model's own width
    pairs = np.stack([(user * item).sum(1), (user * tags).sum(1), (item * tags).sum(1)], axis=1)
    with torch.no_grad():
        found = net(rows, encoded, None, training=False).numpy()
    np.testing.assert_allclose(
        found, mlp_by_hand(net, np.concatenate([x, pairs], axis=1)), rtol=1e-3, atol=1e-4
    )


def test_without_interaction_it_is_the_mlp(world: Any) -> None:
    net, encoder = build(world, interaction="none")
    batch = world.batch(12)
    encoded = encoder.encode(batch)
    rows, tables = rows_of(encoder, encoded)
    with torch.no_grad():
        found = net(rows, encoded, None, training=False).numpy()
    np.testing.assert_allclose(found, mlp_by_hand(net, by_hand(world, batch, tables)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("interaction", ["dcn", "dot", "none"])
@pytest.mark.parametrize("history_dim", [4, 7])
def test_history_and_flag_enter_as_inputs(world: Any, interaction: str, history_dim: int) -> None:
    net, encoder = build(world, interaction=interaction, history_dim=history_dim, domain_flag=True)
    encoded = encoder.encode(world.batch(10))
    rows, _ = rows_of(encoder, encoded)

    def run(scale: float, present: float) -> torch.Tensor:
        given = HistoryInput(
            inverse=torch.zeros(10, dtype=torch.int64),
            vectors=torch.full((1, history_dim), scale),
            present=torch.tensor([present]),
        )
        with torch.no_grad():
            return net(rows, encoded, (given, given), training=False)

    assert not torch.equal(run(0.0, 1.0), run(1.0, 1.0))
    assert not torch.equal(run(0.0, 1.0), run(0.0, 0.0))


def test_the_product_of_user_and_item_history_is_an_input(world: Any) -> None:
    """In a network that is linear in its inputs, a combination of four logits isolates the product's contribution."""
    net, encoder = build(world, interaction="none", hidden=(), history_dim=4)
    encoded = encoder.encode(world.batch(10))
    rows, _ = rows_of(encoder, encoded)
    rng = np.random.default_rng(3)
    user, item = rng.normal(size=(2, 4)).astype(np.float32)
    none = np.zeros(4, np.float32)

    def run(*vectors: np.ndarray) -> np.ndarray:
        given = [
            HistoryInput(
                inverse=torch.zeros(10, dtype=torch.int64),
                vectors=torch.from_numpy(vector).unsqueeze(0),
                present=torch.ones(1),
            )
            for vector in vectors
        ]
        with torch.no_grad():
            return net(rows, encoded, (given[0], given[1]), training=False).numpy()  # type: ignore[no-any-return]

    together = run(user, item) - run(user, none) - run(none, item) + run(none, none)
    weights = net.out.weight.detach().numpy()[0, -4:]
    np.testing.assert_allclose(together, np.full(10, (user * item) @ weights), rtol=1e-3, atol=1e-5)


def test_parameters_of_batch_norm_are_recognised_by_name(world: Any) -> None:
    net, _ = build(world, history_dim=4)
    names = {n for n, _ in [*net.named_parameters(), *net.named_buffers()] if is_batch_norm(n)}
    assert names == {
        *(f"norm.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")),
        *(
            f"{norm}.{part}"
            for norm in ("norm.0", "norm.1", "dense_norm")
            for part in ("running_mean", "running_var", "num_batches_tracked")
        ),
    }
