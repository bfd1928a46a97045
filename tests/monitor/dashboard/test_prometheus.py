"""Prometheus scrapes a running server, promtool accepts names and rules, and all queried metrics exist."""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ecdctr.monitor.dashboard import Reason
from ecdctr.streams.embedded import free_port
from tests.support.waiting import PATIENCE_S, wait_for

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here: `apt-get install prometheus` lets this test run")
    return found


def lively(make_site, fake_monitor):
    """A site in which every metric has a value."""
    site = make_site(fake_monitor, refresh_s=0.05)
    dashboard = site.dashboard
    dashboard.health.enter("live")
    now = time.time() * 1000
    for kind in ("natural", "ad"):
        dashboard.stepped(kind, np.full(10, now - 3000), rows=10, wall=now / 1000)
        dashboard.metrics.steps.labels(kind).inc()
        dashboard.metrics.step_seconds.labels(kind).observe(0.02)
    dashboard.stepped("ad", np.full(4, now), rows=0, wall=now / 1000)
    fake_monitor.alert()
    dashboard.tick(event_clock_ms=1_000, lag={"ad-clicks": 3}, dead_letters={"json": 2})
    dashboard.metrics.alert_deliveries.labels("topic", "sent").inc()
    return site


def test_promtool_accepts_the_metric_names(make_site, fake_monitor):
    text = lively(make_site, fake_monitor).get("/metrics")[2]
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == b""


def test_promtool_accepts_configuration_and_rules():
    tool = program("promtool")
    for what, file in (("config", "prometheus.yml"), ("rules", "alerts.yml")):
        done = subprocess.run(
            [tool, "check", what, str(DEPLOY / file)], capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> dict[str, list[str]]:
    """Every PromQL expression under deploy/, by file."""
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    board = json.loads((DEPLOY / "grafana/dashboards/ecdctr.json").read_text())
    shown = [t["expr"] for p in board["panels"] for t in p.get("targets", ())]
    shown += [a["expr"] for a in board["annotations"]["list"]]
    shown += [v["query"]["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    return {"alerts.yml": [r["expr"] for g in rules["groups"] for r in g["rules"]], "dashboard": shown}


@pytest.mark.parametrize("file", ["alerts.yml", "dashboard"])
def test_every_metric_that_is_queried_exists_with_its_labels(make_site, fake_monitor, file):
    text = lively(make_site, fake_monitor).get("/metrics")[2].decode()
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    asked = 0
    for expression in expressions()[file]:
        for name, chosen in re.findall(r"\b(ecdctr_\w+)(?:\{([^}]*)\})?", expression):
            assert name in labels, f"{name} in {expression}"
            keys = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", chosen or "")) - {"instance", "job"}
            assert keys <= labels[name], f"{name} has no label {keys - labels[name]}"
            asked += 1
    assert asked >= 9


def matched_reasons(expression: str) -> set[str]:
    """The reasons that the selector of ``ecdctr_health`` in an expression matches, as PromQL matches labels."""
    selector = re.search(r'ecdctr_health\{[^}]*reason(=~|!~)"([^"]*)"', expression)
    assert selector is not None
    return {r.value for r in Reason if bool(re.fullmatch(selector[2], r.value)) == (selector[1] == "=~")}


def test_every_reason_that_needs_attention_is_an_alert_and_shown():
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    found = {r["alert"]: r["expr"] for g in rules["groups"] for r in g["rules"]}
    needs_attention = {r.value for r in Reason if r.rank < Reason.STOPPING.rank}
    assert matched_reasons(found["EcdctrReason"]) == needs_attention
    (panel,) = [e for e in expressions()["dashboard"] if "ecdctr_health{" in e]
    assert needs_attention <= matched_reasons(panel)
    # Every reason that is written out exists, and an alert that wakes somebody is never one of what passes by itself.
    urgent = matched_reasons(found["EcdctrWaitsForSomeone"])
    assert len(urgent) == found["EcdctrWaitsForSomeone"].count("|") + 1
    assert urgent <= needs_attention - {"waiting_for_broker", "partition_without_leader", "stalled"}
    assert "damaged_records" in urgent


def test_the_panels_of_the_dashboard_do_not_overlap():
    board = json.loads((DEPLOY / "grafana/dashboards/ecdctr.json").read_text())
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_gauges_and_counters_have_the_right_values(make_site, fake_monitor):
    text = lively(make_site, fake_monitor).get("/metrics")[2].decode()
    values = {
        (s.name, *sorted(s.labels.items())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    assert values["ecdctr_rows_trained_total", ("domain", "ad")] == 10
    assert values["ecdctr_rows_rolled_back_total",] == 4
    assert values["ecdctr_dead_letters_total", ("reason", "json")] == 2
    assert values["ecdctr_lag_records", ("topic", "ad-clicks")] == 3
    assert values["ecdctr_window_gauc", ("arm", "actr"), ("domain", "ad"), ("window", "1h")] == 0.68
    assert values["ecdctr_drift_psi", ("domain", "both"), ("name", "category"), ("what", "feature")] == 0.41
    assert values["ecdctr_transfer_gauc_gain_low",] == 0.02
    assert values["ecdctr_alerts_raised", ("rule", "miscalibrated-high"), ("severity", "critical")] == 1
    assert values["ecdctr_freshness_seconds_bucket", ("domain", "ad"), ("le", "2.5")] == 0
    assert values["ecdctr_freshness_seconds_bucket", ("domain", "ad"), ("le", "5.0")] == 10
    assert values["ecdctr_healthy",] == 1 == values["ecdctr_ready",]


def test_prometheus_scrapes_and_evaluates(make_site, fake_monitor, tmp_path):
    binary = program("prometheus")
    site, port = lively(make_site, fake_monitor), free_port()
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "alerts.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{site.port}"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    arguments = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    server = subprocess.Popen(
        [binary, *arguments, f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ask(path: str, **query: str):
        address = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def result(query: str) -> list:
        return wait_for(lambda: (ask("query", query=query) or {}).get("result"), query)

    try:
        found = result("ecdctr_rows_trained_total")
        assert {r["metric"]["domain"]: r["value"][1] for r in found} == {"natural": "10", "ad": "10"}
        assert result("up")[0]["value"][1] == "1"
        assert result('ecdctr_window_pcoc_ratio{window="1h", arm="actr"}')
        fresh = 'histogram_quantile(0.5, ecdctr_freshness_seconds_bucket{domain="ad"})'
        assert 2.5 < float(result(fresh)[0]["value"][1]) <= 5
        # The worker's own alert is Prometheus' alert too; nothing else is.
        raised = wait_for(
            lambda: [a for a in (ask("alerts") or {}).get("alerts", ()) if a["state"] == "firing"]
        )
        assert {a["labels"]["alertname"] for a in raised} == {"EcdctrRaised"}
    finally:
        server.terminate()
        server.wait(PATIENCE_S)
