"""``ecdctr demo``: the whole system once, with a kill -9 in the middle, and a table at the end."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ecdctr import factory
from ecdctr.commands.demo_cluster import DemoCluster, demo_cluster
from ecdctr.commands.rebuild import rebuild
from ecdctr.commands.replay import replay_source
from ecdctr.commands.tpm_train import train_tpm
from ecdctr.models.training import audit
from ecdctr.replay.figures import evaluate
from ecdctr.replay.report import REPORT_FILES, ReportMeta, write_report
from ecdctr.settings import Loaded, Settings, dump_toml, load_settings
from ecdctr.sources import open_with_features
from ecdctr.state.errors import StreamError
from ecdctr.state.journals import Journal
from ecdctr.state.lock import FolderLock
from ecdctr.state.output_folder import OutputFolder
from ecdctr.state.positions import Positions
from ecdctr.state.row_logs import ScoreLog

__all__ = ["run_demo"]

_FILES = (
    *REPORT_FILES, "summary.json", "ecdctr.toml", "state", "offline", "broker.log", "producer.log", "worker.log",
)  # fmt: skip

# Small enough for two cores and three minutes; `replay sim` without options is the full-size simulator.
SIMULATOR = (
    "sim:seed={seed},days=106,live_from=90,history_per_day=8000,natural_per_day=28000,ads_per_day=1400"
)
EBNERD = "ebnerd:{data}?mapping={mapping}"
TIMEOUT_S = 240.0
END_S = 60.0
"""How long the worker may take to end after SIGTERM; it is 1 s on an idle machine."""


@dataclass
class Plan:
    """The settings that differ between the simulator and real logs."""

    source: str
    overrides: tuple[str, ...]
    title: str


def _plan(data: Path | None, mapping: str, seed: int) -> Plan:
    common = (f"model.seed={seed}", "topics.partitions=4")
    if data is None:
        return Plan(
            SIMULATOR.format(seed=seed),
            (*common, 'tpm.month="30d"', 'tpm.month_origin="2026-01-01"', 'schedule.release_every="2d"'),
            "simulator",
        )
    return Plan(
        EBNERD.format(data=data, mapping=mapping),
        (
            *common,
            'tpm.month="7d"',
            'tpm.month_origin="2023-04-27"',
            'schedule.release_every="2d"',
            "model.natural_batch=256",
        ),
        f"EB-NeRD, mapping {mapping} (a proxy: paid or in-article content, not advertising)",
    )


def run_demo(
    out: Console,
    folder: Path,
    *,
    data: Path | None = None,
    mapping: str = "A",
    seed: int = 0,
    brokers: str | None = None,
    overrides: Sequence[str] = (),
    prefix: str | None = None,
    keep_topics: bool = False,
) -> int:
    """Run the demo, and write ``summary.json`` and the report to ``folder``.

    1. Start the embedded broker, or check that ``brokers`` have none of the topics; create the topics.
    2. Train TPM on months of natural history, and write its snapshots to RocksDB.
    3. Produce the live month to both topics while a worker trains on it.
    4. Kill the worker with signal 9 in between, and start it again.
    5. When every row is learned, stop the worker, and audit its journal against the log.
    6. Replay the journal from the log (bit for bit), and replay the log offline.
    7. Delete the topics, unless the broker was started here.

    What an earlier demo wrote to ``folder`` is removed first; nothing else is.

    For ``brokers``, ``overrides``, ``prefix`` and ``keep_topics`` see :func:`~ecdctr.commands.demo_cluster.demo_cluster`.

    Returns
    -------
    int
        0 if no row was lost or counted twice and the rebuilt model is identical, else 1.
    """
    with OutputFolder(folder, "ecdctr demo").hold(_FILES, _written_before):
        _remove_old(folder)
        return _run(out, folder, data, mapping, seed, brokers, overrides, prefix, keep_topics=keep_topics)


def _written_before(path: Path) -> bool:
    """Whether a demo of an earlier version, which recorded nothing in the folder, wrote it: the summary is beside it."""
    try:
        summary = json.loads((path.parent / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and {"produced", "kills", "identical"} <= set(summary)


def _remove_old(folder: Path) -> None:
    """Remove what an earlier demo wrote, unless a worker uses its state."""
    state = folder / "state"
    if state.is_dir():
        with FolderLock(state, way_out="or choose another folder with --out"):
            shutil.rmtree(state)
    shutil.rmtree(folder / "offline", ignore_errors=True)
    for name in _FILES:
        path = folder / name
        if path.is_file():
            path.unlink()


def _run(
    out: Console,
    folder: Path,
    data: Path | None,
    mapping: str,
    seed: int,
    brokers: str | None,
    overrides: Sequence[str],
    prefix: str | None,
    *,
    keep_topics: bool,
) -> int:
    began = time.monotonic()
    plan = _plan(data, mapping, seed)
    title = Text.assemble(("E-CDCTR demo", "bold"), f" on {plan.title}; all of its files are in {folder}/")
    out.print(title)
    with demo_cluster(folder, brokers, overrides, prefix, keep_topics=keep_topics) as cluster:
        loaded, config = _configure(folder, plan, cluster)
        settings = loaded.settings
        out.print(f"1  {cluster.title}, configuration in {config}")
        out.print("2  TPM on long-term natural clicks: one frozen snapshot a month")
        train_tpm(out, Console(stderr=True, markup=False), loaded, plan.source)
        out.print("3  producing the live month to both topics; a worker trains on it")
        run = _LiveRun(out, folder, config, settings)
        produced = run.train(plan.source)
        out.print("4  comparing the worker's journal with the log, and replaying the log offline")
        summary = _summarise(out, folder, loaded, plan, produced, run)
    summary["seconds"] = round(time.monotonic() - began, 1)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _print_table(out, summary, folder)
    ok = summary["lost"] == summary["doubled"] == 0 and summary["identical"]
    return 0 if ok else 1


def _configure(folder: Path, plan: Plan, cluster: DemoCluster) -> tuple[Loaded, Path]:
    """Write the demo's configuration file, and load it."""
    overrides = [
        *plan.overrides,
        *cluster.overrides,
        f'state.folder="{folder / "state"}"',
        "state.checkpoint_every_s=5",
        "monitor.port=0",
    ]
    _, settings = open_with_features(plan.source, load_settings(None, overrides, environ={}))
    config = folder / "ecdctr.toml"
    config.write_text(dump_toml(settings), encoding="utf-8")
    return load_settings(config, environ={}), config


class _LiveRun:
    """Producer and worker as separate processes, as in production."""

    def __init__(self, out: Console, folder: Path, config: Path, settings: Settings) -> None:
        self.out, self.folder, self.config, self.settings = out, folder, config, settings
        self.kills = 0
        self.seconds = 0.0
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("ECDCTR_")}

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "ecdctr", *arguments, "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def train(self, source: str) -> int:
        """Produce and train until every row of the log is learned; return the number of rows in the log."""
        producer = self._start("producer", "produce", source)
        worker = self._start("worker", "worker")
        began = time.monotonic()
        try:
            total = open_with_features(source, load_settings(self.config, environ={}))[0].count() or 0
            self._wait(lambda: self.trained() >= 0.45 * total, worker, "train the first half")
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            self.kills += 1
            self.out.print(f"   kill -9 after {self.trained():,} rows; the worker starts again")
            worker = self._start("worker", "worker")
            if self._exit_code(producer, "producer", TIMEOUT_S) != 0:
                raise StreamError(f"the producer failed: see {self.folder / 'producer.log'}")
            ends = self._ends()
            produced = sum(ends.values())
            self._wait(lambda: self.trained() >= produced, worker, "train the rest")
            self.seconds = time.monotonic() - began
            worker.send_signal(signal.SIGTERM)
            code = self._exit_code(worker, "worker", END_S)
            if code != 0:
                raise StreamError(f"the worker ended with exit code {code}: see {self.folder / 'worker.log'}")
        finally:
            for process in (producer, worker):
                if process.poll() is None:
                    process.kill()
                    process.wait()
        return produced

    def _exit_code(self, process: subprocess.Popen[bytes], name: str, within_s: float) -> int:
        try:
            return process.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            raise StreamError(
                f"the {name} did not end in {within_s:.0f} s: see {self.folder / f'{name}.log'}"
            ) from None

    def trained(self) -> int:
        """Rows that the journal contains."""
        positions = Positions()
        folder = factory.Folders(self.settings.state.folder).journal
        if not folder.is_dir():
            return 0
        for entry in Journal(folder, read_only=True).entries():
            positions.advance(entry.parts)
        return sum(positions.values())

    def _ends(self) -> dict[tuple[str, int], int]:
        with factory.kafka_log(self.settings, factory.decoder(self.settings)) as log:
            return log.end(log.partitions())

    def _wait(self, done: Any, worker: subprocess.Popen[bytes], what: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not done():
            if worker.poll() is not None:
                raise StreamError(
                    f"the worker ended (exit code {worker.returncode}) before it could {what}: see {self.folder / 'worker.log'}"
                )
            if time.monotonic() > deadline:
                raise StreamError(
                    f"the worker did not {what} in {TIMEOUT_S:.0f} s: see {self.folder / 'worker.log'}"
                )
            time.sleep(0.25)


def _summarise(
    out: Console, folder: Path, loaded: Loaded, plan: Plan, produced: int, run: _LiveRun
) -> dict[str, Any]:
    settings = loaded.settings
    folders = factory.Folders(settings.state.folder)
    with factory.kafka_log(settings, factory.decoder(settings)) as log:
        keys = log.partitions()
        ends = log.end(keys)
    logging.getLogger("ecdctr.engine").setLevel(logging.WARNING)  # the worker has logged each release already
    lost, doubled = audit(Journal(folders.journal, read_only=True).entries(), ends)
    rebuilt = rebuild(Console(stderr=True, markup=False), settings)
    out.print(f"   journal replayed from the log: {rebuilt.verdict}", soft_wrap=True)
    scores = ScoreLog(folders.scores, read_only=True)
    live = evaluate(scores, scores.arms)
    again = evaluate(rebuilt.engine.scores, scores.arms)
    offline = replay_source(
        out, Console(stderr=True, markup=False), loaded, "kafka", folder / "offline", quiet=True
    )
    meta: ReportMeta = {
        "source": plan.title,
        "rows": produced,
        "seconds": round(run.seconds, 1),
        "rows_per_s": round(produced / run.seconds),
        "releases": rebuilt.release_clocks,
        "settings": dump_toml(settings),
    }
    report = write_report(folder, f"E-CDCTR on {plan.title}", live, meta)
    ads = live["totals"]["ad"]
    return {
        "produced": produced,
        "trained": rebuilt.trained,
        "lost": lost,
        "doubled": doubled,
        "dead_letters": produced - rebuilt.trained,
        "kills": run.kills,
        "releases": len(rebuilt.release_clocks),
        "seconds": 0.0,
        "rows_per_s": round(produced / run.seconds),
        "gauc": {
            "ads_only": ads["ads_only"]["gauc"],
            "actr": ads["actr"]["gauc"],
            "oracle": ads["oracle"]["gauc"] if "oracle" in ads else None,
            "actr_replayed": again["totals"]["ad"]["actr"]["gauc"],
            "actr_offline": offline.result["totals"]["ad"]["actr"]["gauc"],
        },
        "coverage": {
            "users": ads["actr"]["user_coverage"],
            "impressions": ads["actr"]["impression_coverage"],
        },
        "identical": rebuilt.identical,
        "report": str(report),
    }


def _print_table(out: Console, summary: dict[str, Any], folder: Path) -> None:
    table = Table(
        title="E-CDCTR, end to end", title_justify="left", show_header=False, box=None, pad_edge=False
    )
    gauc = summary["gauc"]
    rows: Sequence[tuple[str, str]] = (
        ("rows produced", f"{summary['produced']:,}"),
        ("rows trained", f"{summary['trained']:,}"),
        ("rows lost", f"{summary['lost']:,}"),
        ("rows counted twice", f"{summary['doubled']:,}"),
        ("dead letters", f"{summary['dead_letters']:,}"),
        ("worker kills (SIGKILL)", f"{summary['kills']}"),
        ("CPM releases", f"{summary['releases']}"),
        ("rows per second", f"{summary['rows_per_s']:,} (kill and restart included)"),
        ("GAUC ads-only", _figure(gauc["ads_only"])),
        ("GAUC served, live", _figure(gauc["actr"])),
        (
            "GAUC served, journal replayed",
            f"{_figure(gauc['actr_replayed'])} ({'identical' if summary['identical'] else 'DIFFERS'})",
        ),
        ("GAUC served, topics replayed", _figure(gauc["actr_offline"])),
        ("GAUC of the true probabilities", _figure(gauc["oracle"])),
        (
            "GAUC coverage",
            f"{summary['coverage']['users']:.1%} of users, {summary['coverage']['impressions']:.1%} of ad impressions",
        ),
        ("seconds", f"{summary['seconds']:.0f}"),
        ("report", str(summary["report"])),
        ("summary", str(folder / "summary.json")),
    )
    for name, value in rows:
        table.add_row(name, value)
    out.print(table)


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6f}"
