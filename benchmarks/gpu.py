"""A training step on a CUDA device, compared with the time to move its bytes at the measured bandwidth.

    python benchmarks/gpu.py [--short] [--ids 10000000] [--steps 200]

16 fields x 16, DCN-V2 with two cross layers, MLP 256-128-64, batches of 4 k to 64 k rows. Measured by CUDA events, after
a warm-up: the step on batches in device memory (``step``); the same with each batch copied from pinned memory on a separate
stream while the previous one trains (``fed``); and the rows per second that the host can encode (``host``).
The limit is a model: the bytes that the step has to move (rows and accumulators of distinct ids read and written, the
activations of each layer written and read once in each direction) divided by the bandwidth of a copy on the device.

The last line is JSON: ``rows_per_s``, the best ``step`` rate. Without a CUDA device the script prints that and ends.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np
import torch

from ecdctr.events.batch import Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.models.arms import ArmSpec, NetworkArm
from ecdctr.models.nets import (
    Encoded,
    InputEncoder,
    choose_device,
)
from ecdctr.models.settings import ModelSettings

FIELDS, DIM, KINDS = 16, 16, 8
HIDDEN = (256, 128, 64)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--short", action="store_true", help="50 steps, 1 M ids")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device")
        print(json.dumps({"device": None}))
        return 0
    steps, ids = (50, 1_000_000) if options.short else (options.steps, options.ids)
    device = choose_device("cuda")
    bandwidth = _bandwidth(device)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; copy {bandwidth / 1e9:,.0f} GB/s")
    schema = FeatureSchema([FeatureSpec(name=f"f{i}", buckets=ids // FIELDS) for i in range(FIELDS)], DIM)
    encoder, on_host = InputEncoder(schema, device), InputEncoder(schema, torch.device("cpu"))
    model = ModelSettings(history="none", hidden=HIDDEN)
    print("   batch   step rows/s    fed rows/s   host rows/s   limit rows/s")
    found = {}
    for n in (4096, 8192, 16_384, 32_768, 65_536):
        spec = ArmSpec("cpm", (0,), "none", 1e-3, 0.1, n)
        arm = NetworkArm(spec, encoder, 0, model, DIM, device)
        batches = [_batch(n, ids // FIELDS, seed) for seed in range(KINDS)]
        began = time.perf_counter()
        host = [on_host.encode(batch) for batch in batches]
        host_rate = KINDS * n / (time.perf_counter() - began)
        there = [_to(e, device) for e in host]
        step = n / _timed(lambda i, a=arm, b=batches, e=there: _learn(a, e[i % KINDS], b[i % KINDS]), steps)
        fed = n / _fed(arm, [_pin(e) for e in host], batches, device, steps)
        distinct = float(np.mean([len(e.tables[0].index) for e in host]))
        limit = n * bandwidth / _bytes(n, distinct)
        found[n] = {"step": round(step), "fed": round(fed), "host": round(host_rate), "limit": round(limit)}
        print(f"{n:>8,}   {step:>11,.0f}   {fed:>11,.0f}   {host_rate:>11,.0f}   {limit:>12,.0f}", flush=True)
        del arm, there
        torch.cuda.empty_cache()
    best = max(f["step"] for f in found.values())
    print(json.dumps({"rows_per_s": best, "bandwidth_gb_s": round(bandwidth / 1e9), "by_batch": found}))
    return 0


def _learn(arm: NetworkArm, encoded: Encoded, batch: Batch) -> None:
    arm.learn_chunks([arm.prepare(encoded, batch)])


def _fed(
    arm: NetworkArm, pinned: list[Encoded], batches: list[Batch], device: torch.device, steps: int
) -> float:
    """Seconds per step while the next batch is copied on its own stream."""
    copies = torch.cuda.Stream(device)
    compute = torch.cuda.current_stream(device)
    ahead: list[tuple[Encoded, torch.cuda.Event]] = []

    def fetch(i: int) -> None:
        with torch.cuda.stream(copies):
            moved = _to(pinned[i % KINDS], device)
            ahead.append((moved, copies.record_event()))

    def step(i: int) -> None:
        encoded, ready = ahead.pop()
        fetch(i + 1)
        compute.wait_event(ready)
        for tensor in _tensors(encoded):
            tensor.record_stream(
                compute
            )  # made on the other stream: not to be reused before this step is through
        _learn(arm, encoded, batches[i % KINDS])

    fetch(0)
    return _timed(step, steps)


def _timed(step: Callable[[int], None], steps: int) -> float:
    """Seconds of one step: the median of five runs, by CUDA events."""
    for i in range(KINDS):
        step(i)
    at, each = KINDS, max(1, steps // 5)
    seconds = []
    for _ in range(5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(each):
            step(at)
            at += 1
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1000 / each)
    return float(np.median(seconds))


def _bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy on the device reads and writes."""
    source = torch.empty(1 << 28, device=device)  # 1 GiB
    target = torch.empty_like(source)
    seconds = _timed(lambda _: target.copy_(source), 25)  # type: ignore[arg-type,return-value]
    return 2 * source.numel() * 4 / seconds


def _bytes(n: int, distinct: float) -> float:
    """Minimum traffic of a step in bytes: see the module's docstring."""
    width = FIELDS * DIM
    rows = distinct * (DIM + 1) * 4 * 2  # values and accumulator, read and written
    places = n * FIELDS * (8 * 2 + DIM * 4 * 2)  # positions; gathered vectors there and back
    forward = 2 * width * 2 + sum(HIDDEN) * 2  # inner product and result of a cross layer; linear, norm
    return rows + places + n * forward * 4 * 4  # written and read, in both directions


def _batch(n: int, size: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    ids = ((size + 1.0) ** rng.random((n, FIELDS))).clip(1, size).astype(np.int32)  # Zipf's law
    return Batch(
        ts=np.full(n, 1_700_000_000_000, np.int64),
        domain=np.zeros(n, np.uint8),
        user=ids[:, 0].astype(np.uint64),
        item=ids[:, 1].astype(np.uint64),
        features=ids,
        dense=np.empty((n, 0), np.float32),
        label=(rng.random(n) < 0.2).astype(np.float32),
    )


def _map(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same object with a function applied to every tensor in it."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_map(v, change) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _map(getattr(value, f.name), change) for f in fields(value)})
    return value


def _to(encoded: Encoded, device: torch.device) -> Encoded:
    out: Encoded = _map(encoded, lambda t: t.to(device, non_blocking=True))
    return out


def _pin(encoded: Encoded) -> Encoded:
    out: Encoded = _map(encoded, lambda t: t.pin_memory() if t.numel() else t)
    return out


def _tensors(encoded: Encoded) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    _map(encoded, keep)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
