"""Rows with a loss or gradient that is not finite, or that explodes: their step is learned without them, and they become dead letters."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import polars as pl
import pytest

from ecdctr.models.serving import extreme_values
from tests.support.sites import frame

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.brokers(
        "embedded", reason="which steps are rolled back does not depend on the broker, and takes long"
    ),
]


@pytest.fixture
def unlimited(monkeypatch, tmp_path):
    """Extreme values reach the models, here and in new interpreters: otherwise no row gives such a loss."""
    (tmp_path / "sitecustomize.py").write_text(
        "from ecdctr.models.serving import extreme_values\n\nextreme_values.FREE = float('inf')\n"
    )
    folders = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))
    monkeypatch.setattr(extreme_values, "FREE", float("inf"))


def test_case_s5_rows_without_a_finite_loss_become_dead_letters_and_those_beside_them_are_learned(
    unlimited, site
):
    rows = 1500
    events = frame(rows).with_columns(
        price=pl.when(pl.col("event_id").is_in([700, 701, 703])).then(1e30).otherwise(pl.col("price"))
    )
    site.produce(events[:702])
    broken = 2
    site.send(f"{site.name}-natural", [b"{broken"] * broken)  # amid the rows of a step that is taken back
    site.produce(events[702:])
    worker = site.start(new_interpreter=True)
    site.train(rows + broken, worker)
    site.wait(site.says("were not learned"), "leave out rows", worker)
    site.kill(worker)  # what follows the checkpoint is done again, and must not be buried again
    worker = site.start(new_interpreter=True)
    site.wait(lambda: site.log().count("live from step") == 2, "recover", worker)
    site.produce(300, first=rows)
    site.train(rows + broken + 300, worker)
    code, _ = site.terminate(worker)
    assert code == 0

    letters = [r for t in ("natural", "ad") for r in site.read(f"{site.name}-{t}.dlq")]
    assert [r.value for r in letters].count(b"{broken") == broken, (
        "what did not fit is there for that reason alone"
    )
    letters = [r for r in letters if r.value != b"{broken"]
    headers = [dict(letter.headers) for letter in letters]
    assert {h["ecdctr-reason"] for h in headers} == {b"loss"}
    assert all(b"finite" in h["ecdctr-detail"] for h in headers)
    origins = [(h["ecdctr-topic"], h["ecdctr-partition"], h["ecdctr-offset"]) for h in headers]
    assert len(set(origins)) == len(origins), "a letter was sent twice"
    buried = {json.loads(letter.value)["event_id"] for letter in letters}
    assert buried == {700, 701, 703}

    rebuilt = site.rebuild()
    assert rebuilt.identical, rebuilt.verdict
    assert rebuilt.trained == rows + 300 - len(buried), "each row was learned or buried"
    assert rebuilt.engine.progress.skipped_rows == len(buried)
    assert site.books() == (0, 0)
    audit = subprocess.run(
        [sys.executable, "-m", "ecdctr", "replay", "--journal", "--config", str(site.config), "--out", str(site.folder / "replayed")],
        capture_output=True, text=True, env={**os.environ, "COLUMNS": "500"},
    )  # fmt: skip
    assert audit.returncode == 0, audit.stderr
    assert "identical" in audit.stdout
