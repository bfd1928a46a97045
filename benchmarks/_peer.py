"""The other part of ``peers.py``: one library, run in its own environment, on arrays in memory.

    <environment>/bin/python benchmarks/_peer.py fuxictr rows.npz --sizes 6250 --train 300000 --scores scores.npy

``rows.npz`` contains ``x`` (ids of 16 fields) and ``y``; the first ``--train`` rows are learned once, the others are scored.
The first batch is not timed. Each library uses its own optimiser, learning rates and handling of sparse gradients; the
deep-learning libraries get prepared batches of tensors (DeepCTR-Torch's ``fit`` makes its own). Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _clicks import BATCH, CROSS_LAYERS, DIM, HIDDEN, names

Result = tuple[Callable[[int, int], None], Callable[[np.ndarray], np.ndarray]]


def fuxictr(x: np.ndarray, y: np.ndarray, size: int) -> Result:
    """Layers and training loop of FuxiCTR, composed like its DCNv2 (parallel form)."""
    import torch
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    class DCNv2(BaseModel):  # type: ignore[misc]
        def __init__(self, feature_map: Any, **kwargs: Any) -> None:
            super().__init__(feature_map, **kwargs)
            width = len(names()) * DIM
            self.embedding_layer = FeatureEmbedding(feature_map, DIM)
            self.crossnet = CrossNetV2(width, CROSS_LAYERS)
            self.parallel_dnn = MLP_Block(
                input_dim=width, output_dim=None, hidden_units=list(HIDDEN), batch_norm=True
            )
            self.fc = torch.nn.Linear(width + HIDDEN[-1], 1)
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()

        def forward(self, inputs: Any) -> dict[str, Any]:
            emb = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
            both = torch.cat([self.crossnet(emb), self.parallel_dnn(emb)], dim=-1)
            return {"y_pred": self.output_activation(self.fc(both))}

    features = FeatureMap("clicks", ".")
    for name in names():
        features.features[name] = {"type": "categorical", "source": "", "vocab_size": size}
    features.labels, features.num_fields = ["label"], len(names())
    folder = tempfile.mkdtemp()
    model = DCNv2(features, model_id="m", gpu=-1, verbose=0, model_root=folder, metrics=["AUC"])
    model._eval_steps, model._max_gradient_norm, model._stop_training = 10**12, 10.0, False
    model._total_steps = 0

    def batches(first: int, end: int) -> Iterator[dict[str, Any]]:
        for i in range(first, end, BATCH):
            part = torch.from_numpy(x[i : min(i + BATCH, end)])
            out = {name: part[:, f] for f, name in enumerate(names())}
            out["label"] = torch.from_numpy(y[i : min(i + BATCH, end)])
            yield out

    def predict(tail: np.ndarray) -> np.ndarray:
        model.eval()
        with torch.no_grad():
            parts = []
            for i in range(0, len(tail), BATCH):
                part = torch.from_numpy(tail[i : i + BATCH])
                parts.append(model({name: part[:, f] for f, name in enumerate(names())})["y_pred"][:, 0])
            return torch.cat(parts).numpy()

    return lambda a, b: model.train_epoch(batches(a, b)), predict


def torch_rechub(x: np.ndarray, y: np.ndarray, size: int) -> Result:
    import torch
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.models.ranking import DCNv2
    from torch_rechub.trainers import CTRTrainer

    columns = [SparseFeature(name, vocab_size=size, embed_dim=DIM) for name in names()]
    mlp = {"dims": list(HIDDEN), "activation": "relu", "dropout": 0}
    model = DCNv2(columns, CROSS_LAYERS, mlp, use_low_rank_mixture=False)
    trainer = CTRTrainer(model)

    def batches(first: int, end: int) -> Iterator[Any]:
        for i in range(first, end, BATCH):
            part = torch.from_numpy(x[i : min(i + BATCH, end)])
            label = torch.from_numpy(y[i : min(i + BATCH, end)])
            yield {name: part[:, f] for f, name in enumerate(names())}, label

    def predict(tail: np.ndarray) -> np.ndarray:
        model.eval()
        with torch.no_grad():
            parts = []
            for i in range(0, len(tail), BATCH):
                part = torch.from_numpy(tail[i : i + BATCH])
                parts.append(model({name: part[:, f] for f, name in enumerate(names())}))
            return torch.cat(parts).numpy()

    return lambda a, b: trainer.train_one_epoch(batches(a, b)), predict


def deepctr_torch(x: np.ndarray, y: np.ndarray, size: int) -> Result:
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DCN

    columns = [SparseFeat(name, size, embedding_dim=DIM) for name in names()]
    model = DCN(
        [], columns, cross_num=CROSS_LAYERS, cross_parameterization="matrix",
        dnn_hidden_units=HIDDEN, dnn_use_bn=True,
    )  # fmt: skip
    model.compile("adam", "binary_crossentropy")

    def inputs(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: rows[:, f] for f, name in enumerate(names())}

    def learn(first: int, end: int) -> None:
        model.fit(inputs(x[first:end]), y[first:end], batch_size=BATCH, epochs=1, verbose=0, shuffle=False)

    return learn, lambda tail: model.predict(inputs(tail), BATCH)[:, 0]


def river(x: np.ndarray, y: np.ndarray, size: int) -> Result:
    """Logistic regression, one row at a time, with one weight per id."""
    from river.linear_model import LogisticRegression

    model = LogisticRegression()
    base = np.arange(x.shape[1]) * size

    def learn(first: int, end: int) -> None:
        for row, label in zip((x[first:end] + base).tolist(), y[first:end].tolist(), strict=True):
            model.learn_one(dict.fromkeys(row, 1.0), label > 0)

    def predict(tail: np.ndarray) -> np.ndarray:
        rows = (tail + base).tolist()
        return np.array([model.predict_proba_one(dict.fromkeys(row, 1.0))[True] for row in rows])

    return learn, predict


def vowpalwabbit(x: np.ndarray, y: np.ndarray, size: int) -> Result:
    """Logistic regression over text lines in memory."""
    from vowpalwabbit import Workspace

    bits = int(np.ceil(np.log2(2 * size * x.shape[1])))
    model = Workspace(f"--loss_function logistic --link logistic -b {bits} --quiet")

    def lines(rows: np.ndarray, labels: np.ndarray | None) -> list[str]:
        texts = [" ".join(f"{f}_{i}" for f, i in enumerate(row)) for row in rows.tolist()]
        if labels is None:
            return [f"| {text}" for text in texts]
        return [f"{1 if label else -1} | {text}" for label, text in zip(labels.tolist(), texts, strict=True)]

    made: dict[tuple[int, int], list[str]] = {}

    def learn(first: int, end: int) -> None:
        for line in made[first, end]:
            model.learn(line)

    def prepare(first: int, end: int) -> None:
        made[first, end] = lines(x[first:end], y[first:end])

    learn.prepare = prepare  # type: ignore[attr-defined]
    return learn, lambda tail: np.array([model.predict(line) for line in lines(tail, None)])


LIBRARIES = {f.__name__: f for f in (fuxictr, torch_rechub, deepctr_torch, river, vowpalwabbit)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library", choices=list(LIBRARIES))
    parser.add_argument("rows", type=Path)
    parser.add_argument("--size", type=int, required=True, help="ids per field")
    parser.add_argument("--train", type=int, required=True, help="rows to learn")
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.library not in ("river", "vowpalwabbit"):
        import torch

        torch.manual_seed(0)
        if options.threads:
            torch.set_num_threads(options.threads)
    arrays = np.load(options.rows)
    x, y = arrays["x"], arrays["y"]
    learn, predict = LIBRARIES[options.library](x, y, options.size)
    if hasattr(learn, "prepare"):
        learn.prepare(0, BATCH)
        learn.prepare(BATCH, options.train)
    learn(0, BATCH)
    began, cpu = time.perf_counter(), time.process_time()
    learn(BATCH, options.train)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    np.save(options.scores, predict(x[int(arrays["tail"]) :]))
    rows = options.train - BATCH
    print(json.dumps({"rows_per_s": rows / seconds, "rows": options.train, "cpu_us_a_row": 1e6 * cpu / rows}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
