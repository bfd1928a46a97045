"""The baseline of ``stream_efficiency.py``: the same network trained on the same batches from memory, and nothing else.

    python benchmarks/_bare.py config.toml --rows rows.npz

Batches are decoded, and their TPM vectors looked up, before the clock starts. The timed part is the training loop of any
trainer on arrays: distinct rows of a batch, forward, backward, optimizer. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
sys.path.append(str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks._clicks import BATCH, START_MS
from benchmarks._events import frame
from ecdctr import factory
from ecdctr.models.arms import Prepared
from ecdctr.settings import load_settings

WARM = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--rows", type=Path, required=True)
    options = parser.parse_args()
    settings = load_settings(options.config, environ={}).settings
    arrays = np.load(options.rows)
    whole = factory.decoder(settings).from_frame(frame(arrays["x"], arrays["y"])).batch
    batches = [whole.take(slice(i, i + BATCH)) for i in range(0, len(whole) - BATCH + 1, BATCH)]
    engine = factory.memory_engine(settings)
    engine.bind_thread()
    trainer = engine.trainer
    trainer.clock = START_MS
    if trainer.store is not None:
        trainer.use_months(tuple(trainer.store.select(START_MS, settings.tpm.k)))
    arm, encoder = trainer.arms["cpm"], trainer.encoder
    history = [arm.prepare(encoder.encode(batch), batch).history for batch in batches]
    seconds, used = [], []
    for batch, read in zip(batches, history, strict=True):
        began, cpu = time.perf_counter(), time.process_time()
        arm.learn_chunks([Prepared(encoder.encode(batch), read)])
        seconds.append(time.perf_counter() - began)
        used.append(time.process_time() - cpu)
    timed = seconds[WARM:]
    rows = BATCH * len(timed)
    result = {
        "rows_per_s": rows / sum(timed),
        "step_ms": 1000 * float(np.median(timed)),
        "cpu_us_a_row": 1e6 * sum(used[WARM:]) / rows,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
