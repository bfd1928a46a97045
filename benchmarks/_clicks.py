"""Data of ``peers.py`` and its helpers: seeded clicks that depend on the ids of sixteen fields."""

from __future__ import annotations

import numpy as np

FIELDS = 16
DIM = 16
HIDDEN = (256, 128, 64)
CROSS_LAYERS = 2
BATCH = 4096
START_MS = 1_700_000_000_000

_LATENT = 4


def names() -> list[str]:
    """Names of the fields; the first two are the ones that every event has."""
    return ["user_id", "item_id", *(f"c{i}" for i in range(2, FIELDS))]


def per_field(ids: int) -> int:
    """Number of distinct ids per field."""
    return max(2, ids // FIELDS)


def clicks(rows: int, ids: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids 0 .. ``ids / 16`` of each field, int64 ``(rows, 16)``, and labels, float32 ``(rows,)``.

    The k-th id of a field is drawn with weight 1 / k (Zipf's law with exponent 1). The true logit is the sum of one
    effect per id, of the product of user and item vectors, and of the products of two further pairs of fields, so that
    both the interaction layer and the embeddings matter; the base rate of clicks is near 20 %.
    """
    size = per_field(ids)
    rng = np.random.default_rng([seed, ids])
    # ln-uniform draws: the k-th value has the weight 1 / k
    x = np.minimum((size + 1.0) ** rng.random((rows, FIELDS)), size).astype(np.int64) - 1
    logit = np.full(rows, -1.6)
    for f in range(FIELDS):
        logit += 0.3 * rng.standard_normal(size).astype(np.float32)[x[:, f]]
    for a, b in ((0, 1), (0, 2), (1, 3)):
        left = rng.standard_normal((size, _LATENT)).astype(np.float32)
        right = rng.standard_normal((size, _LATENT)).astype(np.float32)
        logit += 0.35 * np.einsum("nd,nd->n", left[x[:, a]], right[x[:, b]])
    label = (rng.random(rows) < 1.0 / (1.0 + np.exp(-logit))).astype(np.float32)
    return x, label
