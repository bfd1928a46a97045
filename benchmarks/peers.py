"""Training from Kafka compared with libraries that train from memory: rows per second, and AUC.

    python benchmarks/peers.py [--short] [--venvs FOLDER] [--form arrow|json] [--rows 1000000]

All use the same seeded clicks: 16 fields, dimension 16, DCN-V2 with two cross layers, MLP 256-128-64 with batch norm,
batches of 4,096, every row once, in order; the last rows are scored at the end.

Ours     a worker as in production (consumer, decoding, alignment, journal, checkpoints, scores of 10 % of the users,
         monitor) on a filled topic of two partitions of an embedded broker; packed Arrow messages or JSON.
Peers    FuxiCTR, torch-rechub, DeepCTR-Torch, each in its own environment, on arrays in memory, with all cores for torch
         and their own optimisers, learning rates and dense or sparse gradients. FuxiCTR and torch-rechub get prepared
         batches, which is faster than their loaders; DeepCTR-Torch's ``fit`` makes its own.
Scale    River (one row at a time) and Vowpal Wabbit (text lines in memory): linear models.

At 10 M ids the peers learn a limited number of rows, because the cost of their steps depends on the size of the table.

The last line is JSON: ``ratio_100k`` and ``ratio_10m``, our rows/s divided by those of the fastest deep-learning peer;
``auc_100k_difference``, our AUC minus that of the best deep-learning peer, on the last rows, with a 95 % interval (bootstrap
over rows). ``--products float32 bfloat16`` runs ours twice; ``ratio_100k_bfloat16`` is then the ratio of the second run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

# Not from this folder: its modules have names that other packages use, too.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
sys.path.append(str(HERE.parent))

import numpy as np

from benchmarks._clicks import BATCH, FIELDS, HIDDEN, clicks, names, per_field
from benchmarks._events import frame
from ecdctr import factory
from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.metrics import auc
from ecdctr.settings import dump_toml, load_settings
from ecdctr.streams.embedded import EmbeddedBroker
from ecdctr.streams.producer import produce
from ecdctr.streams.topics import ensure_topics

DEEP = {
    "fuxictr": ("fuxictr==2.3.10", "torch==2.13.0"),
    "torch_rechub": ("torch-rechub==0.9.0", "torch==2.13.0"),
    "deepctr_torch": ("deepctr-torch==0.3.0", "torch==2.13.0", "requests==2.34.2"),
}
LINEAR = {"river": ("river==0.26.1",), "vowpalwabbit": ("vowpalwabbit==9.11.9", "numpy==2.4.6")}
SCALES = {"100k": 100_000, "10m": 10_000_000}


def environment(folder: Path, library: str) -> Path:
    """Python of the library's environment, created if it does not exist; RuntimeError with the message of pip."""
    place = folder / library
    python, done = place / "bin" / "python", place / ".installed"
    wanted = {**DEEP, **LINEAR}[library]
    if not done.exists() or done.read_text() != " ".join(wanted):
        venv.create(place, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for package in reversed(wanted):  # torch first: the libraries then use the installed version
            got = subprocess.run([*pip, package], capture_output=True, text=True, check=False)
            if got.returncode:
                raise RuntimeError(f"{package} does not install: {got.stderr.strip().splitlines()[-1]}")
        done.write_text(" ".join(wanted))
    return python


def peer(
    library: str, python: Path, rows: Path, scale: str, train: int, threads: int, limit_s: float
) -> dict[str, Any]:
    """Rows/s and scores of the last rows, of one library in a separate process."""
    scores = rows.with_name(f"{library}-{scale}.npy")
    got = subprocess.run(
        [
            python, HERE / "_peer.py", library, rows, "--size", str(per_field(SCALES[scale])),
            "--train", str(train), "--scores", scores, "--threads", str(threads),
        ],
        capture_output=True, text=True, check=False, timeout=limit_s, cwd=rows.parent,
    )  # fmt: skip
    if got.returncode:
        raise RuntimeError(got.stderr.strip().splitlines()[-1])
    return {**json.loads(got.stdout.splitlines()[-1]), "scores": np.load(scores)}


def ours(
    x: np.ndarray, y: np.ndarray, rows: Path, scale: str, train: int, form: str, threads: int, products: str
) -> dict[str, Any]:
    """The same for a worker on a topic with the same rows."""
    size = per_field(SCALES[scale])
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker() as broker:
        # Twice as many buckets as ids: some of our ids share a row; those of the other libraries do not.
        features = [FeatureSpec(name=name, buckets=2 * size) for name in names()]
        overrides = [
            'model.history="none"',
            f"model.natural_batch={BATCH}",
            'model.transfer="reload"',  # the network alone: no other arm learns natural rows
            f"model.hidden={list(HIDDEN)}",
            f"model.threads={threads}",
            f'model.products="{products}"',
            'schedule.releases="never"',
            f'kafka.brokers=["{broker.address}"]',
            f'state.folder="{folder}/state"',
            "worker.max_idle_s=0.5",
            "monitor.port=0",
        ]
        settings = load_settings(None, overrides, environ={}).settings
        settings = factory.use_features(settings, features, configured=False)
        config = Path(folder) / "ecdctr.toml"
        config.write_text(dump_toml(settings), encoding="utf-8")
        ensure_topics(settings.kafka, settings.topics)
        produce(
            [frame(x[:train], y[:train])],
            settings.kafka,
            settings.topics,
            packed=512 if form == "arrow" else 0,
        )
        scores = rows.with_name(f"ours-{scale}-{form}.npy")
        got = subprocess.run(
            [
                sys.executable, HERE / "_live.py", config,
                "--rows", str(train), "--tail", rows, "--scores", scores,
            ],
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
    if got.returncode:
        raise RuntimeError("our worker failed:\n" + got.stderr[-2000:])
    return {**json.loads(got.stdout.splitlines()[-1]), "scores": np.load(scores)}


def difference(label: np.ndarray, one: np.ndarray, other: np.ndarray, draws: int = 200) -> list[float]:
    """AUC of one minus AUC of the other, and its 95 % interval."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        pick = rng.integers(0, len(label), len(label))
        found.append(auc(label[pick], one[pick]) - auc(label[pick], other[pick]))
    at = auc(label, one) - auc(label, other)
    return [round(float(v), 4) for v in (at, *np.quantile(found, [0.025, 0.975]))]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cache = Path(tempfile.gettempdir()) / "ecdctr-peers"
    parser.add_argument("--venvs", type=Path, default=cache, help=f"environments of the peers ({cache})")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows to learn")
    parser.add_argument(
        "--rows-10m", type=int, default=102_400, help="rows of the deep-learning peers at 10 M ids"
    )
    parser.add_argument("--tail", type=int, default=100_000, help="rows to score")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="torch threads, for all candidates"
    )
    parser.add_argument(
        "--products",
        nargs="+",
        choices=["float32", "bfloat16"],
        default=["float32"],
        help="precision of our matrix products",
    )
    parser.add_argument("--form", choices=["arrow", "json"], default="arrow", help="format of our messages")
    parser.add_argument("--scales", nargs="+", choices=list(SCALES), default=list(SCALES))
    parser.add_argument("--skip-peers", action="store_true", help="run ours only")
    parser.add_argument("--short", action="store_true", help="300,000 rows; 16,384 of the peers at 10 M ids")
    options = parser.parse_args()
    rows = 300_000 if options.short else options.rows
    bounded = 4 * BATCH if options.short else options.rows_10m
    result: dict[str, Any] = {}
    print(
        f"{FIELDS} fields, {rows:,} rows; peers at 10 M ids: {bounded:,} rows; ours from Kafka ({options.form})"
    )
    print("ids    system          learned rows     rows/s    AUC      CPU us per row")
    with tempfile.TemporaryDirectory() as folder:
        for scale in options.scales:
            x, y = clicks(rows + options.tail, SCALES[scale])
            arrays = Path(folder) / f"rows-{scale}.npz"
            np.savez(arrays, x=x, y=y, tail=rows)
            label = y[rows:]
            found: dict[str, dict[str, Any]] = {}
            for library in () if options.skip_peers else (*DEEP, *LINEAR):
                train = (
                    min(rows, bounded)
                    if scale == "10m"
                    else min(rows, 100_000 if library == "river" else rows)
                )
                try:
                    python = environment(options.venvs, library)
                    found[library] = peer(library, python, arrays, scale, train, options.threads, 600)
                except (RuntimeError, subprocess.SubprocessError) as error:
                    print(f"{scale:>4}   {library:<15} not measured: {str(error)[:150]}", flush=True)
                    continue
                _print_row(scale, library, found[library], label)
            own = {}
            for products in options.products:
                name = "ours" if products == "float32" else f"ours ({products})"
                got = ours(x, y, arrays, scale, rows, options.form, options.threads, products)
                own[products] = found[name] = got
                _print_row(scale, name, got, label)
            mine = own[options.products[0]]
            deep = [p for p in DEEP if p in found]
            result[f"rows_per_s_{scale}"] = {n: round(f["rows_per_s"]) for n, f in found.items()}
            result[f"auc_{scale}"] = {n: round(float(auc(label, f["scores"])), 4) for n, f in found.items()}
            result[f"cpu_us_a_row_{scale}"] = {n: round(f["cpu_us_a_row"], 1) for n, f in found.items()}
            result[f"training_share_{scale}"] = round(mine["training"], 3)
            if deep:
                quickest = max(deep, key=lambda p: found[p]["rows_per_s"])
                for products, got in own.items():
                    name = f"ratio_{scale}" + ("" if got is mine else f"_{products}")
                    result[name] = round(got["rows_per_s"] / found[quickest]["rows_per_s"], 2)
                if scale == "100k":
                    best = max(deep, key=lambda p: float(auc(label, found[p]["scores"])))
                    result["auc_100k_difference"] = difference(label, mine["scores"], found[best]["scores"])
    print(json.dumps(result))
    return 0


def _print_row(scale: str, name: str, found: dict[str, Any], label: np.ndarray) -> None:
    print(
        f"{scale:>4}   {name:<15} {found['rows']:>12,}   {found['rows_per_s']:>8,.0f}    "
        f"{auc(label, found['scores']):.4f}   {found['cpu_us_a_row']:9.1f}",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
