"""A running worker observed from outside: its page, Prometheus, health, and an alert that reaches its topic."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import pytest

from ecdctr.streams.embedded import free_port
from tests.support.sites import Site
from tests.support.waiting import PATIENCE_S

pytestmark = [pytest.mark.broker, pytest.mark.slow]

RULE = 'monitor.watch.rules=[{name = "any-click", metric = "ctr", window = "1h", domain = "ad", above = 0.0, min_rows = 50}]'


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


def test_a_worker_reports_its_state(broker, tmp_path):
    port = free_port()
    site = Site(tmp_path, broker, f"monitor.port={port}", "monitor.alerts_topic=alerts", RULE)
    try:
        site.produce(2000)
        site.send(site.settings.topics.ad, [b"no json", b'{"label": 7}'])
        worker = site.start()
        site.wait(lambda: ask(port, "/readyz")[0] == 200, "be ready", worker)
        site.train(2002, worker)

        def document() -> dict:
            """The document; {} while the server does not answer."""
            return json.loads(ask(port, "/api/snapshot")[1] or b"{}")

        def facts() -> dict:
            if not (snapshot := document()):
                return {}
            worker = snapshot["worker"]
            return {
                "rows": worker["rows"],
                "dead letters": sum(snapshot["live"].get("dead/json", [0])[-1:]),
                "healthy": worker["healthy"],
                "phase": worker["phase"],
                "released": worker["releases"] >= 1,
                "ads of the hours": sum(snapshot["series"]["1h"]["ad"]["rows"]),
                "marks": {mark["kind"] for mark in snapshot["marks"]},
            }

        expected = {
            "rows": {"natural": 1500, "ad": 500},
            "dead letters": 1,
            "healthy": True,
            "phase": "live",
            "released": True,
            "ads of the hours": 500,
            "marks": {"release"},
        }
        # Its parts are brought up to date one after another, and on a busy machine some of them half a minute later.
        site.wait_until_equal(facts, expected, "show every row, the dead letter and the releases", worker)
        site.wait(
            lambda: json.loads(ask(port, "/healthz")[1] or b"{}").get("lag_records") == 0, "catch up", worker
        )
        assert b"dashboard" in ask(port, "/")[1]

        site.wait(lambda: site.says("alert raised")() and site.read("alerts"), "send the alert", worker)
        (record,) = site.read("alerts")
        alert = json.loads(record.value)
        assert (alert["rule"], alert["status"]) == ("any-click", "raised")
        assert record.key.decode() == alert["key"]

        if shutil.which("prometheus"):
            assert scraped(site, worker, port, tmp_path) == {"natural": "1500", "ad": "500"}

        site.kill(worker)
        site.produce(400, first=2000)
        worker = site.start()
        site.train(2402, worker)

        def facts_of_before() -> dict:
            if ask(port, "/readyz")[0] != 200 or not (snapshot := document()):
                return {}
            return {
                "ads of the hours": sum(snapshot["series"]["1h"]["ad"]["rows"]),
                "raised": [a["raised_ms"] for a in snapshot["alerts"]["raised"]],
                "marks": {mark["kind"] for mark in snapshot["marks"]},
            }

        expected = {"ads of the hours": 600, "raised": [alert["raised_ms"]], "marks": {"release"}}
        site.wait_until_equal(
            facts_of_before, expected, "show the rows and the alert from before kill -9", worker
        )
        assert len(site.read("alerts")) == 1
        assert site.terminate(worker)[0] == 0
        assert ask(port, "/healthz")[0] == 0
        assert "the monitor has failed" not in site.log()
    finally:
        site.end()


def scraped(site, worker, port: int, folder) -> dict[str, str]:
    """Rows by domain in Prometheus."""
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

    def found() -> dict[str, str]:
        status, body = ask(own, query)
        series = json.loads(body)["data"]["result"] if status == 200 else []
        return {s["metric"]["domain"]: s["value"][1] for s in series}

    expected = {"natural": "1500", "ad": "500"}
    try:
        return site.wait(lambda: found() == expected and expected, "be scraped", worker)
    finally:
        prometheus.terminate()
        prometheus.wait(PATIENCE_S)
