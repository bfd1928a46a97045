"""A running worker observed from outside: its page, Prometheus, health, and an alert that reaches its topic."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import pytest

pytestmark = [pytest.mark.broker, pytest.mark.slow]

RULE = 'monitor.watch.rules=[{name = "any-click", metric = "ctr", window = "1h", domain = "ad", above = 0.0, min_rows = 50}]'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port: int, path: str) -> tuple[int, bytes]:
    """Status (0: no connection) and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.read()
    except OSError:
        return 0, b""


def test_a_worker_shows_what_it_does(kit, broker, tmp_path):
    port = free_port()
    site = kit.Site(tmp_path, broker.address, f"monitor.port={port}", "monitor.alerts_topic=said", RULE)
    try:
        site.produce(2000)
        site.send(site.settings.topics.ad, [b"no json", b'{"label": 7}'])
        worker = site.start()
        site.wait(lambda: ask(port, "/readyz")[0] == 200, "be ready", worker)
        site.train(2002, worker)

        def shown() -> dict:
            return json.loads(ask(port, "/api/snapshot")[1])

        site.wait(lambda: sum(shown()["worker"]["rows"].values()) == 2000, "show every row", worker)
        site.wait(
            lambda: sum(shown()["live"].get("dead/json", [0])[-1:]) == 1, "show the dead letter", worker
        )
        snapshot = shown()
        assert snapshot["worker"]["rows"] == {"natural": 1500, "ad": 500}
        assert snapshot["worker"]["healthy"] and snapshot["worker"]["phase"] == "live"
        assert snapshot["worker"]["releases"] >= 1
        assert sum(snapshot["series"]["1h"]["ad"]["rows"]) == 500
        assert {mark["kind"] for mark in snapshot["marks"]} == {"release"}
        assert json.loads(ask(port, "/healthz")[1])["lag_records"] == 0
        assert b"dashboard" in ask(port, "/")[1]

        site.wait(lambda: site.says("alert raised")() and site.read("said"), "send the alert", worker)
        (record,) = site.read("said")
        alert = json.loads(record.value)
        assert (alert["rule"], alert["status"]) == ("any-click", "raised")
        assert record.key.decode() == alert["key"]

        if shutil.which("prometheus"):
            assert scraped(site, worker, port, tmp_path) == {"natural": "1500", "ad": "500"}

        site.kill(worker)
        site.produce(400, first=2000)
        worker = site.start()
        site.train(2402, worker)
        site.wait(
            lambda: ask(port, "/readyz")[0] == 200 and sum(shown()["series"]["1h"]["ad"]["rows"]) == 600,
            "know of the rows before kill -9", worker,
        )  # fmt: skip
        assert [a["raised_ms"] for a in shown()["alerts"]["raised"]] == [alert["raised_ms"]]
        assert {mark["kind"] for mark in shown()["marks"]} == {"release"}
        assert len(site.read("said")) == 1
        assert site.terminate(worker)[0] == 0
        assert ask(port, "/healthz")[0] == 0
        assert "the monitor has failed" not in site.log()
    finally:
        site.end()


def scraped(site, worker, port: int, folder) -> dict[str, str]:
    """Rows by domain, as Prometheus has them."""
    own = free_port()
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: ecdctr, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    )
    prometheus = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder}/tsdb",
            f"--web.listen-address=127.0.0.1:{own}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    query = "/api/v1/query?" + urllib.parse.urlencode({"query": "ecdctr_rows_trained_total"})

    def found() -> list:
        status, body = ask(own, query)
        return json.loads(body)["data"]["result"] if status == 200 else []

    try:
        site.wait(found, "be scraped", worker)
        return {r["metric"]["domain"]: r["value"][1] for r in found()}
    finally:
        prometheus.terminate()
        prometheus.wait(20)
